"""The command line: one file for each noun, and `app`, which puts them together."""

from .app import main

__all__ = ["main"]
