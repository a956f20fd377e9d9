"""bfloat16 in vectors: what is packed into tiles for `tiles`, and results of sums, as LLVM instructions for numba.

Addresses and strides are int64, in bytes. Values are rounded to bfloat16 to the nearest, ties to even.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.llvm import BFLOAT
from vggnet.accel.kernels.tiles import BFLOAT16, ROW, STEP, TILE, emit_clear, emit_products, emit_store

NEIGHBORS = 9  # of a position, itself included
WINDOW = 16  # bfloat16 that are read of each row of a window

_HALF, _INT, _LONG = (ir.IntType(bits) for bits in (16, 32, 64))
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), TILE), ir.VectorType(_INT, TILE)
_HALVES, _BFLOATS = ir.VectorType(_HALF, TILE), ir.VectorType(BFLOAT, TILE)


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
def round_rests(typing: Any, source: Any, destination: Any) -> Any:
    """32 float32 -> 32 bfloat16: each value less the nearest bfloat16."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        source, destination = arguments
        for i in range(2):
            values = _load(builder, source, i * TILE * FLOAT)
            bits = builder.shl(_rounded(builder, values), ir.Constant(_INTS, [16] * TILE))
            rests = builder.fsub(values, builder.bitcast(bits, _FLOATS))
            place = builder.add(destination, ir.Constant(_LONG, i * TILE * BFLOAT16))
            _store_halves(builder, _rounded(builder, rests), place)
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


def _round_few(channels: int) -> Any:
    """An intrinsic that makes so many bfloat16 of float32."""

    @intrinsic
    def round_few(typing: Any, source: Any, destination: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            source, destination = (
                builder.inttoptr(address, kind.as_pointer())
                for address, kind in zip(arguments, (ir.FloatType(), BFLOAT), strict=True)
            )
            for i in range(channels):
                value = builder.load(builder.gep(source, [ir.Constant(_INT, i)]), align=FLOAT)
                place = builder.gep(destination, [ir.Constant(_INT, i)])
                builder.store(builder.fptrunc(value, BFLOAT), place, align=BFLOAT16)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return round_few


round_1, round_3 = _round_few(1), _round_few(3)


def _gather(channels: int) -> Any:
    """An intrinsic that makes a row of A: the 3 x 3 pixels of a window, of so many bfloat16, and zeros.

    Three pixels of a row lie side by side at `source`, the next row `row` after it. WINDOW values of each row are read.
    """
    count = 3 * channels

    @intrinsic
    def gather(typing: Any, source: Any, row: Any, destination: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            source, row, destination = arguments
            upper, middle, lower = (
                _load_window(builder, builder.add(source, builder.mul(row, ir.Constant(_LONG, i)))) for i in range(3)
            )
            zeros = ir.Constant(ir.VectorType(_HALF, WINDOW), [0] * WINDOW)
            lanes = [*range(count), *range(WINDOW, WINDOW + count)]
            pair = builder.shuffle_vector(upper, middle, _lanes([*lanes, *[WINDOW - 1] * (2 * WINDOW - len(lanes))]))
            last = builder.shuffle_vector(lower, zeros, _lanes([*range(count), *[WINDOW] * (2 * WINDOW - count)]))
            beyond = 2 * WINDOW
            kept = [*range(2 * count), *range(beyond, beyond + count), *[2 * beyond - 1] * (beyond - 3 * count)]
            values = builder.shuffle_vector(pair, last, _lanes(kept))
            builder.store(values, builder.inttoptr(destination, values.type.as_pointer()), align=BFLOAT16)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), generate

    return gather


gather_1, gather_3 = _gather(1), _gather(3)


def _make_pairs(narrow: bool) -> Any:
    """An intrinsic that makes a row of B, 32 pairs of bfloat16, of two rows of 32 values.

    narrow: the values are bfloat16, not float32.
    """

    @intrinsic
    def make_pairs(typing: Any, first: Any, second: Any, destination: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            first, second, destination = arguments
            for i in range(2):
                low, high = (_as_bits(builder, row, i * TILE, narrow) for row in (first, second))
                _store(builder, _paired(builder, low, high), destination, i * TILE * FLOAT)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), generate

    return make_pairs


round_pairs, make_pairs = _make_pairs(narrow=False), _make_pairs(narrow=True)


def _transpose(narrow: bool) -> Any:
    """An intrinsic that makes the transpose, in bfloat16, of 16 rows of 16 values.

    sources: the address of a list of addresses; each row lies `offset` after one of them. Row i of the result lies at
    destination + i * row.
    narrow: the values are bfloat16, not float32.
    """

    @intrinsic
    def transpose(typing: Any, sources: Any, offset: Any, destination: Any, row: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            sources, offset, destination, row = arguments
            rows = [builder.add(_listed(builder, sources, i), offset) for i in range(TILE)]
            values = [_as_bits(builder, row, 0, narrow) for row in rows]
            for i, column in enumerate(_transposed(builder, values)):
                _store_halves(builder, column, builder.add(destination, builder.mul(row, ir.Constant(_LONG, i))))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return transpose


round_transposed, transpose_values = _transpose(narrow=False), _transpose(narrow=True)


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


def _finish(narrow: bool) -> Any:
    """An intrinsic that makes results of sums: the larger one of each sum plus its bias, and another value.

    sums: `count` rows of 32, ROW apart. Row i goes to the address destinations[i] + offset, and is compared with what
    is at others[i] + offset; these are lists. A NaN stays one.
    narrow: results and other values are bfloat16, not float32.
    """

    @intrinsic
    def finish(typing: Any, sums: Any, count: Any, bias: Any, others: Any, destinations: Any, offset: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            sums, count, bias, *places = arguments
            biases = _load_biases(builder, bias)
            _emit_rows(
                builder, ir.Constant(_LONG, 0), count, lambda row: finish_row(builder, row, sums, biases, places)
            )
            return context.get_dummy_value()

        finish_row = partial(_emit_finished_row, narrow)
        return types.void(*[types.int64] * 6), generate

    return finish


finish_float32, finish_bfloat16 = _finish(narrow=False), _finish(narrow=True)


def _convolve_and_finish(narrow: bool) -> Any:
    """An intrinsic that computes the sums of 32 positions and their neighbors, and results of other sums meanwhile.

    The unit's instructions fill the CPU's buffers, so that the CPU itself would not begin with the products before the
    results are there. The same loops with `add_products` and `_finish`, compiled by numba, take 3 to 8 % longer.

    a, a_step, b: as `bfloat16_kernels.add_neighbors` has them. offsets: the address of a list: the distance of each
    neighbor from the first one, in bytes. c: where the sums go. rate: results after the products of each neighbor, in
    rows; the other arguments, with `count` rows at most in all, are those of `_finish`.
    """

    @intrinsic
    def convolve_and_finish(
        typing: Any, a: Any, a_row: Any, a_step: Any, offsets: Any, b: Any, c: Any, steps: Any, rate: Any, sums: Any,
        count: Any, bias: Any, others: Any, destinations: Any, offset: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            a, a_row, a_step, offsets, b, c, steps, rate, sums, count, bias, *places = arguments
            biases = _load_biases(builder, bias)
            shifts = [_listed(builder, offsets, neighbor) for neighbor in range(NEIGHBORS)]
            emit_clear(builder)
            before, loop, after = builder.block, builder.append_basic_block("steps"), builder.append_basic_block("sums")
            builder.branch(loop)
            builder.position_at_end(loop)
            step, a_here, b_here, done = (builder.phi(_LONG) for _ in range(4))
            zero = ir.Constant(_LONG, 0)
            for phi, first in ((step, zero), (a_here, a), (b_here, b), (done, zero)):
                phi.add_incoming(first, before)
            start, b_place = done, b_here
            for shift in shifts:
                emit_products(builder, builder.add(a_here, shift), a_row, b_place)
                end = builder.add(start, rate)
                stop = builder.select(builder.icmp_signed("<", end, count), end, count)
                _emit_rows(builder, start, stop, lambda row: finish_row(builder, row, sums, biases, places))
                start, b_place = end, builder.add(b_place, ir.Constant(_LONG, STEP))
            following = builder.add(step, ir.Constant(_LONG, 1))
            for phi, last in (
                (step, following), (a_here, builder.add(a_here, a_step)), (b_here, b_place), (done, start)
            ):  # fmt: skip
                phi.add_incoming(last, builder.block)
            builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
            builder.position_at_end(after)
            emit_store(builder, c)
            return context.get_dummy_value()

        finish_row = partial(_emit_finished_row, narrow)
        return types.void(*[types.int64] * 14), generate

    return convolve_and_finish


convolve_and_finish_float32, convolve_and_finish_bfloat16 = (_convolve_and_finish(narrow) for narrow in (False, True))


def _load_biases(builder: ir.IRBuilder, bias: ir.Value) -> list[ir.Value]:
    return [_load(builder, bias, i * TILE * FLOAT) for i in range(2)]


def _emit_rows(builder: ir.IRBuilder, start: ir.Value, end: ir.Value, emit: Callable[[ir.Value], None]) -> None:
    """What `emit` writes for a row, from row `start` to `end`."""
    before, loop, after = builder.block, builder.append_basic_block("rows"), builder.append_basic_block("end")
    builder.cbranch(builder.icmp_signed("<", start, end), loop, after)
    builder.position_at_end(loop)
    row = builder.phi(_LONG)
    row.add_incoming(start, before)
    emit(row)
    following = builder.add(row, ir.Constant(_LONG, 1))
    row.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
    builder.position_at_end(after)


def _emit_finished_row(
    narrow: bool,
    builder: ir.IRBuilder,
    row: ir.Value,
    sums: ir.Value,
    biases: Sequence[ir.Value],
    places: Sequence[ir.Value],
) -> None:
    """The results of one row, see `_finish`; places: others, destinations and offset."""
    others, destinations, offset = places
    size = TILE * (BFLOAT16 if narrow else FLOAT)
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


def _larger(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Of each pair of float32 the larger one; NaN if one is NaN."""
    other_is_number = builder.fcmp_ordered("ord", other, other)
    return builder.select(builder.and_(builder.fcmp_unordered(">", one, other), other_is_number), one, other)


def _lanes(numbers: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INT, len(numbers)), list(numbers))


def _load_window(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.load(builder.inttoptr(address, ir.VectorType(_HALF, WINDOW).as_pointer()), align=BFLOAT16)


def _as_bits(builder: ir.IRBuilder, address: ir.Value, index: int, narrow: bool) -> ir.Value:
    """The 16 values from `index` on: the bits of each as bfloat16, as int32."""
    if not narrow:
        return _rounded(builder, _load(builder, address, index * FLOAT))
    place = builder.add(address, ir.Constant(_LONG, index * BFLOAT16))
    halves = builder.load(builder.inttoptr(place, _HALVES.as_pointer()), align=BFLOAT16)
    return builder.zext(halves, _INTS)


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
