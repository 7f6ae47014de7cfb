"""Measure whether a weak model ranks rows as a strong one does."""
