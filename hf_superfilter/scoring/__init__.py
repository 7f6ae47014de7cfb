"""Hold one scorer a file.

A scorer's file holds its formula and nothing about devices, ranks, files or YAML.
"""
