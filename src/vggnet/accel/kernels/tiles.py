"""The matrix unit of Intel's CPUs (AMX): products of bfloat16 with float32 sums, as LLVM instructions for numba.

A tile register holds 16 rows of 64 bytes. The unit multiplies a tile of A, 16 rows of 32 bfloat16, by a tile of B, 16
pairs of rows with 16 columns, (16, 16, 2), and adds the products to a tile of 16 x 16 float32 sums. Four tiles of sums
at a time, 32 x 32, share each tile that is loaded.

Addresses and strides are int64, in bytes. Values are rounded to bfloat16 to the nearest, ties to even.
"""

import ctypes
import platform
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from vggnet.accel.buffers import FLOAT

BFLOAT16 = 2  # bytes
SIDE = 32  # rows and columns of the sums that are computed at a time, and products that are added in one step
TILE = 16  # rows of a tile, and its columns of 4 bytes
ROW = SIDE * FLOAT  # bytes of a row of B: 32 columns of pairs; and of the sums
STEP = TILE * ROW  # bytes of B from one step to the next


class _BFloat16(ir.Type):  # type: ignore[misc]
    """LLVM's type, which llvmlite lacks."""

    def __str__(self) -> str:
        return "bfloat"


_BYTE, _HALF, _INT, _LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_POINTER = _BYTE.as_pointer()
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), TILE), ir.VectorType(_INT, TILE)
_HALVES, _BFLOATS = ir.VectorType(_HALF, TILE), ir.VectorType(_BFloat16(), TILE)
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
    features = get_host_cpu_features()
    if not (features.get("amx-tile") and features.get("amx-bf16")):
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


def _multiply(taps: int) -> Any:
    """An intrinsic that computes C (+)= A B for 32 x 32 sums over 32 * `taps` * `steps` products.

    In step s, for the tap t, element (i, d) of A lies at a + offsets[t] + s * a_step + i * a_row + 2 d, and the pair of
    rows 2 d and 2 d + 1 of B at b + (s * taps + t) * STEP + d * ROW. Element (i, j) of C lies at c + i * ROW + 4 j; it
    is added to if `add` is not 0. `offsets` is the address of a list.
    """

    @intrinsic
    def multiply(
        typing: Any, a: Any, a_row: Any, a_step: Any, offsets: Any, b: Any, c: Any, steps: Any, add: Any
    ) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            a, a_row, a_step, offsets, b, c, steps, add = arguments
            row = ir.Constant(_LONG, ROW)

            def quarter(i: int) -> ir.Value:
                return _place(builder, c, i // 2 * TILE * ROW + i % 2 * ROW // 2)

            with builder.if_else(builder.icmp_signed("!=", add, ir.Constant(_LONG, 0))) as (adding, replacing):
                with adding:
                    for i in _SUMS:
                        _call(builder, "tileloadd64", i, quarter(i), row)
                with replacing:
                    for i in _SUMS:
                        _call(builder, "tilezero", i)
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
                here = builder.add(a_here, shift)
                _call(builder, "tileloadd64", _B[0], _place(builder, b_here, tap * STEP), row)
                _call(builder, "tileloadd64", _A[0], builder.inttoptr(here, _POINTER), a_row)
                _call(builder, "tileloadd64", _B[1], _place(builder, b_here, tap * STEP + ROW // 2), row)
                _call(builder, "tdpbf16ps", 0, _A[0], _B[0])
                _call(builder, "tileloadd64", _A[1], builder.inttoptr(builder.add(here, lower), _POINTER), a_row)
                _call(builder, "tdpbf16ps", 1, _A[0], _B[1])
                _call(builder, "tdpbf16ps", 2, _A[1], _B[0])
                _call(builder, "tdpbf16ps", 3, _A[1], _B[1])
            following = builder.add(step, ir.Constant(_LONG, 1))
            step.add_incoming(following, loop)
            a_here.add_incoming(builder.add(a_here, a_step), loop)
            b_here.add_incoming(builder.add(b_here, ir.Constant(_LONG, taps * STEP)), loop)
            builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
            builder.position_at_end(after)
            for i in _SUMS:
                _call(builder, "tilestored64", i, quarter(i), row)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return multiply


multiply_9, multiply_1 = _multiply(9), _multiply(1)


@intrinsic
def round_values(typing: Any, source: Any, destination: Any) -> Any:
    """32 float32 -> 32 bfloat16."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        source, destination = arguments
        for i in range(2):
            values = _rounded(builder, _load(builder, source, i * TILE * FLOAT))
            _store_halves(builder, values, builder.add(destination, ir.Constant(_LONG, i * TILE * BFLOAT16)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def copy_values(typing: Any, source: Any, destination: Any) -> Any:
    """32 bfloat16 -> the same."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        source, destination = arguments
        _store(builder, builder.bitcast(_load(builder, source, 0), _INTS), destination, 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def round_pairs(typing: Any, first: Any, second: Any, destination: Any) -> Any:
    """Two rows of 32 float32 -> a row of B: 32 pairs of bfloat16."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        first, second, destination = arguments
        for i in range(2):
            low, high = (_rounded(builder, _load(builder, row, i * TILE * FLOAT)) for row in (first, second))
            _store(builder, _paired(builder, low, high), destination, i * TILE * FLOAT)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def transpose_values(typing: Any, sources: Any, offset: Any, destination: Any, row: Any) -> Any:
    """16 rows of 16 float32 -> their transpose, rounded to bfloat16.

    sources: the address of a list of addresses; each row lies `offset` after one of them. Row i of the result lies at
    destination + i * row.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        sources, offset, destination, row = arguments
        rows = [builder.add(_listed(builder, sources, i), offset) for i in range(TILE)]
        values = [_rounded(builder, _load(builder, row, 0)) for row in rows]
        for i, column in enumerate(_transposed(builder, values)):
            _store_halves(builder, column, builder.add(destination, builder.mul(row, ir.Constant(_LONG, i))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def transpose_pairs(typing: Any, source: Any, row: Any, destination: Any) -> Any:
    """16 rows of 32 float32 -> 16 rows of 16 pairs, ROW apart: a tile of B whose columns are the rows."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        source, row, destination = arguments
        pairs = []
        for i in range(TILE):
            start = builder.add(source, builder.mul(row, ir.Constant(_LONG, i)))
            left, right = (_rounded(builder, _load(builder, start, j * TILE * FLOAT)) for j in range(2))
            low, high = (_shuffled(builder, left, right, range(odd, 2 * TILE, 2)) for odd in range(2))
            pairs.append(_paired(builder, low, high))
        for i, values in enumerate(_transposed(builder, pairs)):
            _store(builder, values, destination, i * ROW)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def transpose_sums(typing: Any, source: Any, destination: Any, row: Any) -> Any:
    """16 rows of 16 float32, ROW apart -> their transpose, rows `row` apart."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        source, destination, row = arguments
        values = [builder.bitcast(_load(builder, source, i * ROW), _INTS) for i in range(TILE)]
        for i, column in enumerate(_transposed(builder, values)):
            _store(builder, column, builder.add(destination, builder.mul(row, ir.Constant(_LONG, i))), 0)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


def _finish(narrow: bool) -> Any:
    """An intrinsic that makes results of sums: the larger one of each sum plus its bias, and another value.

    sums: `count` rows of 32, ROW apart. Row i goes to the address destinations[i] + offset, and is compared with what
    is at others[i] + offset; these are lists. A NaN stays one.
    narrow: results and other values are bfloat16, not float32.
    """

    @intrinsic
    def finish(typing: Any, sums: Any, count: Any, bias: Any, others: Any, destinations: Any, offset: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            sums, count, bias, others, destinations, offset = arguments
            size = TILE * (BFLOAT16 if narrow else FLOAT)
            biases = [_load(builder, bias, i * TILE * FLOAT) for i in range(2)]
            before, loop, after = builder.block, builder.append_basic_block("rows"), builder.append_basic_block("end")
            builder.branch(loop)
            builder.position_at_end(loop)
            row = builder.phi(_LONG)
            row.add_incoming(ir.Constant(_LONG, 0), before)
            place = builder.mul(row, ir.Constant(_LONG, 8))
            source = builder.add(sums, builder.mul(row, ir.Constant(_LONG, ROW)))
            other, destination = (
                builder.add(_listed(builder, builder.add(list_, place), 0), offset) for list_ in (others, destinations)
            )
            for i in range(2):
                total = builder.fadd(_load(builder, source, i * TILE * FLOAT), biases[i])
                there = builder.add(other, ir.Constant(_LONG, i * size))
                total = _larger(builder, _load_halves(builder, there) if narrow else _load(builder, there, 0), total)
                here = builder.add(destination, ir.Constant(_LONG, i * size))
                if narrow:
                    _store_halves(builder, _rounded(builder, total), here)
                else:
                    _store(builder, builder.bitcast(total, _INTS), here, 0)
            following = builder.add(row, ir.Constant(_LONG, 1))
            row.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
            builder.position_at_end(after)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return finish


finish_float32, finish_bfloat16 = _finish(narrow=False), _finish(narrow=True)


def _larger(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Of each pair of float32 the larger one; NaN if one is NaN."""
    other_is_number = builder.fcmp_ordered("ord", other, other)
    return builder.select(builder.and_(builder.fcmp_unordered(">", one, other), other_is_number), one, other)


def _rounded(builder: ir.IRBuilder, values: ir.Value) -> ir.Value:
    """float32 -> the 16 bits of each as bfloat16, as int32. The CPU's instruction takes subnormal numbers for 0."""
    return builder.zext(builder.bitcast(builder.fptrunc(values, _BFLOATS), _HALVES), _INTS)


def _paired(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """Two rounded values side by side in each int32."""
    return builder.or_(low, builder.shl(high, ir.Constant(_INTS, [16] * TILE)))


def _transposed(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """A square of int32: blocks of 1, 2, 4 and 8 change places with those across the diagonal."""
    values = list(rows)
    for size in (1, 2, 4, 8):
        for i in range(TILE):
            if not i & size:
                upper, lower = values[i], values[i + size]
                kept = [j if not j & size else TILE + j - size for j in range(TILE)]
                other = [j + size if not j & size else TILE + j for j in range(TILE)]
                values[i] = _shuffled(builder, upper, lower, kept)
                values[i + size] = _shuffled(builder, upper, lower, other)
    return values


def _shuffled(builder: ir.IRBuilder, first: ir.Value, second: ir.Value, lanes: Sequence[int]) -> ir.Value:
    return builder.shuffle_vector(first, second, ir.Constant(_INTS, list(lanes)))


def _listed(builder: ir.IRBuilder, addresses: ir.Value, index: int) -> ir.Value:
    place = builder.add(addresses, ir.Constant(_LONG, 8 * index))
    return builder.load(builder.inttoptr(place, _LONG.as_pointer()))


def _load(builder: ir.IRBuilder, address: ir.Value, offset: int) -> ir.Value:
    place = builder.add(address, ir.Constant(_LONG, offset))
    return builder.load(builder.inttoptr(place, _FLOATS.as_pointer()), align=FLOAT)


def _store(builder: ir.IRBuilder, values: ir.Value, address: ir.Value, offset: int) -> None:
    place = builder.add(address, ir.Constant(_LONG, offset))
    builder.store(values, builder.inttoptr(place, _INTS.as_pointer()), align=FLOAT)


def _load_halves(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 bfloat16 -> float32."""
    halves = builder.load(builder.inttoptr(address, _HALVES.as_pointer()), align=BFLOAT16)
    return builder.bitcast(builder.shl(builder.zext(halves, _INTS), ir.Constant(_INTS, [16] * TILE)), _FLOATS)


def _store_halves(builder: ir.IRBuilder, values: ir.Value, address: ir.Value) -> None:
    """The lower 16 bits of each int32."""
    halves = builder.trunc(values, _HALVES)
    builder.store(halves, builder.inttoptr(address, _HALVES.as_pointer()), align=BFLOAT16)


def _place(builder: ir.IRBuilder, address: ir.Value, offset: int) -> ir.Value:
    return builder.inttoptr(builder.add(address, ir.Constant(_LONG, offset)), _POINTER)


def _call(builder: ir.IRBuilder, name: str, *arguments: Any) -> None:
    """An instruction of the unit; a number is that of a register."""
    values = [ir.Constant(_BYTE, value) if isinstance(value, int) else value for value in arguments]
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    builder.call(get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), values)
