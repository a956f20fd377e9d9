"""Fusion: a sequence runs convolution, batch norm, ReLU and 2x2 max pool that follow each other as one operator."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from vggnet.accel.autotuning import autotuner
from vggnet.accel.bfloat16_training import can_train, conv_norm_relu, conv_relu
from vggnet.accel.dispatch import is_recorded, is_traced
from vggnet.accel.fused_inference import PreparedLayers, convolve, prepare
from vggnet.accel.modules import CachesWeights, Conv3x3, can_infer, is_fixed, is_plain
from vggnet.accel.precision import allowed_precision, uses_matrix_unit
from vggnet.accel.resizing import max_pool
from vggnet.accel.threads import num_threads
from vggnet.accel.weight_cache import keep, kept

Layer = TypeVar("Layer", bound=nn.Module)
Step = Callable[[Tensor], Tensor]
PLANS = "plans"  # their name among what is kept for a module
MOST_PLANS = 32  # of one sequence: a server has batches of 1 to 16 images

_Kind = tuple[torch.Size, torch.dtype, bool]  # shape and type of an input; whether the result is `for_convolution`


class FusedSequential(CachesWeights, nn.Sequential):
    """nn.Sequential that fuses its layers on a CPU. `accelerate` makes it.

    In training, batch norm, ReLU and a 2x2 max pool after them are one operator; in inference, in a frozen network
    (eval mode, and no parameter requires a gradient), and in a training in bfloat16, a 3x3 convolution and these are,
    with or without batch norm. A layer with a hook runs by itself, so that every hook sees the values that it would see
    in PyTorch.

    What was decided where no gradient is recorded is kept as a plan for the next input of that shape: for one small
    image the decisions take longer than the work. So that it is there, a slice is the same object every time.
    """

    def __getitem__(self, idx: Any) -> Any:
        """As nn.Sequential."""
        if not isinstance(idx, slice) or is_traced():
            return super().__getitem__(idx)
        name = "layers {}:{}:{}".format(*idx.indices(len(self)))
        layers, part = list(self)[idx], kept(self, name)
        if part is None or list(part) != layers:
            part = super().__getitem__(idx)
            keep(self, name, part)
        return part

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Sequential."""
        return self._run(input, for_convolution=False)

    def _run(self, input: Tensor, *, for_convolution: bool) -> Tensor:
        """As `run_for_convolution`."""
        state, kind = _state(self, input), (input.shape, input.dtype, for_convolution)
        plans = _plans(self, state)
        plan = plans.get(kind)
        if plan is not None and plan.holds():
            for step in plan.steps:
                input = step(input)
            return input
        steps: list[Step | None] = []
        layers = list(self)
        while layers:
            groups = _first_groups(layers, _in_float32(input))
            rest = layers[sum(group.count for group in groups) or 1 :]
            for i, group in enumerate(groups):
                narrow = i + 1 < len(groups) or (for_convolution and not rest)
                if state:
                    steps.append(group.prepare(input, for_convolution=narrow))
                input = group.run(input, for_convolution=narrow)
            if not groups:
                pool = _take(layers[:1], nn.MaxPool2d)
                if _is_narrow(input) and pool is None:
                    state, input = [], input.float()  # PyTorch's layers have float32 weights, and hooks see float32
                fits = pool and _is_two_by_two(pool) and _is_even(input)
                # Outside of training gradients of gradients may be asked for, and must be right or refused.
                run: Step = max_pool if fits and (layers[0].training or not is_recorded(input)) else layers[0]
                steps.append(run)
                input = run(input)
            layers = rest
        if state:
            prepared = [step for step in steps if step is not None]
            if len(prepared) == len(steps):
                predicted = [key for step in prepared if isinstance(step, PreparedLayers) for key in step.predicted]
                newest = dict(list(plans.items())[1 - MOST_PLANS :])
                keep(self, PLANS, (state, newest | {kind: _Plan(_joined(prepared), predicted)}))
        return input


class _Plan(NamedTuple):
    """What to do with inputs of one shape and type."""

    steps: Sequence[Step]
    predicted: Sequence[str]  # what the autotuning cache calls the passes whose algorithms are predicted

    def holds(self) -> bool:
        """Whether none of these is to be measured now; if so, counts a use of each."""
        holds = all(map(autotuner().predicts, self.predicted))
        for key in self.predicted if holds else ():
            autotuner().note_use(key)
        return holds


def run_for_convolution(layers: nn.Module, x: Tensor) -> Tensor:
    """layers(x) for further layers of this kind alone, which begin with convolutions or pools.

    Where products are in bfloat16, the result may be, and x: half of the memory traffic between sequences as well.
    """
    if not isinstance(layers, FusedSequential) or _has_hooks(layers):
        result: Tensor = layers(x)
        return result
    return layers._run(x, for_convolution=not is_traced() and uses_matrix_unit())


def _is_narrow(x: Tensor) -> bool:
    """Whether x is what `run_for_convolution` gave in bfloat16."""
    return x.dtype == torch.bfloat16 and not torch.is_autocast_enabled("cpu") and uses_matrix_unit()


def _in_float32(x: Tensor) -> Tensor:
    """x, or float32 without memory in its place for decisions about it."""
    if not _is_narrow(x):
        return x
    return x.new_empty((), dtype=torch.float32, requires_grad=is_recorded(x)).expand(x.shape)


def _plans(layers: nn.Module, state: Sequence[object]) -> dict[_Kind, _Plan]:
    """What is kept for inputs, if it was decided in this state."""
    if not state:
        return {}
    decided_in, plans = kept(layers, PLANS) or ([], {})
    return plans if _same(decided_in, state) else {}


def _state(layers: nn.Sequential, x: Tensor) -> list[object]:
    """All else that decides what is done with x, in comparable form; empty where nothing is kept, as with gradients."""
    if torch.is_grad_enabled() or type(x) is not Tensor or is_traced() or not is_plain(_in_float32(x)):
        return []
    state: list[object] = [autotuner().choices, allowed_precision(), num_threads(), os.environ.get("VGGNET_CONV")]
    for layer in layers:
        state += [layer, type(layer), layer.training, _has_hooks(layer)]
        for parameter in layer._parameters.values():
            state += [parameter, parameter is not None and (parameter.dtype, parameter.device.type)]
    return state


def _joined(steps: Sequence[Step]) -> list[Step]:
    """With two convolutions as one step where there is a kernel for both."""
    joined: list[Step] = []
    for step in steps:
        before = joined[-1] if joined else None
        both = step.after(before) if isinstance(step, PreparedLayers) and isinstance(before, PreparedLayers) else None
        joined[len(joined) - bool(both) :] = [both or step]
    return joined


def _same(state: Sequence[object], other: Sequence[object]) -> bool:
    """Whether they hold the same objects; small values may be equal ones."""
    return len(state) == len(other) and all(
        one is another or (isinstance(one, (tuple, str, int)) and one == another)
        for one, another in zip(state, other, strict=True)
    )


@dataclass(frozen=True)
class _Group:
    """Layers that follow each other and run as one operator.

    Without a convolution there are norm and ReLU, and in training there is a ReLU.
    """

    conv: Conv3x3 | None
    norm: nn.BatchNorm2d | None
    relu: bool
    pool: bool

    @property
    def trains(self) -> bool:
        """Whether batch norm uses the statistics of the batch; without one, whether the convolution is in training."""
        layer = self.conv if self.norm is None else self.norm
        return layer is not None and layer.training

    @property
    def count(self) -> int:
        """The number of layers."""
        return sum([self.conv is not None, self.norm is not None, self.relu, self.pool])

    def run(self, x: Tensor, *, for_convolution: bool) -> Tensor:
        """Apply all of them to x (N, C, H, W); `for_convolution` as `fused_inference.convolve`."""
        if self.trains:
            return _train(self.conv, self.norm, x, pool=self.pool, for_convolution=for_convolution)
        if self.conv is not None:
            return convolve(self.conv, self.norm, x, relu=self.relu, pool=self.pool, for_convolution=for_convolution)
        assert self.norm is not None
        return _norm_relu(self.norm, x, pool=self.pool)

    def prepare(self, x: Tensor, *, for_convolution: bool) -> Step | None:
        """What `run` does with such an x where no gradient is recorded; None if that is not settled."""
        if self.conv is None or self.trains:
            return partial(self.run, for_convolution=for_convolution)
        return prepare(self.conv, self.norm, x, relu=self.relu, pool=self.pool, for_convolution=for_convolution)


def _first_groups(layers: Sequence[nn.Module], x: Tensor) -> list[_Group]:
    """The first layers that run as one operator, and further convolutions of the same mode that follow; or none."""
    groups: list[_Group] = []
    rest = list(layers)
    like = x  # of the shape of what the next group gets
    while group := _first_group(rest, like):
        if groups and (group.conv is None or group.trains != groups[0].trains):
            break
        groups.append(group)
        rest = rest[group.count :]
        channels = group.conv.out_channels if group.conv else like.shape[1]
        height, width = (size // 2 if group.pool else size for size in like.shape[2:])
        recorded = group.trains and torch.is_grad_enabled()
        like = x.new_empty((), requires_grad=recorded).expand(len(x), channels, height, width)
    return groups


def _first_group(layers: Sequence[nn.Module], x: Tensor) -> _Group | None:
    """The first layers that run as one operator on x; None if the very first runs by itself."""
    if not is_plain(x) or x.ndim != 4:
        return None
    rest = list(layers)
    conv, norm = _take(rest, Conv3x3), _take(rest, nn.BatchNorm2d)
    channels = x.shape[1] if conv is None else conv.out_channels
    if norm is not None and not _is_complete(norm, channels):
        norm, rest = None, []
    relu = _take(rest, nn.ReLU) is not None
    pool = _take(rest, nn.MaxPool2d) if relu else None
    group = _Group(conv, norm, relu, pool is not None and _is_even(x) and _is_two_by_two(pool))
    if conv is not None and can_infer(conv, x):
        return group if norm is None or is_fixed(norm, x) else _Group(conv, None, False, False)
    if not relu:
        return None
    if norm is None:
        learns = conv is not None and _learns(conv, x) and can_train(conv, x, with_norm=False)
        return group if learns else None
    if norm.training:
        counts = norm.momentum is not None and x.numel() > x.shape[1]
        return group if counts and (conv is None or can_train(conv, x, with_norm=True)) else None
    return group if conv is None and is_fixed(norm, x) and not is_recorded(x) else None


def _learns(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether the convolution is in training, and autograd records it."""
    tensors = (x, *conv.parameters(recurse=False))
    return conv.training and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _take(rest: list[nn.Module], kind: type[Layer]) -> Layer | None:
    """Remove and return the first layer if it is of this class and has no hooks."""
    if rest and type(rest[0]) is kind and not _has_hooks(rest[0]):
        return rest.pop(0)  # type: ignore[return-value]
    return None


def _is_complete(norm: nn.BatchNorm2d, channels: int) -> bool:
    """Whether it has weights and running statistics for so many channels."""
    return norm.affine and norm.running_mean is not None and norm.num_features == channels


def _is_even(x: Tensor) -> bool:
    """Whether 2x2 windows cover the maps (N, C, H, W)."""
    return x.ndim == 4 and x.shape[2] % 2 == x.shape[3] % 2 == 0


def _is_two_by_two(pool: nn.MaxPool2d) -> bool:
    """Whether it takes the largest value of each 2x2 window, and that alone."""
    sizes = [pool.kernel_size, pool.stride, pool.padding, pool.dilation]
    pairs = [(size, size) if isinstance(size, int) else tuple(size) for size in sizes]
    return pairs == [(2, 2), (2, 2), (0, 0), (1, 1)] and not pool.return_indices


def _has_hooks(module: nn.Module) -> bool:
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(own) or bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def _train(
    conv: Conv3x3 | None, norm: nn.BatchNorm2d | None, x: Tensor, *, pool: bool, for_convolution: bool
) -> Tensor:
    """The convolution, batch norm as PyTorch defines it in training, ReLU and the pool; conv or norm may be None."""
    dtype = torch.bfloat16 if for_convolution else torch.float32
    if norm is None:
        assert conv is not None
        return conv_relu(x, conv, pool, dtype)
    from vggnet.accel.batch_norm import norm_relu  # imports numba

    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    if conv is None:
        y, mean, variance = norm_relu(x, norm.weight, norm.bias, norm.eps, pool, dtype)
    else:
        y, mean, variance = conv_norm_relu(x, conv, norm, pool, dtype)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        norm.num_batches_tracked.add_(1)
    return y


def _norm_relu(norm: nn.BatchNorm2d, x: Tensor, *, pool: bool) -> Tensor:
    """Batch norm by its running statistics, ReLU and the pool."""
    from vggnet.accel.batch_norm import scale_relu  # imports numba

    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale_relu(x, scale, norm.bias - norm.running_mean * scale, pool)
