"""A validation split carved from train: fixed by its seed, the same share of every class."""

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from vggnet.errors import ConfigError


def carve(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and indices to validate on, each in ascending order; none to validate on if fraction is 0.

    Where the images are too few for an exact share, every class of two or more gives at least one and keeps one.
    Raises: ConfigError if the fraction is not in [0, 1), or no class has two images.
    """
    everything = np.arange(len(labels))
    if fraction == 0:
        return everything, everything[:0]
    _require_possible(labels, fraction)
    try:
        _, val = train_test_split(everything, test_size=fraction, random_state=seed, stratify=labels)
    except ValueError:  # fewer images to validate on than classes, or a class of a single image
        val = _some_of_each_class(labels, fraction, seed)
    return np.setdiff1d(everything, val), np.sort(val)


def _some_of_each_class(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """The rounded share of each class, but at least one and not all; a class of one image gives none."""
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return np.concatenate([of[: min(max(round(fraction * len(of)), 1), len(of) - 1)] for of in shuffled])


def _require_possible(labels: NDArray[np.int64], fraction: float) -> None:
    _, counts = np.unique(labels, return_counts=True)
    if not 0 < fraction < 1 or max(counts, default=0) < 2:
        raise ConfigError(
            f"val_fraction {fraction} cannot split {len(labels)} images of {len(counts)} classes: it must be in "
            "[0, 1), and a class needs two images to give one. Choose 0 to train on everything."
        )
