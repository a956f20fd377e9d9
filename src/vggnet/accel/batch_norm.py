"""Batch norm, ReLU and 2x2 max pool as one operator on channels-last memory, for training.

PyTorch's three layers read and write every activation about twelve times in a training step; this operator does it
eight times, fewer where it pools, and stores neither the normalized map nor the ReLU's for the backward pass.
With z = x * scale + shift, y is max(z, 0) or the largest value of its 2x2 window. Tests compare with PyTorch's layers.
Activations in bfloat16 halve that traffic; see `bfloat16_training`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.accel.buffers import FLOAT, feature_maps, floats, keep_freed_memory
from vggnet.accel.compilation import problem

if not problem():
    from vggnet.accel.kernels import batch_norm_kernels as kernels

BLOCK_BYTES = 64 << 10  # of activations in a block: small enough to stay in the cache for a second reading


def norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: bool, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm over (N, H, W), ReLU, and with `pool` the 2x2 max pool, of x (N, C, H, W) float32 on a CPU.

    Returns y (N, C, H, W), or (N, C, H/2, W/2) with `pool` (H and W must be even), in float32 or bfloat16, and the
    batch's mean and biased variance (C,), which carry no gradient.
    """
    if problem():
        return _norm_relu_by_pytorch(x, weight, bias, eps, pool, dtype)
    keep_freed_memory()
    y, mean, variance = _norm_relu(x, weight, bias, eps, pool, dtype)
    return y, mean.detach(), variance.detach()


def scale_relu(x: Tensor, scale: Tensor, shift: Tensor, pool: bool) -> Tensor:
    """max(x * scale + shift, 0), and with `pool` its 2x2 max pool, as above: batch norm in eval mode. No gradient."""
    if problem():
        y = (x.detach() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).relu_()
        return F.max_pool2d(y, 2) if pool else y
    keep_freed_memory()
    return normalize(x.detach().contiguous(memory_format=torch.channels_last), scale, shift, pool, torch.float32)


def _norm_relu_by_pytorch(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """As `norm_relu`, without kernels."""
    variance, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=eps).relu_()
    return (F.max_pool2d(y, 2) if pool else y).to(dtype), mean, variance


@torch.library.custom_op("vggnet::norm_relu", mutates_args=())
def _norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return outputs(x.contiguous(memory_format=torch.channels_last), weight, bias, eps, pool, dtype)


@torch.library.custom_op("vggnet::norm_relu_backward", mutates_args=())
def _norm_relu_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return gradients(grad, x.contiguous(memory_format=torch.channels_last), weight, bias, mean, variance, eps, pool)


@_norm_relu.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    y = x.new_empty(_output_shape(x, pool), dtype=dtype).contiguous(memory_format=torch.channels_last)
    return y, torch.empty_like(weight), torch.empty_like(weight)


@_norm_relu_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last), torch.empty_like(weight), torch.empty_like(bias)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, ctx.eps, ctx.pool, _ = inputs
    _, mean, variance = output
    ctx.save_for_backward(x, weight, bias, mean, variance)


def _backward(context: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_norm_relu_backward(grad, *context.saved_tensors, context.eps, context.pool), None, None, None)


_norm_relu.register_autograd(_backward, setup_context=_save_inputs)


def outputs(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """y of `dtype`, mean and variance, as `norm_relu`, from x channels-last, float32 or bfloat16."""
    mean, variance = statistics(x)
    scale = weight * (variance + eps).rsqrt()
    return normalize(x, scale, bias - mean * scale, pool, dtype), mean, variance


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance by channel of x (N, C, H, W) channels-last, float32 or bfloat16."""
    channels = x.shape[1]
    rows = x.numel() // channels
    blocks = num_blocks(rows, channels)
    means, squares = floats(2, blocks, channels)
    kernels.for_types(x.element_size(), FLOAT).moments(
        blocks=blocks, rows=rows, channels=channels, x=x, first=means, second=squares
    )
    mean, variance = floats(channels), floats(channels)
    kernels.join_moments(
        blocks=math.ceil(channels / kernels.JOINED), parts=blocks, rows=rows, channels=channels, first=means,
        second=squares, mean=mean, variance=variance,
    )  # fmt: skip
    return mean, variance


def normalize(x: Tensor, scale: Tensor, shift: Tensor, pool: bool, dtype: torch.dtype) -> Tensor:
    """y of `dtype` from x channels-last, both float32 or bfloat16."""
    y = feature_maps(*_output_shape(x, pool), dtype=dtype)
    rows, channels = y.numel() // x.shape[1], x.shape[1]
    kernels.for_types(x.element_size(), y.element_size()).normalize(
        blocks=num_blocks(rows, channels), rows=rows, width=y.shape[3], channels=channels, pool=pool, x=x, y=y,
        scale=scale, shift=shift,
    )  # fmt: skip
    return y


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x (in its type), the weight and the bias, from that of y; x is channels-last, grad of y's type."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    inverse = (variance + eps).rsqrt()
    scale = weight * inverse
    shift = bias - mean * scale
    channels = x.shape[1]
    rows = grad.numel() // channels
    blocks = num_blocks(rows, channels)
    first, second = floats(2, blocks, channels)
    fields: dict[str, Any] = {
        "blocks": blocks, "rows": rows, "width": grad.shape[3], "channels": channels, "pool": pool,
        "x": x, "y": grad, "scale": scale, "shift": shift,
    }  # fmt: skip
    typed = kernels.for_types(x.element_size(), grad.element_size())
    typed.gradient_sums(center=mean, first=first, second=second, **fields)
    slope, center, for_weight, for_bias = (floats(channels) for _ in range(4))
    kernels.join_gradient_sums(
        blocks=math.ceil(channels / kernels.JOINED), parts=blocks, rows=x.numel() // channels, channels=channels,
        first=first, second=second, mean=mean, scale=scale, inverse=inverse, slope=slope, center=center,
        for_weight=for_weight, for_bias=for_bias,
    )  # fmt: skip
    dx = feature_maps(*x.shape, dtype=x.dtype)
    typed.gradient(center=center, slope=slope, first=dx, **fields)
    return dx, for_weight, for_bias


def relu_gradients(grad: Tensor, x: Tensor, pool: bool) -> tuple[Tensor, Tensor]:
    """Of x (in its type), and its sums by channel, from the gradient of ReLU and with `pool` of the 2x2 max pool.

    x is channels-last, before or without a pool also after ReLU; grad is of y's type.
    """
    grad = grad.contiguous(memory_format=torch.channels_last)
    channels = x.shape[1]
    blocks = num_blocks(grad.numel() // channels, channels)
    first, second = floats(2, blocks, channels)
    zeros, ones = torch.zeros(channels), torch.ones(channels)
    fields: dict[str, Any] = {
        "blocks": blocks, "rows": grad.numel() // channels, "width": grad.shape[3], "channels": channels, "pool": pool,
        "x": x, "y": grad, "scale": ones, "shift": zeros,
    }  # fmt: skip
    typed = kernels.for_types(x.element_size(), grad.element_size())
    typed.gradient_sums(center=zeros, first=first, second=second, **fields)
    dx = feature_maps(*x.shape, dtype=x.dtype)
    typed.gradient(center=zeros, slope=zeros, first=dx, **fields)
    return dx, first.sum(0)


def _output_shape(x: Tensor, pool: bool) -> tuple[int, int, int, int]:
    n, channels, height, width = x.shape
    return (n, channels, height // 2, width // 2) if pool else (n, channels, height, width)


def num_blocks(rows: int, channels: int) -> int:
    """Into how many blocks of work a kernel divides the rows of a map."""
    return max(1, rows * channels * FLOAT // BLOCK_BYTES)
