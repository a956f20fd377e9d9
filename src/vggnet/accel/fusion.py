"""Fusion: a sequence runs convolution, batch norm, ReLU and 2x2 max pool that follow each other as one operator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from vggnet.accel.dispatch import is_recorded
from vggnet.accel.fused_inference import convolve
from vggnet.accel.modules import Conv3x3, can_infer, is_fixed, is_plain

Layer = TypeVar("Layer", bound=nn.Module)


class FusedSequential(nn.Sequential):
    """nn.Sequential that fuses its layers on a CPU. `accelerate` makes it.

    In training, batch norm, ReLU and a 2x2 max pool after them are one operator; in inference, and in a frozen network
    (eval mode, and no parameter requires a gradient), a 3x3 convolution and these are. A layer with a hook runs by
    itself, so that every hook sees the values that it would see in PyTorch.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Sequential."""
        layers = list(self)
        while layers:
            groups = _first_groups(layers, input)
            for i, group in enumerate(groups):
                input = group.run(input, for_convolution=i + 1 < len(groups))
            if not groups:
                input = layers[0](input)
            layers = layers[sum(group.count for group in groups) or 1 :]
        return input


@dataclass(frozen=True)
class _Group:
    """Layers that follow each other and run as one operator; without a convolution there are norm and ReLU."""

    conv: Conv3x3 | None
    norm: nn.BatchNorm2d | None
    relu: bool
    pool: bool

    @property
    def count(self) -> int:
        """The number of layers."""
        return sum([self.conv is not None, self.norm is not None, self.relu, self.pool])

    def run(self, x: Tensor, *, for_convolution: bool) -> Tensor:
        """Apply all of them to x (N, C, H, W); `for_convolution` as `fused_inference.convolve`."""
        if self.conv is not None:
            return convolve(self.conv, self.norm, x, relu=self.relu, pool=self.pool, for_convolution=for_convolution)
        assert self.norm is not None
        return _norm_relu(self.norm, x, pool=self.pool)


def _first_groups(layers: Sequence[nn.Module], x: Tensor) -> list[_Group]:
    """The first layers as convolutions with what follows them; or one group without a convolution; or none."""
    groups: list[_Group] = []
    rest = list(layers)
    like = x  # of the type and shape of what the next group gets
    while (group := _first_group(rest, like)) and (group.conv is not None or not groups):
        groups.append(group)
        rest = rest[group.count :]
        if group.conv is None:
            break
        height, width = (size // 2 if group.pool else size for size in like.shape[2:])
        like = x.new_empty(()).expand(len(x), group.conv.out_channels, height, width)
    return groups


def _first_group(layers: Sequence[nn.Module], x: Tensor) -> _Group | None:
    """The first layers that run as one operator on x; None if the very first runs by itself."""
    if not is_plain(x) or x.ndim != 4:
        return None
    rest = list(layers)
    conv = _take(rest, Conv3x3)
    if conv is not None and not can_infer(conv, x):
        return None
    norm = _take(rest, nn.BatchNorm2d)
    if norm is not None and not _can_fuse(norm, x, conv):
        return _Group(conv, None, False, False) if conv else None
    relu = _take(rest, nn.ReLU) is not None
    if conv is None and (norm is None or not relu):
        return None
    pool = _take(rest, nn.MaxPool2d) if relu else None
    even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    return _Group(conv, norm, relu, pool is not None and even and _is_two_by_two(pool))


def _take(rest: list[nn.Module], kind: type[Layer]) -> Layer | None:
    """Remove and return the first layer if it is of this class and has no hooks."""
    if rest and type(rest[0]) is kind and not _has_hooks(rest[0]):
        return rest.pop(0)  # type: ignore[return-value]
    return None


def _can_fuse(norm: nn.BatchNorm2d, x: Tensor, conv: Conv3x3 | None) -> bool:
    """Whether the norm is complete, and uses its running statistics or trains without a convolution before it."""
    channels = x.shape[1] if conv is None else conv.out_channels
    trains = conv is None and norm.training and norm.momentum is not None and x.numel() > channels
    complete = norm.affine and norm.running_mean is not None and norm.num_features == channels
    fixed = is_fixed(norm, x) and (conv is not None or not is_recorded(x))
    return complete and (trains or fixed)


def _is_two_by_two(pool: nn.MaxPool2d) -> bool:
    """Whether it takes the largest value of each 2x2 window, and that alone."""
    sizes = [pool.kernel_size, pool.stride, pool.padding, pool.dilation]
    pairs = [(size, size) if isinstance(size, int) else tuple(size) for size in sizes]
    return pairs == [(2, 2), (2, 2), (0, 0), (1, 1)] and not pool.return_indices


def _has_hooks(module: nn.Module) -> bool:
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(own) or bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def _norm_relu(norm: nn.BatchNorm2d, x: Tensor, *, pool: bool) -> Tensor:
    """Batch norm as PyTorch defines it, with its running statistics, then ReLU and the pool."""
    from vggnet.accel.batch_norm import norm_relu, scale_relu  # imports numba

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
