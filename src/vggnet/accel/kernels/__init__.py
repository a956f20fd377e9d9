"""Compiled kernels (numba, LLVM)."""
