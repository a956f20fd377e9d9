"""Weights files."""
