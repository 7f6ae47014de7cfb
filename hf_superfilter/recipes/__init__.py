"""A run written down in YAML.

Recipes of the package, and how to change one.
"""
