"""Select rows: one selector, one file."""
