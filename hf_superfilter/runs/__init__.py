"""Score rows into a folder that survives a kill, with any number of processes."""
