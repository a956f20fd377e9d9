"""Where tensors live, and on what hardware."""

import os
import platform
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vggnet.errors import ConfigError, one_line


def choose_device(name: str | None = None) -> torch.device:
    """The device asked for, else a GPU if there is one.  Raises: ConfigError for a device that cannot be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # PyTorch's answers to an unknown device and to one not built in
        raise ConfigError(f'device {name!r} cannot be used ({one_line(error)}); try "cpu".') from error


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, for every number that is stored."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "vggnet": version("vggnet"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": f"{datetime.now():%Y-%m-%d}",
    }


def _cpu_name() -> str:
    """Its name, and its kind in brackets: virtual machines call CPUs of several generations the same."""
    from llvmlite.binding import get_host_cpu_name

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
    return f"{name} ({get_host_cpu_name()})"
