"""Measure whether weak models rank rows as strong ones do."""
