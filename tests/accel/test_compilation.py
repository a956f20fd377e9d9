"""Machines on which kernels do not compile: PyTorch does the work, and `vgg bench choices` says why."""

import os
import subprocess
import sys

import pytest
from llvmlite.binding import get_host_cpu_features

WORK = """
import copy, os, sys, threading
import torch
import vggnet
from vggnet.accel.autotuning import autotuner
from vggnet.cli.main import main

torch.manual_seed(0)
plain = torch.nn.Sequential(
    torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(),
    torch.nn.Flatten(), torch.nn.Linear(32 * 64, 512),
)
x = torch.randn(4, 3, 16, 16)
plain[8].weight.data.div_(10)
ours, exact = vggnet.accelerate(copy.deepcopy(plain)), plain.double()


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def train_and_infer():
    network, oracle = copy.deepcopy(ours), copy.deepcopy(exact)
    y, expected = network(x), oracle(x.double())
    close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for found, wanted in zip(network.parameters(), oracle.parameters(), strict=True):
        if wanted.grad.abs().max() > 1e-8:  # a bias before batch norm has no gradient
            close(found.grad, wanted.grad)
    with torch.no_grad():
        close(network.eval()(x), oracle.eval()(x.double()))
        close(network[1:3](x.new_ones(2, 32, 4, 4)), oracle[1:3](x.new_ones(2, 32, 4, 4).double()))


with autotuner().fixed({}):
    train_and_infer()
    workers = [threading.Thread(target=train_and_infer) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    names = {name for choice in autotuner().chosen().values() for name in choice["ms"]}
torch.set_num_threads(1)
train_and_infer()
child = os.fork()
if child == 0:
    with torch.no_grad():
        close(ours.eval()(x), exact.eval()(x.double()))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(*sorted(names))
main(["bench", "choices"])
"""
CAUSES = {
    "no numba": ("import sys; sys.modules['numba'] = None", "numba cannot be used (import of numba halted"),
    "neither numba nor llvmlite": (
        "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = sys.modules['llvmlite.binding'] = None",
        "LLVM does not say what this CPU can do",
    ),
    "numba does not compile": (
        "import numba\ndef fail(*a, **k): raise TypeError('no such thing')\nnumba.cfunc = fail",
        "numba cannot be used (no such thing)",
    ),
    "no AVX2": (
        "import llvmlite.binding as b; f = b.get_host_cpu_features(); f['avx2'] = f['avx512f'] = False\n"
        "b.get_host_cpu_features = lambda: f",
        "this CPU has no AVX2",
    ),
    "another architecture": (
        "import platform; platform.machine = lambda: 'riscv64'",
        "there are no kernels for CPUs of the kind riscv64",
    ),
}  # fmt: skip


def run(script, tmp_path, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "VGGNET_CONV"}
    environment |= {"VGGNET_CACHE": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "numba"), **variables}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="forks, and names x86-64")
@pytest.mark.parametrize(
    "cause",
    [
        pytest.param(cause, marks=() if cause in ("no numba", "another architecture") else pytest.mark.slow)
        for cause in CAUSES
    ],
)
def test_pytorch_does_the_work(cause, tmp_path):
    """Oracle: the layers in float64: training, inference, threads, one thread, a fork; the reason, by hand."""
    prepare, reason = CAUSES[cause]
    done = run(f"import torch\n{prepare}\n{WORK}", tmp_path)
    names, *_ = done.stdout.splitlines()
    assert set(names.split()) <= {"direct", "direct_nchw", "matmul"}
    assert done.stderr.count("PyTorch computes all convolutions on this machine: ") == 1
    assert reason in done.stderr


@pytest.mark.skipif(not get_host_cpu_features().get("avx2"), reason="the CPU has no AVX2")
def test_a_cpu_without_avx512(tmp_path):
    """Oracle: as above; numba is told to compile for an older CPU, and kernels of 8 lanes are among the choices."""
    kept = [name for name, present in get_host_cpu_features().items() if present]
    kept = [name for name in kept if not name.startswith(("avx512", "avx10", "amx"))]
    variables = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in kept)}
    done = run(f"from vggnet.accel.vectors import VECTORS; assert VECTORS.lanes == 8\n{WORK}", tmp_path, **variables)
    assert {"winograd2", "im2col"} <= set(done.stdout.splitlines()[0].split())
    assert done.stderr == ""
