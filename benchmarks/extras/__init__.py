"""Each extra alone, in an environment of its own."""
