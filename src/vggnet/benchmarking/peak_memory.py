"""Peak memory of a function, measured in a process of its own."""

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def peak_bytes(work: Callable[..., object], *arguments: Any) -> int:
    """Peak memory of `work(*arguments)` in a fresh process, beyond what that process held before.

    `work` must be a function of a module.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_grown, work, arguments).result()


def _grown(work: Callable[..., object], arguments: tuple[Any, ...]) -> int:
    before = _peak()
    work(*arguments)
    return _peak() - before


def _peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose getrusage counts what the parent held when it started this process
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes
