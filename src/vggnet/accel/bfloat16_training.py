"""Convolution, batch norm if there is one, ReLU and 2x2 max pool as one operator in bfloat16, to train on AMX.

Activations between two of these operators, and their gradients, are bfloat16, as under PyTorch's autocast: the next
products round their factors anyway, and half of the bytes move. Sums, statistics, weights and the gradients of weights
are float32.
"""

import os
from typing import Any

import torch
from torch import Tensor, nn

from vggnet.accel.algorithm import Pass, Shape
from vggnet.accel.buffers import keep_freed_memory
from vggnet.accel.dispatch import channels_last, is_recorded, is_supported, is_traced, kernels_pay
from vggnet.accel.precision import uses_matrix_unit

BFLOAT16 = "bfloat16"


def can_train(conv: nn.Conv2d, x: Tensor, *, with_norm: bool) -> bool:
    """Whether the functions below can do this convolution of x (N, C, H, W), and its products may be in bfloat16.

    with_norm: whether batch norm follows. A first layer of few channels then stays two operators: as one it takes as
        long, and is less exact.
    """
    shape = Shape.of(x, conv.weight)
    if not (is_supported(x, conv.weight, conv.bias) and kernels_pay_in_bfloat16(x, shape)):
        return False
    from vggnet.accel.algorithms.bfloat16 import Bfloat16  # imports numba

    work: Pass = "grad_input" if with_norm or is_recorded(x) else "grad_weight"
    return Bfloat16().fills_tiles(shape) and Bfloat16().supports(work, shape)


def kernels_pay_in_bfloat16(x: Tensor, shape: Shape) -> bool:
    """Whether products may be in bfloat16, by kernels of ours, and are enough for them."""
    if type(x) is not Tensor or is_traced():
        return False
    chosen = os.environ.get("VGGNET_CONV") in (None, "", BFLOAT16)
    return uses_matrix_unit() and chosen and kernels_pay(shape.key("bfloat16 training"))


def conv_norm_relu(
    x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, pool: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """3x3 convolution of x (N, C, H, W), batch norm over (N, H, W), ReLU, and with `pool` the 2x2 max pool.

    x is float32 or bfloat16, and y of `dtype`, one of both. Gradients can be taken once; that of the convolution's bias
    is 0, as batch norm subtracts the bias again.

    Returns:
        y as `norm_relu`, and the mean and biased variance of the convolution's result, which carry no gradient.
    """
    keep_freed_memory()
    result: tuple[Tensor, Tensor, Tensor] = _ConvNormRelu.apply(
        x, conv.weight, conv.bias, norm.weight, norm.bias, norm.eps, pool, dtype
    )
    return result


def conv_relu(x: Tensor, conv: nn.Conv2d, pool: bool, dtype: torch.dtype) -> Tensor:
    """3x3 convolution of x (N, C, H, W), ReLU, and with `pool` the 2x2 max pool, as `conv_norm_relu`."""
    keep_freed_memory()
    y: Tensor = _ConvRelu.apply(x, conv.weight, conv.bias, pool, dtype)
    return y


class _ConvRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pool: bool, dtype: torch.dtype) -> Tensor:
        from vggnet.accel.algorithms.bfloat16 import Bfloat16  # imports numba
        from vggnet.accel.batch_norm import normalize

        x, weight = channels_last(x), channels_last(weight)
        z = Bfloat16().forward(x, weight, bias, torch.bfloat16 if pool else dtype, relu=not pool)
        ctx.save_for_backward(x, weight, z)
        ctx.pool = pool
        return normalize(z, torch.ones(len(weight)), torch.zeros(len(weight)), pool, dtype) if pool else z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from vggnet.accel.algorithms.bfloat16 import Bfloat16
        from vggnet.accel.batch_norm import relu_gradients

        x, weight, z = ctx.saved_tensors
        for_z, for_bias = relu_gradients(grad, z, ctx.pool)
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        return (
            Bfloat16().grad_input(for_z, weight, x.dtype) if needs_x else None,
            Bfloat16().grad_weight(for_z, x) if needs_weight else None,
            for_bias if needs_bias else None,
            None,
            None,
        )


class _ConvNormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        pool: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        from vggnet.accel.algorithms.bfloat16 import Bfloat16  # imports numba
        from vggnet.accel.batch_norm import outputs

        x, weight = channels_last(x), channels_last(weight)
        z = Bfloat16().forward(x, weight, bias, torch.bfloat16)
        y, mean, variance = outputs(z, norm_weight, norm_bias, eps, pool, dtype)
        ctx.save_for_backward(x, weight, bias, norm_weight, norm_bias, z, mean, variance)
        ctx.eps, ctx.pool = eps, pool
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        return y, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        from vggnet.accel.algorithms.bfloat16 import Bfloat16
        from vggnet.accel.batch_norm import gradients

        x, weight, bias, norm_weight, norm_bias, z, mean, variance = ctx.saved_tensors
        for_z, for_norm_weight, for_norm_bias = gradients(
            grad, z, norm_weight, norm_bias, mean, variance, ctx.eps, ctx.pool
        )
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        return (
            Bfloat16().grad_input(for_z, weight, x.dtype) if needs_x else None,
            Bfloat16().grad_weight(for_z, x) if needs_weight else None,
            torch.zeros_like(bias) if needs_bias else None,
            for_norm_weight,
            for_norm_bias,
            None,
            None,
            None,
        )
