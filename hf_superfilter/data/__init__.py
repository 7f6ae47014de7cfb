"""Read rows of any common shape, format them as prompt and response, read columns."""
