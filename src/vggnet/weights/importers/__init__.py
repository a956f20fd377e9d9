"""Weights of other libraries: one file per format."""
