"""From a map of features to one vector: what is left when places do not matter."""

from collections.abc import Callable

from torch import Tensor

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean((2, 3)),
    "max": lambda maps: maps.amax((2, 3)),
}


def pool(maps: Tensor, pooling: str) -> Tensor:
    """(N, C, h, w) -> (N, C)."""
    return POOLS[pooling](maps)
