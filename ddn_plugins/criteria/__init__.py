"""Built-in criteria, one per file."""
