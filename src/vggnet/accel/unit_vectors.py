"""The distance between the unit vectors of two maps at each place, as one operator with a gradient."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.accel.buffers import floats, keep_freed_memory
from vggnet.accel.compilation import problem
from vggnet.accel.dispatch import channels_last
from vggnet.accel.modules import is_plain
from vggnet.accel.startup import startup

EPSILON = 1e-10  # the length of a shorter vector counts as this


def unit_distance(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """At each place, the sum over channels of weight (first / |first| - second / |second|)^2.

    For float32 on a CPU PyTorch's operators read and write the maps about forty times for a value and its gradient;
    this reads them four times and writes once. A vector of zeros stays zero and has no gradient. Gradients can be taken
    once, and only of the maps. On other devices and in other types it is `unit_distance_by_pytorch`.

    Args:
        first: (N, C, H, W); channels-last is faster.
        second: as `first`.
        weight: (C,) of the same type.

    Returns:
        (N, H, W).

    >>> unit_distance(torch.ones(1, 4, 1, 1), -torch.ones(1, 4, 1, 1), torch.ones(4))
    tensor([[[4.]]])
    """
    plain = is_plain(first) and is_plain(second) and not torch.compiler.is_compiling()
    if not plain or not startup().pays() or problem():
        return unit_distance_by_pytorch(first, second, weight)
    keep_freed_memory()
    result: Tensor = _UnitDistance.apply(first, second, weight)
    return result


def unit_distance_by_pytorch(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """The same by PyTorch's operators."""
    difference = F.normalize(first, dim=1, eps=EPSILON) - F.normalize(second, dim=1, eps=EPSILON)
    return difference.square().movedim(1, 3) @ weight


class _UnitDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
        from vggnet.accel.kernels import unit_vector_kernels as kernels  # imports numba

        first, second, weight = channels_last(first), channels_last(second), weight.contiguous()
        n, _, height, width = first.shape
        scales, values = floats(n, height, width, 2), floats(n, height, width)
        kernels.distances(scales=scales, values=values, blocks=_blocks(first), **_places(first, second, weight))
        ctx.save_for_backward(first, second, weight, scales)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        from vggnet.accel.kernels import unit_vector_kernels as kernels

        first, second, weight, scales = ctx.saved_tensors
        for_first, for_second = (torch.empty_like(first) if wanted else None for wanted in ctx.needs_input_grad[:2])
        kernels.gradients(
            scales=scales, values=grad.contiguous(), to_first=0 if for_first is None else for_first,
            to_second=0 if for_second is None else for_second, blocks=_blocks(first), **_places(first, second, weight),
        )  # fmt: skip
        return for_first, for_second, None


def _places(first: Tensor, second: Tensor, weight: Tensor) -> dict[str, Tensor | int]:
    channels = first.shape[1]
    rows = first.numel() // channels
    return {"rows": rows, "channels": channels, "first": first, "second": second, "weight": weight}


def _blocks(first: Tensor) -> int:
    from vggnet.accel.batch_norm import num_blocks

    channels = first.shape[1]
    return num_blocks(first.numel() // channels, channels)
