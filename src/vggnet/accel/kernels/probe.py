"""A small product, which shows that kernels compile and compute on this machine; `compilation` runs it."""

import numpy as np
from numba import types

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.kernel import CFunction
from vggnet.accel.kernels.llvm import COLUMNS, ROWS, multiply_tile

DEPTH = 2


def _product(a: int, b: int, c: int) -> None:
    """C (ROWS, COLUMNS) = A (ROWS, DEPTH) B (DEPTH, COLUMNS)."""
    multiply_tile(a, DEPTH * FLOAT, FLOAT, b, COLUMNS * FLOAT, c, COLUMNS * FLOAT, DEPTH, 0)


_compiled = CFunction(_product, types.void(types.int64, types.int64, types.int64), notes=False)


def run() -> None:
    """Compile and multiply.  Raises: RuntimeError for wrong products, and whatever numba and LLVM raise."""
    a = np.arange(ROWS * DEPTH, dtype=np.float32).reshape(ROWS, DEPTH)
    b = np.arange(DEPTH * COLUMNS, dtype=np.float32).reshape(DEPTH, COLUMNS)
    c = np.zeros((ROWS, COLUMNS), np.float32)
    _compiled.call(a.ctypes.data, b.ctypes.data, c.ctypes.data)
    if not np.array_equal(c, a @ b):  # small integers: exact
        raise RuntimeError("compiled products are wrong")
