"""The matrix unit of Intel's CPUs (AMX): products of bfloat16 with float32 sums, as LLVM instructions for numba.

A tile register holds 16 rows of 64 bytes. The unit multiplies a tile of A, 16 rows of 32 bfloat16, by a tile of B, 16
pairs of rows with 16 columns, (16, 16, 2), and adds the products to a tile of 16 x 16 float32 sums. Four tiles of sums
at a time, 32 x 32, share each tile that is loaded. `bfloat16_vectors` makes tiles of values, and results of sums.

Addresses and strides are int64, in bytes.
"""

import ctypes
import platform
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
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


def emit_products(
    builder: ir.IRBuilder,
    taps: int,
    a: ir.Value,
    a_row: ir.Value,
    a_step: ir.Value,
    offsets: ir.Value,
    b: ir.Value,
    c: ir.Value,
    steps: ir.Value,
    add: ir.Value,
    between: Callable[[ir.Value], None] = lambda number: None,
) -> None:
    """Write instructions that compute C (+)= A B for 32 x 32 sums over 32 * `taps` * `steps` products.

    In step s, for the tap t, element (i, d) of A lies at a + offsets[t] + s * a_step + i * a_row + 2 d, and the pair of
    rows 2 d and 2 d + 1 of B at b + (s * taps + t) * STEP + d * ROW. Element (i, j) of C lies at c + i * ROW + 4 j; it
    is added to if `add` is not 0. `offsets` is the address of a list.

    between: writes what is done while the unit works, after the products of tap t of step s; it gets s * taps + t.
    """
    with builder.if_else(builder.icmp_signed("!=", add, ir.Constant(_LONG, 0))) as (adding, replacing):
        with adding:
            _emit_load(builder, c)
        with replacing:
            _emit_clear(builder)
    listed = [builder.ptrtoint(_place(builder, offsets, 8 * tap), _LONG) for tap in range(taps)]
    shifts = [builder.load(builder.inttoptr(place, _LONG.as_pointer())) for place in listed]
    lower = builder.mul(a_row, ir.Constant(_LONG, TILE))
    before, loop, after = builder.block, builder.append_basic_block("steps"), builder.append_basic_block("sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    step, a_here, b_here = (builder.phi(_LONG) for _ in range(3))
    for phi, start in ((step, ir.Constant(_LONG, 0)), (a_here, a), (b_here, b)):
        phi.add_incoming(start, before)
    for tap, shift in enumerate(shifts):
        _emit_step(builder, builder.add(a_here, shift), a_row, lower, b_here, tap * STEP)
        between(builder.add(builder.mul(step, ir.Constant(_LONG, taps)), ir.Constant(_LONG, tap)))
    following = builder.add(step, ir.Constant(_LONG, 1))
    ends = following, builder.add(a_here, a_step), builder.add(b_here, ir.Constant(_LONG, taps * STEP))
    for phi, end in zip((step, a_here, b_here), ends, strict=True):
        phi.add_incoming(end, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
    builder.position_at_end(after)
    _emit_store(builder, c)


def _emit_clear(builder: ir.IRBuilder) -> None:
    """Set the sums to 0."""
    for i in _SUMS:
        _call(builder, "tilezero", i)


def _emit_load(builder: ir.IRBuilder, c: ir.Value) -> None:
    """Load the sums from 32 x 32 float32."""
    for i in _SUMS:
        _call(builder, "tileloadd64", i, _quarter(builder, c, i), ir.Constant(_LONG, ROW))


def _emit_store(builder: ir.IRBuilder, c: ir.Value) -> None:
    """Store the sums."""
    for i in _SUMS:
        _call(builder, "tilestored64", i, _quarter(builder, c, i), ir.Constant(_LONG, ROW))


def _quarter(builder: ir.IRBuilder, c: ir.Value, i: int) -> ir.Value:
    """The address of a register's part of the sums."""
    return _place(builder, c, i // 2 * TILE * ROW + i % 2 * ROW // 2)


def _emit_step(
    builder: ir.IRBuilder, a: ir.Value, a_row: ir.Value, lower: ir.Value, b: ir.Value, b_offset: int
) -> None:
    """Add 32 products to each sum. `lower`: bytes from the first row of A to the one of its second tile."""
    row = ir.Constant(_LONG, ROW)
    _call(builder, "tileloadd64", _B[0], _place(builder, b, b_offset), row)
    _call(builder, "tileloadd64", _A[0], builder.inttoptr(a, _POINTER), a_row)
    _call(builder, "tileloadd64", _B[1], _place(builder, b, b_offset + ROW // 2), row)
    _call(builder, "tdpbf16ps", 0, _A[0], _B[0])
    _call(builder, "tileloadd64", _A[1], builder.inttoptr(builder.add(a, lower), _POINTER), a_row)
    _call(builder, "tdpbf16ps", 1, _A[0], _B[1])
    _call(builder, "tdpbf16ps", 2, _A[1], _B[0])
    _call(builder, "tdpbf16ps", 3, _A[1], _B[1])


@intrinsic
def clear_sums(typing: Any) -> Any:
    """Set the 32 x 32 sums to 0."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        _emit_clear(builder)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def load_sums(typing: Any, c: Any) -> Any:
    """Load the sums from where `store_sums` has stored them."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        _emit_load(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def add_products(typing: Any, a: Any, a_row: Any, b: Any) -> Any:
    """Add the products of A, 32 rows of 32 values that lie `a_row` apart, and B, one step of it, to the sums."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        a, a_row, b = arguments
        _emit_step(builder, a, a_row, builder.mul(a_row, ir.Constant(_LONG, TILE)), b, 0)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def store_sums(typing: Any, c: Any) -> Any:
    """Store the sums as `emit_products` does."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        _emit_store(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _multiply(taps: int) -> Any:
    """An intrinsic of `emit_products`."""

    @intrinsic
    def multiply(
        typing: Any, a: Any, a_row: Any, a_step: Any, offsets: Any, b: Any, c: Any, steps: Any, add: Any
    ) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            emit_products(builder, taps, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return multiply


multiply_9, multiply_1 = _multiply(9), _multiply(1)


def _place(builder: ir.IRBuilder, address: ir.Value, offset: int) -> ir.Value:
    return builder.inttoptr(builder.add(address, ir.Constant(_LONG, offset)), _POINTER)


def _call(builder: ir.IRBuilder, name: str, *arguments: Any) -> None:
    """An instruction of the unit; a number is that of a register."""
    values = [ir.Constant(_BYTE, value) if isinstance(value, int) else value for value in arguments]
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    builder.call(get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), values)
