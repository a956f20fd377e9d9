"""Kernels on PyTorch's own threads.

Two thread pools on the same cores fight: a waiting OpenMP thread spins for milliseconds where the other pool's thread
should work. So kernels are handed to the OpenMP library that PyTorch has loaded, as PyTorch's own operators are.
Where PyTorch brings another library, a pool of ours does it.
"""

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_forked = False


def num_threads() -> int:
    """PyTorch's number; 1 in a process that was forked, where OpenMP's threads do not exist."""
    return 1 if _forked else torch.get_num_threads()


def floats(*shape: int) -> torch.Tensor:
    """Memory for the kernels, whatever PyTorch's default type and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def maps(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    """The same as (n, channels, height, width), channels-last. It is no view, so it may be changed in place."""
    shape = (n, channels, height, width)
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)


@cache
def keep_freed_memory() -> None:
    """Tell GNU's malloc to use freed memory again instead of returning it to the system, for the whole process.

    By default it returns every piece above 32 MiB at once, and touching fresh pages costs up to a third of the time of
    the convolution that writes into them. The process then holds on to the most that it ever used.
    """
    mmap_max, trim_threshold = -4, -1
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)


def run(kernel: Any, kind: np.dtype[Any], **fields: torch.Tensor | int) -> None:
    """Call a compiled kernel in every thread with a task of this kind, and wait for all of them.

    fields: of the task; a tensor stands for the address of its memory, and what is not given is 0.
    """
    task = np.zeros((), kind)
    for name, value in fields.items():
        task[name] = value.data_ptr() if isinstance(value, torch.Tensor) else value
    threads, address = num_threads(), task.ctypes.data
    if threads == 1:
        _function(kernel.address)(address)
        return
    openmp = _openmp()
    if openmp is not None:
        openmp.GOMP_parallel(ctypes.c_void_p(kernel.address), ctypes.c_void_p(address), threads, 0)
        return
    others = [_pool(threads - 1).submit(_function(kernel.address), address) for _ in range(threads - 1)]
    _function(kernel.address)(address)
    for other in others:
        other.result()


@cache
def _function(address: int) -> Any:
    return _KERNEL(address)


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


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)
