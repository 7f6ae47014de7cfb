"""One scorer, one file: the formula, and nothing about batches, devices, ranks, files or YAML."""
