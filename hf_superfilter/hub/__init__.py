"""Publish subsets to the Hub and load them by name."""
