"""No kernel uses memory that it has freed."""

import os
import platform
import subprocess
import sys

import pytest

CONVOLVING = """
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_input, conv2d_weight
from vggnet.accel.algorithm import Shape
from vggnet.accel.algorithms.all import ALGORITHMS
from vggnet.accel.weight_cache import FoldedWeights

def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)

torch.manual_seed(0)
for n, c, k, side in ((3, 64, 32, 10), (40, 32, 64, 4), (2, 3, 64, 12)):
    x, grad, conv = channels_last(n, c, side, side), channels_last(n, k, side, side), nn.Conv2d(c, k, 3, padding=1)
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    exact = F.conv2d(x.double(), weight.double(), conv.bias.double(), padding=1).detach()
    expected = {
        "forward": exact,
        "inference": F.max_pool2d(exact.relu(), 2),
        "grad_input": conv2d_input(x.shape, weight.double(), grad.double(), padding=1),
        "grad_weight": conv2d_weight(x.double(), weight.shape, grad.double(), padding=1),
    }
    for algorithm in ALGORITHMS:
        runs = {
            "forward": lambda: algorithm.forward(x, weight, conv.bias.detach()),
            "inference": lambda: algorithm.inference(x, FoldedWeights(conv, None), True, True),
            "grad_input": lambda: algorithm.grad_input(grad, weight),
            "grad_weight": lambda: algorithm.grad_weight(grad, x),
        }
        for work, run in runs.items():
            if algorithm.supports(work, Shape(n, side, side, c, k)):
                with torch.no_grad():
                    error = (run() - expected[work]).abs().max() / expected[work].abs().max()
                assert error < 0.02, (algorithm.name, work, n, c, k, side, error)
print("right")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only GNU's malloc can overwrite freed memory")
def test_freed_memory_is_not_used():
    """Oracle: float64, while malloc overwrites what is freed; an address that is read there crashes the process."""
    overwriting = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.perturb=165", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", CONVOLVING],
        env=overwriting, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
