"""Trained networks for other libraries: each file is run by that library, and compared, before it is kept."""
