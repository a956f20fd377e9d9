"""Addresses of arrays inside compiled functions."""

from typing import Any

import numpy as np
from numba import njit


@njit
def address_of(array: Any) -> Any:
    """Where the values of an array lie, as int64. Use `keep` behind the last use of the address."""
    return np.int64(array.ctypes.data)


@njit(inline="never")
def keep(*arrays: Any) -> None:
    """Hold arrays up to here: numba frees an array behind the last use of its name, even if its address is in use."""
