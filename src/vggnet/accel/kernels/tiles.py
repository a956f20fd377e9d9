"""The matrix unit of Intel's CPUs (AMX): products of bfloat16 with float32 sums, as LLVM instructions for numba.

A tile register holds 16 rows of 64 bytes. The unit multiplies a tile of A, 16 rows of 32 bfloat16, by a tile of B, 16
pairs of rows with 16 columns, (16, 16, 2), and adds the products to a tile of 16 x 16 float32 sums. Four tiles of sums
at a time, 32 x 32, share each tile that is loaded. `bfloat16_vectors` makes tiles of values, and results of sums.

Addresses and strides are int64, in bytes.
"""

import ctypes
import platform
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from vggnet.accel.buffers import FLOAT
from vggnet.accel.vectors import compiled_features

BFLOAT16 = 2  # bytes
SIDE = 32  # rows and columns of the sums that are computed at a time, and products that are added in one step
TILE = 16  # rows of a tile, and its columns of 4 bytes
ROW = SIDE * FLOAT  # bytes of a row of B: 32 columns of pairs; and of the sums
STEP = TILE * ROW  # bytes of B from one step to the next


_BYTE, _LONG = ir.IntType(8), ir.IntType(64)
_POINTER = _BYTE.as_pointer()
_SUMS, _A, _B = range(4), (4, 5), (6, 7)  # the registers

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64


def _configuration() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What the unit is told: palette 1, and for each of its eight registers 16 rows of 64 bytes."""
    values = np.zeros(64, np.uint8)
    values[0] = 1
    values[16:32].view(np.uint16)[:] = 64
    values[48:56] = TILE
    return values


CONFIGURATION = _configuration()


@cache
def has_tiles() -> bool:
    """Whether the CPU has the unit for bfloat16, and the system lets this process use it."""
    if not compiled_features() >= {"amx-tile", "amx-bf16", "avx512f"}:
        return False
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    answer: int = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return answer == 0


@intrinsic
def configure_tiles(typing: Any, configuration: Any) -> Any:
    """Prepare the unit of the calling thread. `release_tiles` ends its use."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        _call(builder, "ldtilecfg", builder.inttoptr(arguments[0], _POINTER))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def release_tiles(typing: Any) -> Any:
    """Switch the unit of the calling thread off, so that the system need not keep its registers."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


def emit_clear(builder: ir.IRBuilder) -> None:
    """Write instructions for `clear_sums`."""
    for i in _SUMS:
        _call(builder, "tilezero", i)


def emit_products(builder: ir.IRBuilder, a: ir.Value, a_row: ir.Value, b: ir.Value) -> None:
    """Write instructions for `add_products`."""
    row, lower = ir.Constant(_LONG, ROW), builder.mul(a_row, ir.Constant(_LONG, TILE))
    _call(builder, "tileloadd64", _B[0], _place(builder, b, 0), row)
    _call(builder, "tileloadd64", _A[0], _place(builder, a, 0), a_row)
    _call(builder, "tileloadd64", _B[1], _place(builder, b, ROW // 2), row)
    _call(builder, "tdpbf16ps", 0, _A[0], _B[0])
    _call(builder, "tileloadd64", _A[1], _place(builder, builder.add(a, lower), 0), a_row)
    _call(builder, "tdpbf16ps", 1, _A[0], _B[1])
    _call(builder, "tdpbf16ps", 2, _A[1], _B[0])
    _call(builder, "tdpbf16ps", 3, _A[1], _B[1])


def emit_store(builder: ir.IRBuilder, c: ir.Value) -> None:
    """Write instructions for `store_sums`."""
    for i in _SUMS:
        _call(builder, "tilestored64", i, _quarter(builder, c, i), ir.Constant(_LONG, ROW))


@intrinsic
def clear_sums(typing: Any) -> Any:
    """Set the 32 x 32 sums of the calling thread to 0."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        emit_clear(builder)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def load_sums(typing: Any, c: Any) -> Any:
    """Set the sums to those that `store_sums` has stored at `c`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        for i in _SUMS:
            _call(builder, "tileloadd64", i, _quarter(builder, arguments[0], i), ir.Constant(_LONG, ROW))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def add_products(typing: Any, a: Any, a_row: Any, b: Any) -> Any:
    """Add the products of one step to the sums.

    Element (i, d) of A, 32 x 32, lies at a + i * a_row + 2 d, and the pair of rows 2 d and 2 d + 1 of B at
    b + d * ROW.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        emit_products(builder, *arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def store_sums(typing: Any, c: Any) -> Any:
    """Store the sums: element (i, j) at c + i * ROW + 4 j."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        emit_store(builder, *arguments)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@njit
def add_steps(a: int, a_row: int, a_step: int, b: int, steps: int) -> None:
    """`add_products` for steps that lie `a_step` apart in A, and one after the other in B."""
    for step in range(steps):
        add_products(a + step * a_step, a_row, b + step * STEP)


def _quarter(builder: ir.IRBuilder, c: ir.Value, i: int) -> ir.Value:
    """The address of the part of the sums that register `i` holds."""
    return _place(builder, c, i // 2 * TILE * ROW + i % 2 * ROW // 2)


def _place(builder: ir.IRBuilder, address: ir.Value, offset: int) -> ir.Value:
    return builder.inttoptr(builder.add(address, ir.Constant(_LONG, offset)), _POINTER)


def _call(builder: ir.IRBuilder, name: str, *arguments: Any) -> None:
    """An instruction of the unit; a number is that of a register."""
    values = [ir.Constant(_BYTE, value) if isinstance(value, int) else value for value in arguments]
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    builder.call(get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), values)
