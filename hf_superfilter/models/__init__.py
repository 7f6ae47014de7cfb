"""Language models and encoders: the only package that imports torch."""
