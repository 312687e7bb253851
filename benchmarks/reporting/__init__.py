"""Outputs of the benchmark: tables, targets, pictures, JSON, Markdown and a page for the documentation."""
