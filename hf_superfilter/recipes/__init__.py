"""A run written down in YAML: recipes of the package, and how to change one."""
