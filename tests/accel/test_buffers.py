"""Memory: how freed memory is kept, and that nothing happens to a process before the engine is used."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from vggnet.accel import conv3x3
from vggnet.accel.api import accelerate

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

model = accelerate(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1)))
before = [faults() for _ in range(4)]  # the first ones give the heap its shape
model(torch.zeros(1, 3, 8, 8))
after = [faults() for _ in range(4)]
print(before[-1], after[-1])
"""

QUIET = """
import os, sys
import torch
hooks = []
os.register_at_fork = lambda **functions: hooks.append(functions)
from vggnet.accel.api import accelerate
accelerate(torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Linear(2048, 1024)))
print(hooks, "numba" in sys.modules)
"""


def run(script):
    """What the script prints in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    ).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's malloc")
def test_freed_memory_is_kept_from_the_first_convolution_on():
    """Oracle: the kernel's count of pages touched for the first time: those of 5 x 64 MiB before it, none after."""
    before, after = map(int, run(FAULTS).split())
    assert before > 5 * 30  # of 2 MiB each, at least
    assert after < before / 10


def test_accelerating_a_model_touches_the_model_alone():
    """Oracle: the functions registered for forks, and the imported modules: numba is not among them."""
    assert run(QUIET) == "[] False\n"
