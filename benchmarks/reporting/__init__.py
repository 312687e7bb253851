"""Output of the benchmark: tables, targets, figures, JSON, Markdown and a page of the documentation."""
