"""Which device is chosen, and what is stored of the hardware."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vggnet.devices import CPU_FLAGS, choose_device, environment, usable_cores
from vggnet.errors import ConfigError


@pytest.mark.parametrize(("cuda", "mps", "expected"), [
    (False, False, "cpu"), (False, True, "mps"), (True, True, "cuda"), (True, False, "cuda"),
])  # fmt: skip
def test_the_default_device(monkeypatch, cuda, mps, expected):
    """Oracle: the documented order; tensors without memory stand for those of the devices, which are not here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    with FakeTensorMode():
        assert choose_device().type == expected
        assert choose_device("cpu").type == "cpu"


def test_a_device_that_is_not_here():
    """Oracle: PyTorch's refusal, in an error of ours."""
    with pytest.raises(ConfigError, match='device "?.mps.? cannot be used'):
        choose_device("mps")


def test_flags_are_those_of_lscpu():
    """Oracle: the kernel's own list."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        pytest.skip("no /proc/cpuinfo")
    words = set(cpuinfo.read_text().split())
    flags = environment(torch.device("cpu"))["device"].rpartition("(")[2].rstrip(")").split()[1:]
    assert flags == [flag for flag in CPU_FLAGS.values() if flag in words]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not limit the cores of a process")
def test_cores_are_those_that_the_process_may_use():
    """Oracle: the limit that was set, as taskset, Slurm and containers set it."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)


def test_hardware_without_llvm():
    """Oracle: the architecture stands for the kind of CPU, and no flags are known."""
    script = (
        "import sys; sys.modules['llvmlite'] = sys.modules['llvmlite.binding'] = None\n"
        "import torch; from vggnet.devices import environment\n"
        "print(environment(torch.device('cpu'))['device'])"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert found.strip().endswith(f"({platform.machine()})")
