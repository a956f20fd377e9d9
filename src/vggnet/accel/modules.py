"""Layers of PyTorch whose forward pass takes the fastest way on a CPU. `accelerate` makes them, never arguments."""

import os
from typing import Self

import torch
from torch import Tensor, nn

from vggnet.accel.autotuning import DIRECT
from vggnet.accel.dispatch import conv3x3, is_ours
from vggnet.accel.fused_inference import convolve, linear
from vggnet.accel.weight_cache import forget


class _Ready(nn.Module):
    """A layer that keeps what it made of its weights for answering, until they change or the mode is set."""

    def train(self, mode: bool = True) -> Self:
        """As nn.Module; `eval` calls it too."""
        forget(self)
        return super().train(mode)


class Conv3x3(_Ready, nn.Conv2d):
    """nn.Conv2d(C, K, 3, padding=1) by `conv3x3`."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        if can_answer(self, input):
            return convolve(self, None, input, relu=False, pool=False)
        return conv3x3(input, self.weight, self.bias)


class LargeLinear(_Ready, nn.Linear):
    """nn.Linear that answers by weights in float16 where that is faster."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        if is_plain(input) and input.ndim == 2 and self.weight.dtype == torch.float32 and only_answers(self, input):
            return linear(self, input)
        return super().forward(input)


def can_answer(conv: Conv3x3, x: Tensor) -> bool:
    """Whether the convolution of x is one for `inference`."""
    return is_plain(x) and is_ours(x, conv.weight, conv.bias) and only_answers(conv, x)


def is_plain(x: Tensor) -> bool:
    """Whether x is what our kernels take, and they are not switched off."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and os.environ.get("VGGNET_CONV") != DIRECT
    )


def only_answers(layer: nn.Module, x: Tensor) -> bool:
    """Whether no gradient is wanted, nothing is being traced or compiled, and the layer's weights tell of changes."""
    return (
        not torch.is_grad_enabled()
        and not layer.training
        and type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and all(type(p) is nn.Parameter and not p.is_inference() for p in layer.parameters(recurse=False))
    )
