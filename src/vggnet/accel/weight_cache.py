"""What was computed from a module's tensors, kept for as long as they do not change."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

Value = TypeVar("Value")

_lock = threading.Lock()
_kept: WeakKeyDictionary[nn.Module, dict[str, tuple[list[Tensor], list[int], Any]]] = WeakKeyDictionary()


def kept(module: nn.Module, name: str, tensors: Sequence[Tensor], make: Callable[[], Value]) -> Value:
    """What `make` returned when it was last called under this name of the module; it is called again once a tensor
    was replaced or changed in place.

    PyTorch counts changes by its own operations (optimizers, `load_state_dict`, `copy_`), not those through `.data`:
    call `forget` after one.
    """
    versions = [tensor._version for tensor in tensors]
    with _lock:
        entry = _kept.get(module, {}).get(name)
    if entry is not None and versions == entry[1] and _same_memory(tensors, entry[0]):
        value: Value = entry[2]
        return value
    value = make()
    # Tensors that are held keep their memory, so that no other one can come to lie at the same address.
    with _lock:
        _kept.setdefault(module, {})[name] = ([tensor.detach() for tensor in tensors], versions, value)
    return value


def forget(module: nn.Module) -> None:
    """Drop all that is kept for the module."""
    with _lock:
        _kept.pop(module, None)


def _same_memory(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(tensors) == len(others) and all(
        one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()
        for one, other in zip(tensors, others, strict=True)
    )
