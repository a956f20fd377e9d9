"""Each distinct convolution of the VGGs alone, at several image sizes: ours against PyTorch's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.accel.buffers import keep_freed_memory
from vggnet.accel.dispatch import conv3x3
from vggnet.benchmarking.accuracy import errors_of
from vggnet.benchmarking.timing import CHANNELS_LAST, NCHW, OURS, cpu_environment, in_turns
from vggnet.models.table1 import layers
from vggnet.progress import Progress, report_progress

BATCHES = {32: 128, 64: 32, 224: 4}  # size of the images, pixels -> images at a time
COLUMNS = ("A", "B", "D", "E")


@dataclass(frozen=True, kw_only=True)
class ShapesBench:
    """Milliseconds of each pass of each shape, in float32, and errors as `accuracy.relative_error` defines them."""

    rows: list[
        dict[str, Any]
    ]  # "pass", "shape", "ms" and "errors": {way: ...}, "ratio": to the faster of PyTorch's formats
    environment: dict[str, Any]

    @property
    def ratio(self) -> float:
        """The smallest of the rows' ratios."""
        ratios: list[float] = [row["ratio"] for row in self.rows]
        return min(ratios)


def bench_shapes(*, rounds: int = 7, progress: Progress = False) -> ShapesBench:
    """Time forward and backward of each distinct 3x3 convolution of VGG-11, 13, 16 and 19 at 32, 64 and 224 pixels.

    Args:
        rounds: passes that are timed for each way.
        progress: see `vggnet.progress.Progress`.
    """
    keep_freed_memory()  # for all ways: fresh pages for every result would cost more than the first layer itself
    jobs = [(batch, *shape) for size, batch in BATCHES.items() for shape in _shapes(size)]
    rows = []
    with report_progress(progress, "measuring", unit="shape") as report:
        for done, (batch, side, channels, outputs) in enumerate(jobs, start=1):
            rows += _rows(batch, side, channels, outputs, rounds)
            report(done, len(jobs))
    return ShapesBench(rows=rows, environment=cpu_environment())


def _shapes(size: int) -> list[tuple[int, int, int]]:
    """(side of the map, input channels, output channels) of every 3x3 convolution, each once."""
    return list(dict.fromkeys(shape for column in COLUMNS for shape in _shapes_of(column, size)))


def _shapes_of(column: str, size: int) -> Iterator[tuple[int, int, int]]:
    channels = 3
    for layer in layers(column):
        if layer.kind == "conv":
            yield size, channels, layer.channels
            channels = layer.channels
        elif layer.kind == "pool":
            size //= 2


def _rows(batch: int, side: int, in_channels: int, out_channels: int, rounds: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    x = torch.randn(batch, in_channels, side, side)
    weight = torch.randn(out_channels, in_channels, 3, 3) / (3 * in_channels**0.5)
    grad = torch.randn(batch, out_channels, side, side)
    last = _laid_out(x, weight, grad, torch.channels_last)  # the same memory for both: where it lies is worth percents
    nchw = _laid_out(x, weight, grad, torch.contiguous_format)
    passes = {
        OURS: _passes(conv3x3, *last),
        NCHW: _passes(_stock, *nchw),
        CHANNELS_LAST: _passes(_stock, *last),
    }
    exact = _passes(_stock, *(tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in last))
    rows = []
    for index, work in enumerate(("forward", "backward")):
        ways = {name: pair[index] for name, pair in passes.items()}
        errors = errors_of(ways, exact[index]())
        seconds = in_turns(ways, rounds)
        ms = {name: 1e3 * median(values) for name, values in seconds.items()}
        shape = f"{batch} x {side}x{side} {in_channels}->{out_channels}"
        ratio = min(ms[NCHW], ms[CHANNELS_LAST]) / ms[OURS]
        rows.append({"pass": work, "shape": shape, "ms": ms, "errors": errors, "ratio": ratio})
    return rows


def _laid_out(
    x: Tensor, weight: Tensor, grad: Tensor, memory_format: torch.memory_format
) -> tuple[Tensor, Tensor, Tensor]:
    """As inside a network: the first layer's input needs no gradient."""
    given, kernels, gradient = (tensor.contiguous(memory_format=memory_format) for tensor in (x, weight, grad))
    return given.requires_grad_(x.shape[1] > 3), kernels.requires_grad_(), gradient


def _stock(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


def _passes(
    convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, grad: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward and backward."""
    output = convolve(x, weight)
    wanted = [tensor for tensor in (x, weight) if tensor.requires_grad]
    return partial(convolve, x, weight), lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True)
