"""What is computed from a module's weights for inference, cached for as long as they do not change."""

import copy
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Value = TypeVar("Value")

_lock = threading.Lock()
_cache: WeakKeyDictionary[nn.Module, dict[str, tuple[list[Tensor], list[int], Any]]] = WeakKeyDictionary()


class FoldedWeights:
    """Weight and bias of a 3x3 convolution with the batch norm after it folded in, and what is derived from them.

    With s = gamma / sqrt(var + eps), the weight is s w and the bias s (b - mean) + beta.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        sources = [conv.weight, conv.bias]
        if norm is not None:
            sources += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        self._conv = conv
        self._prefix = ""  # of names in the cache
        self._sources = [tensor for tensor in sources if tensor is not None]
        self.weight: Tensor  # (K, C, 3, 3), channels-last
        self.bias: Tensor | None  # (K,)
        self.weight, self.bias = cached(conv, "folded", self._sources, partial(_fold, conv, norm))

    @property
    def sources(self) -> Sequence[Tensor]:
        """What they are made from: parameters and statistics of the layers."""
        return self._sources

    def derive(self, name: str, make: Callable[[Tensor], Tensor]) -> Tensor:
        """`make(self.weight)`, cached under this name."""
        return cached(self._conv, self._prefix + name, self._sources, partial(make, self.weight))

    def turned(self) -> Self:
        """Those of the convolution that takes the output's gradient to the input's.

        The kernel is turned by 180 degrees, C and K are exchanged, and there is no bias.
        """
        turned = copy.copy(self)
        turned.weight = self.derive("turned", _turn)
        turned.bias, turned._prefix = None, "turned "
        return turned


def cached(module: nn.Module, name: str, tensors: Sequence[Tensor], make: Callable[[], Value]) -> Value:
    """What `make` returned when it was last called under this name of the module.

    It is called again once a tensor was replaced or changed in place. PyTorch counts changes by its own operations
    (optimizers, `load_state_dict`, `copy_`), not those through `.data`: call `forget` after one.
    """
    versions = [tensor._version for tensor in tensors]
    with _lock:
        entry = _cache.get(module, {}).get(name)
    if entry is not None and versions == entry[1] and _same_memory(tensors, entry[0]):
        value: Value = entry[2]
        return value
    value = make()
    # The cache holds the tensors, so that their memory stays theirs and no other one can have the same address.
    with _lock:
        _cache.setdefault(module, {})[name] = ([tensor.detach() for tensor in tensors], versions, value)
    return value


def keep(module: nn.Module, name: str, value: object) -> None:
    """Keep a value for the module under this name, whatever happens to its weights. `kept` returns it."""
    with _lock:
        _cache.setdefault(module, {})[name] = ([], [], value)


def kept(module: nn.Module, name: str) -> Any:
    """What `keep` was given, or None."""
    with _lock:
        entry = _cache.get(module, {}).get(name)
    return entry and entry[2]


def forget(module: nn.Module) -> None:
    """Drop all that is cached or kept for the module."""
    with _lock:
        _cache.pop(module, None)


def _same_memory(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(tensors) == len(others) and all(
        one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()
        for one, other in zip(tensors, others, strict=True)
    )


def _turn(weight: Tensor) -> Tensor:
    return weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach().contiguous()
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        shift = -norm.running_mean if bias is None else bias - norm.running_mean
        weight, bias = weight * scale.view(-1, 1, 1, 1), shift * scale + norm.bias.detach()
    return weight.contiguous(memory_format=torch.channels_last), bias
