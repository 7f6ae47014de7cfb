"""One selector, one file: `(table, pool) -> rows`, best first, always a subset of the pool."""
