"""Each distinct convolution of the VGGs alone, at several image sizes: ours against PyTorch's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.accel.algorithm import Precision
from vggnet.accel.buffers import keep_freed_memory
from vggnet.accel.dispatch import conv3x3
from vggnet.accel.precision import products_in
from vggnet.benchmarking.accuracy import errors_of
from vggnet.benchmarking.timing import CHANNELS_LAST, NCHW, OURS, cpu_environment, has_tiles, in_turns
from vggnet.models.table1 import layers
from vggnet.progress import Progress, report_progress

BATCHES = {32: 128, 64: 32, 224: 4}  # size of the images, pixels -> images at a time
COLUMNS = ("A", "B", "D", "E")


@dataclass(frozen=True, kw_only=True)
class ShapesBench:
    """Milliseconds of each pass of each shape in each precision, and errors as `accuracy.relative_error` has them."""

    rows: list[
        dict[str, Any]
    ]  # "pass", "shape", "precision", "ms" and "errors": {way: ...}, "ratio": to PyTorch's faster way
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
        "float32": {
            OURS: _passes(conv3x3, *last),
            NCHW: _passes(_stock, *nchw),
            CHANNELS_LAST: _passes(_stock, *last),
        }
    }
    if has_tiles():
        halves = _copies(last, torch.bfloat16)  # as autocast gives them to a layer
        passes["bfloat16"] = {
            OURS: _passes(conv3x3, *last, precision="bfloat16"),
            CHANNELS_LAST: _passes(_stock, *halves),
        }
    exact = _passes(_stock, *_copies(last, torch.float64))
    rows = []
    for index, work in enumerate(("forward", "backward")):
        wanted = cache(exact[index])
        for precision, ways in passes.items():
            runs = {name: pair[index] for name, pair in ways.items()}
            errors = errors_of(runs, wanted)
            ms = {name: 1e3 * median(values) for name, values in in_turns(runs, rounds).items()}
            rows.append({
                "pass": work, "shape": f"{batch} x {side}x{side} {in_channels}->{out_channels}",
                "precision": precision, "ms": ms, "errors": errors,
                "ratio": min(value for name, value in ms.items() if name != OURS) / ms[OURS],
            })  # fmt: skip
    return rows


def _copies(tensors: tuple[Tensor, ...], kind: torch.dtype) -> tuple[Tensor, ...]:
    """Of another type, which need a gradient if the originals do."""
    return tuple(tensor.detach().to(kind).requires_grad_(tensor.requires_grad) for tensor in tensors)


def _laid_out(
    x: Tensor, weight: Tensor, grad: Tensor, memory_format: torch.memory_format
) -> tuple[Tensor, Tensor, Tensor]:
    """As inside a network: the first layer's input needs no gradient."""
    given, kernels, gradient = (tensor.contiguous(memory_format=memory_format) for tensor in (x, weight, grad))
    return given.requires_grad_(x.shape[1] > 3), kernels.requires_grad_(), gradient


def _stock(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


def _passes(
    convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, grad: Tensor,
    *, precision: Precision = "float32",
) -> tuple[Callable[[], Any], Callable[[], Any]]:  # fmt: skip
    """Forward and backward, where our products may be in this precision."""
    allowing = products_in(precision)
    output = allowing(convolve)(x, weight)
    wanted = [tensor for tensor in (x, weight) if tensor.requires_grad]
    backward = partial(torch.autograd.grad, output, wanted, grad, retain_graph=True)
    return allowing(partial(convolve, x, weight)), allowing(backward)
