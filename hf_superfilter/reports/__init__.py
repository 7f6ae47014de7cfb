"""A selection summarised: numbers, plots, text and one HTML page."""
