"""A validation split carved from train: fixed by its seed, the same share of every class."""

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from vggnet.errors import ConfigError


def carve(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and indices to validate on, each in ascending order; none to validate on if fraction is 0.

    Raises: ConfigError if the fraction is not in [0, 1) or leaves a class without an image on either side.
    """
    everything = np.arange(len(labels))
    if fraction == 0:
        return everything, everything[:0]
    try:
        train, val = train_test_split(everything, test_size=fraction, random_state=seed, stratify=labels)
    except ValueError as error:
        raise ConfigError(
            f"val_fraction {fraction} cannot split {len(labels)} images of {len(np.unique(labels))} classes ({error}). "
            "Choose a fraction in (0, 1) that leaves every class an image on both sides, or 0 to train on everything."
        ) from error
    return np.sort(train), np.sort(val)
