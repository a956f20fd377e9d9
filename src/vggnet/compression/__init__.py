"""Smaller networks: batch norm and pools folded, channels removed, layers factorized, weights in half precision."""
