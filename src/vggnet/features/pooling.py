"""From a map of features to one vector: what is left when places do not matter."""

from collections.abc import Callable

from torch import Tensor


def generalized_mean(maps: Tensor, power: float = 3) -> Tensor:
    """The root of the mean of powers: between mean (1) and maximum (infinity) (Radenovic et al., arXiv:1711.02512).

    Values below 0 count as 0.
    """
    return maps.clamp_min(0).pow(power).mean((2, 3)).pow(1 / power)


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean((2, 3)),
    "max": lambda maps: maps.amax((2, 3)),
    "gem": generalized_mean,
}


def pool(maps: Tensor, pooling: str) -> Tensor:
    """(N, C, h, w) -> (N, C)."""
    return POOLS[pooling](maps)
