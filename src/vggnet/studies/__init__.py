"""Experiments that write tables and plots."""
