"""Built-in dampings, one per file."""
