"""The rank-consistency metric: its script, and the arithmetic that the package uses too."""
