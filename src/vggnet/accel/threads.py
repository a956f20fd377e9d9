"""Compiled functions on PyTorch's own threads.

Two thread pools on the same cores slow each other down: a waiting OpenMP thread spins for milliseconds where a thread
of the other pool should work. So kernels run on the OpenMP library that PyTorch has loaded, as PyTorch's operators do,
and on a pool of Python threads where PyTorch uses another library.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()


def num_threads() -> int:
    """PyTorch's number of threads; 1 in a forked process, where OpenMP's threads do not exist."""
    return torch.get_num_threads() if os.getpid() == _PROCESS else 1


def run_in_threads(address: int, argument: int) -> None:
    """Call the C function at `address` with the address `argument` once in every thread, and wait for all of them."""
    threads = num_threads()
    openmp = _openmp() if threads > 1 else None
    if openmp is not None:
        openmp.GOMP_parallel(ctypes.c_void_p(address), ctypes.c_void_p(argument), threads, 0)
        return
    function = _function(address)
    others = [_pool(threads - 1).submit(function, argument) for _ in range(threads - 1)]
    function(argument)
    for other in others:
        other.result()


@cache
def _function(address: int) -> Any:
    return _FUNCTION(address)


@cache
def _openmp() -> Any:
    """GNU's OpenMP as PyTorch's wheel for Linux brings it, or None."""
    for library in Path(torch.__file__).parent.glob("lib/libgomp*.so*"):
        openmp = ctypes.CDLL(str(library))
        openmp.GOMP_parallel.restype = None
        openmp.GOMP_parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        return openmp
    return None


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="conv3x3")
