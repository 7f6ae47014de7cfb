"""Report a selection: numbers, plots, text and one HTML page."""
