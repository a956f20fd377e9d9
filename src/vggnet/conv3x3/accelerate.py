"""Any PyTorch model on the fast kernels of this folder, and back. VGGNET_CONV=direct leaves all to PyTorch."""

import os
from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from vggnet.conv3x3.choice import DIRECT
from vggnet.conv3x3.operator import conv3x3

Model = TypeVar("Model", bound=nn.Module)


class Conv3x3(nn.Conv2d):
    """nn.Conv2d(C, K, 3, padding=1) by `conv3x3`. It is made by `accelerate`, never from arguments."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        return conv3x3(input, self.weight, self.bias)


class FusedSequential(nn.Sequential):
    """nn.Sequential that runs batch norm and ReLU, and a 2x2 max pool after them, as one operator on a CPU.

    A layer with a hook is run by itself, so every hook sees what it would see. Made by `accelerate`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Sequential."""
        layers = list(self)
        while layers:
            count = _fusible(layers, input)
            input = _norm_relu(cast(nn.BatchNorm2d, layers[0]), input, pool=count == 3) if count else layers[0](input)
            layers = layers[max(count, 1) :]
        return input


def accelerate(model: Model) -> Model:
    """Let every eligible layer of `model` take the fastest way on a CPU; returns the model itself.

    Eligible are 3x3 convolutions with stride 1, padding 1, dilation 1 and one group; and batch norm with ReLU after it
    within an nn.Sequential. Layers stay the objects they are, with their parameters, hooks and names; only their class
    changes, so `state_dict` is the same. Weights are laid out channels-last, which changes no value.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_eligible(module):
            module.__class__ = Conv3x3
        if type(module) is nn.Sequential:
            module.__class__ = FusedSequential
    return model.to(memory_format=torch.channels_last)


def restore(model: Model) -> Model:
    """Undo `accelerate`; returns the model itself."""
    stock: dict[type, type] = {Conv3x3: nn.Conv2d, FusedSequential: nn.Sequential}
    for module in model.modules():
        if type(module) in stock:
            module.__class__ = stock[type(module)]
    return model


def _is_eligible(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.padding in ((1, 1), "same")
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def _fusible(layers: Sequence[nn.Module], x: Tensor) -> int:
    """How many of the first layers run as one operator on x: norm and ReLU, with or without pool; 0 if none do."""
    norm, relu, pool = (*layers, None, None)[:3]
    if not (type(norm) is nn.BatchNorm2d and type(relu) is nn.ReLU and _can_fuse(norm, x)):
        return 0
    if _has_hooks(norm) or _has_hooks(relu):
        return 0
    even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    return 3 if type(pool) is nn.MaxPool2d and even and _is_plain(pool) and not _has_hooks(pool) else 2


def _can_fuse(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    if os.environ.get("VGGNET_CONV") == DIRECT:
        return False
    learns = norm.training and norm.momentum is not None and x.numel() > x.shape[1]
    answers = not norm.training and not torch.is_grad_enabled()
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 4
        and x.shape[1] == norm.num_features
        and x.numel() > 0
        and norm.affine
        and norm.running_mean is not None
        and (learns or answers)
        and not torch.is_autocast_enabled("cpu")
    )


def _is_plain(pool: nn.MaxPool2d) -> bool:
    """Whether it takes the largest value of each 2x2 window, and that alone."""
    sizes = [pool.kernel_size, pool.stride, pool.padding, pool.dilation]
    pairs = [(size, size) if isinstance(size, int) else tuple(size) for size in sizes]
    return pairs == [(2, 2), (2, 2), (0, 0), (1, 1)] and not pool.return_indices


def _has_hooks(module: nn.Module) -> bool:
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(own) or bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def _norm_relu(norm: nn.BatchNorm2d, x: Tensor, *, pool: bool) -> Tensor:
    """Batch norm as PyTorch defines it, with its running statistics, then ReLU and the pool."""
    from vggnet.conv3x3.norm import norm_relu, scale_relu  # compiles its kernels

    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    if not norm.training:
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return scale_relu(x, scale, norm.bias - norm.running_mean * scale, pool)
    assert norm.momentum is not None
    y, mean, variance = norm_relu(x, norm.weight, norm.bias, norm.eps, pool)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        norm.num_batches_tracked.add_(1)
    return y
