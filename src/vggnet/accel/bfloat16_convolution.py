"""Convolutions of 1x1, and of 3x3 with a dilation, with products in bfloat16 on the matrix unit (AMX)."""

from typing import Any

import torch
from torch import Tensor, nn

from vggnet.accel.algorithm import Shape
from vggnet.accel.bfloat16_training import kernels_pay_in_bfloat16
from vggnet.accel.buffers import keep_freed_memory
from vggnet.accel.dispatch import channels_last, is_recorded
from vggnet.accel.weight_cache import FoldedWeights

ENOUGH_CHANNELS = 128  # of fewer PyTorch's convolution of 1x1 takes less time in inference
ENOUGH_PRODUCTS = 8e6  # of fewer the call takes longer than PyTorch's convolution


def can_convolve(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether `convolve` can do this convolution of x (N, C, H, W), float32 on a CPU, and in less time than PyTorch."""
    fits = x.shape[1] == conv.in_channels and conv.weight.dtype == torch.float32
    enough_channels = min(conv.in_channels, conv.out_channels) >= ENOUGH_CHANNELS
    enough_products = len(x) * x.shape[2] * x.shape[3] * conv.weight.numel() >= ENOUGH_PRODUCTS
    return fits and enough_channels and enough_products and kernels_pay_in_bfloat16(x, Shape.of(x, conv.weight))


def convolve(conv: nn.Conv2d, x: Tensor, *, is_fixed: bool) -> Tensor:
    """Convolution of x (N, C, H, W) with a kernel of 1x1, or of 3x3 with a dilation and a padding as large.

    The result is float32, in channels-last memory. Gradients can be taken once.

    is_fixed: whether the weights get no gradient; what is made of them is cached then.
    """
    from vggnet.accel.algorithms.bfloat16 import Bfloat16  # imports numba

    keep_freed_memory()
    dilation = conv.dilation[0]
    if is_fixed and not is_recorded(x):
        x, shape = channels_last(x), Shape.of(x, conv.weight)
        weights = FoldedWeights(conv, None)
        y = Bfloat16(dilation).prepare(shape, weights, relu=False, pool=False, x_dtype=x.dtype, dtype=torch.float32)(x)
        return channels_last(y)
    result: Tensor = _Convolution.apply(x, conv.weight, conv.bias, dilation)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        from vggnet.accel.algorithms.bfloat16 import Bfloat16

        x, weight = channels_last(x), channels_last(weight)
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return channels_last(Bfloat16(dilation).forward(x, weight, bias))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from vggnet.accel.algorithms.bfloat16 import Bfloat16

        x, weight = ctx.saved_tensors
        grad, algorithm = channels_last(grad), Bfloat16(ctx.dilation)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            channels_last(algorithm.grad_input(grad, weight)) if needs_x else None,
            channels_last(algorithm.grad_weight(grad, x, weight.shape[2])) if needs_weight else None,
            grad.sum((0, 2, 3)) if needs_bias else None,
            None,
        )
