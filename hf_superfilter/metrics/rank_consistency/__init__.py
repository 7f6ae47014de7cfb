"""Compute the rank-consistency metric, in the package and on the Hub."""
