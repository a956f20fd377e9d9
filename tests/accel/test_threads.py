"""Kernels on several threads: the same results for any number of them, in forks, and without OpenMP."""

import subprocess
import sys
import threading

import torch

from vggnet.accel import threads
from vggnet.accel.algorithms.winograd import Winograd

WINOGRAD = Winograd(4)


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def passes(x, weight, grad):
    return [
        WINOGRAD.forward(x, weight, None),
        WINOGRAD.grad_input(grad, weight),
        WINOGRAD.grad_weight(grad, x),
    ]


def test_threads_change_no_bit():
    """Oracle: one thread."""
    torch.manual_seed(0)
    x, weight, grad = channels_last(40, 64, 13, 9), channels_last(96, 64, 3, 3), channels_last(40, 96, 13, 9)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = passes(x, weight, grad)
        for count in (2, 3, 2):
            torch.set_num_threads(count)
            for found, expected in zip(passes(x, weight, grad), alone, strict=True):
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_several_python_threads():
    """Oracle: the same calls one after the other."""
    torch.manual_seed(0)
    inputs = [(channels_last(4, 32, 9, 9), torch.randn(32, 32, 3, 3), channels_last(4, 32, 9, 9)) for _ in range(4)]
    expected = [passes(*given) for given in inputs]
    found = [None] * 4

    def work(index):
        for _ in range(5):
            found[index] = passes(*inputs[index])

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


FORKING = """
import os
import select
import signal
import torch
from torch.utils.data import DataLoader, Dataset
from vggnet.accel.algorithms.winograd import Winograd
winograd = Winograd(4)
torch.manual_seed(0)
x = torch.randn(8, 32, 16, 16).contiguous(memory_format=torch.channels_last)
weight = torch.randn(32, 32, 3, 3)
torch.set_num_threads(2)
expected = winograd.forward(x, weight, None)

class Convolved(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return winograd.forward(x, weight, None)

for batch in DataLoader(Convolved(), num_workers=2, multiprocessing_context="fork"):
    assert torch.equal(batch[0], expected)
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, winograd.forward(x, weight, None).numpy().tobytes()[:4096])  # PyTorch's operators would wait
    os._exit(0)
ready, _, _ = select.select([reader], [], [], 60)
os.kill(child, signal.SIGKILL)
assert ready, "the forked process waits"
assert os.read(reader, 4096) == expected.numpy().tobytes()[:4096]
assert torch.equal(winograd.forward(x, weight, None), expected)
print("all agree")
"""


def test_forks_compute_the_same():
    """Oracle: the parent, before and after. OpenMP's threads do not survive a fork; waiting for them never ends."""
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "all agree\n"), done.stderr


def test_without_pytorchs_openmp(monkeypatch):
    """Oracle: the same with it; where PyTorch brings another library, a pool of Python threads does the work."""
    torch.manual_seed(0)
    given = channels_last(8, 32, 16, 16), channels_last(32, 32, 3, 3), channels_last(8, 32, 16, 16)
    expected, before = passes(*given), torch.get_num_threads()
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(one, other) for one, other in zip(passes(*given), expected, strict=True))
    finally:
        torch.set_num_threads(before)
