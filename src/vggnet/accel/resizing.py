"""A 2x2 max pool, and enlarging a map by 2 and joining another one, on channels-last memory. Exact.

PyTorch's operators do both one value at a time there in bfloat16, and the gradients of a join are parts of a tensor
that the next layer has to copy. Tests compare with PyTorch's operators.
"""

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.accel.autotuning import DIRECT
from vggnet.accel.buffers import feature_maps, keep_freed_memory
from vggnet.accel.compilation import problem
from vggnet.accel.dispatch import channels_last, is_recorded, is_traced, is_wrapped
from vggnet.accel.startup import startup


def max_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H/2, W/2): the largest of each 2x2 window. H and W are even. Gradients can be taken once.

    Of equal values the first one gets the gradient, as in PyTorch.
    """
    if not _has_kernels(x):
        return F.max_pool2d(x, 2)
    keep_freed_memory()
    y: Tensor = _MaxPool.apply(x)
    return y


def enlarge_and_join(small: Tensor, large: Tensor) -> Tensor:
    """(N, C, H, W) and (N, K, 2 H, 2 W) -> (N, C + K, 2 H, 2 W): each cell of small four times, and then large.

    Gradients can be taken once. Those of a cell are added in float32.
    """
    if not _has_kernels(small, large):
        return torch.cat([F.interpolate(small, scale_factor=2.0, mode="nearest"), large], 1)
    keep_freed_memory()
    joined: Tensor = _Join.apply(small, large)
    return joined


def _has_kernels(*maps: Tensor) -> bool:
    """Whether there are kernels for these maps. Outside of training they are used once they pay, see `startup`."""
    return (
        not is_traced()
        and all(map(_is_plain, maps))
        and len({x.dtype for x in maps}) == 1
        and os.environ.get("VGGNET_CONV") != DIRECT
        and (any(map(is_recorded, maps)) or startup().pays())
        and not problem()
    )


def _is_plain(x: Tensor) -> bool:
    """Whether x is float32 or bfloat16 in channels-last memory of the CPU."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and not is_wrapped(x)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        from vggnet.accel.kernels.resizing_kernels import for_type  # imports numba

        n, channels, height, width = x.shape
        y = feature_maps(n, channels, height // 2, width // 2, dtype=x.dtype)
        for_type(x.itemsize).pool(**_pixels(y, channels), channels=channels, large=x, small=y)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        from vggnet.accel.kernels.resizing_kernels import for_type

        (x,) = ctx.saved_tensors
        grad, dx = channels_last(grad), feature_maps(*x.shape, dtype=x.dtype)
        channels = x.shape[1]
        for_type(x.itemsize).pool_gradient(**_pixels(grad, channels), channels=channels, large=x, small=grad, grad=dx)
        return dx


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, small: Tensor, large: Tensor) -> Tensor:
        from vggnet.accel.kernels.resizing_kernels import for_type  # imports numba

        (n, channels, height, width), more = small.shape, large.shape[1]
        joined = feature_maps(n, channels + more, 2 * height, 2 * width, dtype=small.dtype)
        for_type(small.itemsize).join(
            **_pixels(small, channels + more), channels=channels, more_channels=more, small=small, large=large,
            joined=joined,
        )  # fmt: skip
        ctx.channels = channels
        return joined

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        from vggnet.accel.kernels.resizing_kernels import for_type

        grad = channels_last(grad)
        n, both, height, width = grad.shape
        small = feature_maps(n, ctx.channels, height // 2, width // 2, dtype=grad.dtype)
        large = feature_maps(n, both - ctx.channels, height, width, dtype=grad.dtype)
        for_type(grad.itemsize).join_gradient(
            **_pixels(small, both), channels=ctx.channels, more_channels=both - ctx.channels, small=small, large=large,
            joined=grad,
        )  # fmt: skip
        return small, large


def _pixels(small: Tensor, channels: int) -> dict[str, int]:
    """The pixels of the smaller map, and how they are divided among threads."""
    from vggnet.accel.batch_norm import num_blocks  # imports numba

    rows, width = small.numel() // small.shape[1], small.shape[3]
    return {"blocks": num_blocks(4 * rows, channels), "rows": rows, "width": width}
