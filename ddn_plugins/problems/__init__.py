"""Built-in problems, one per file."""
