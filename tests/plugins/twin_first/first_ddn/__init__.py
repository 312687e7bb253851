"""Claims the name `twin`."""
