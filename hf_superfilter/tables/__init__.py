"""Make a Dataset, read it in blocks without decoding media, and carry where it is from."""
