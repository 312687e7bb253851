"""What is made of measurements: tables, targets, pictures, JSON, Markdown and a page for the documentation."""
