"""Where tensors live, and on what hardware."""

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vggnet.errors import ConfigError, one_line

# What decides about the speed of convolutions, as LLVM calls it -> as lscpu does, from the oldest on.
CPU_FLAGS: Mapping[str, str] = {
    "avx2": "avx2", "avx512f": "avx512f", "avx512bf16": "avx512_bf16", "amx-bf16": "amx_bf16",
    "neon": "asimd", "sve": "sve", "bf16": "bf16",
}  # fmt: skip


def choose_device(name: str | None = None) -> torch.device:
    """The device asked for, else a GPU if there is one: NVIDIA's or AMD's ("cuda"), then Apple's ("mps").

    Raises:
        ConfigError: a device that cannot be used.
    """
    name = name or _default_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # PyTorch's answers to an unknown device and to one not built in
        raise ConfigError(f'device {name!r} cannot be used ({one_line(error)}); try "cpu".') from error


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has under Slurm, taskset, or docker run --cpuset-cpus.

    Example:
        >>> usable_cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, for every number that is stored."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "vggnet": version("vggnet"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "date": f"{datetime.now():%Y-%m-%d}",
    }


@cache
def cpu_kind() -> str:
    """What LLVM calls this CPU, such as "znver3"; without LLVM its architecture."""
    try:
        from llvmlite.binding import get_host_cpu_name
    except Exception:  # not installed, or broken: whatever the loader says
        return platform.machine()
    return str(get_host_cpu_name())


@cache
def cpu_features() -> frozenset[str]:
    """What this CPU can do, by LLVM's names, such as "avx2"; empty where LLVM does not know."""
    try:
        from llvmlite.binding import get_host_cpu_features

        return frozenset(name for name, present in get_host_cpu_features().items() if present)
    except Exception:  # not installed, broken, or (RuntimeError) unable to tell
        return frozenset()


def _default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cpu_name() -> str:
    """Its name; in brackets its kind and flags, as virtual machines call CPUs of several generations the same."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
    flags = [flag for feature, flag in CPU_FLAGS.items() if feature in cpu_features()]
    return f"{name} ({' '.join([cpu_kind(), *flags])})"
