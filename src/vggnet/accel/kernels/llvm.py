"""Vector code that numba compiles at run time: no compiler is needed on the user's machine.

numba's own loops leave register tiling and the choice of vectors to an optimizer that does neither well for these
kernels, so the few inner loops are written here as LLVM instructions. Addresses and strides are int64, in bytes;
values are float32. The vectors are the widest of the CPU, see `vectors`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from vggnet.accel.buffers import FLOAT
from vggnet.accel.vectors import NEON, VECTORS
from vggnet.accel.winograd_matrices import F2, F4, Matrix, transposed

assert VECTORS is not None  # `compilation.problem` says whether there are any
LANES, ROWS, PER_ROW = VECTORS.lanes, VECTORS.rows, VECTORS.per_row
COLUMNS = VECTORS.columns
FLOAT16_ROWS = 4  # rows of float16 that are multiplied at a time


class _BFloat16(ir.Type):  # type: ignore[misc]
    """LLVM's type, which llvmlite lacks."""

    def __str__(self) -> str:
        return "bfloat"


BFLOAT = _BFloat16()

_INT = ir.IntType(64)
_SCALAR = ir.FloatType()
_VECTOR = ir.VectorType(_SCALAR, LANES)
_BYTES = ir.IntType(8).as_pointer()

_ON_ARM = VECTORS is NEON
_MODE = _INT if _ON_ARM else ir.IntType(32)  # of what a thread does with denormal numbers
_FLUSH = 1 << 24 if _ON_ARM else 0x8040  # bits that make them zeros: FZ; FTZ for results and DAZ for operands


@intrinsic
def multiply_tile(
    typing: Any, a: Any, a_row: Any, a_depth: Any, b: Any, b_depth: Any, c: Any, c_row: Any, depth: Any, add: Any
) -> Any:
    """C (+)= A B for ROWS x COLUMNS sums over `depth` >= 1 products; added to what is there if `add` is not 0.

    Element (i, d) of A lies at a + i * a_row + d * a_depth, element (d, j) of B at b + d * b_depth + 4 j, element
    (i, j) of C at c + i * c_row + 4 j.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        a, a_row, a_depth, b, b_depth, c, c_row, depth, add = arguments
        sums = _sum_products(builder, a, a_row, a_depth, b, b_depth, depth, [_zeros()] * PER_ROW)
        with builder.if_else(builder.icmp_signed("!=", add, _INT(0))) as (adding, replacing):
            with adding:
                for place, total in _places(builder, c, c_row, sums):
                    _store(builder, builder.fadd(total, _load(builder, place)), place)
            with replacing:
                for place, total in _places(builder, c, c_row, sums):
                    _store(builder, total, place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate


@intrinsic
def multiply_tile_and_finish(
    typing: Any, a: Any, a_row: Any, a_depth: Any, b: Any, b_depth: Any, c: Any, c_row: Any, depth: Any,
    bias: Any, relu: Any, stream: Any,
) -> Any:  # fmt: skip
    """C = A B + bias, as `multiply_tile`, then ReLU if `relu` is not 0; a NaN stays one.

    bias: the address of COLUMNS values. If `stream` is not 0, C bypasses the caches; its rows must be aligned to whole
    vectors.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        a, a_row, a_depth, b, b_depth, c, c_row, depth, bias, relu, stream = arguments
        start = [_load(builder, builder.add(bias, _INT(j * LANES * FLOAT))) for j in range(PER_ROW)]
        sums = _sum_products(builder, a, a_row, a_depth, b, b_depth, depth, start)
        least = builder.select(builder.icmp_signed("!=", relu, _INT(0)), _zeros(), _constant(float("-inf")))
        totals = [[builder.select(builder.fcmp_ordered("<", x, least), least, x) for x in row] for row in sums]
        with builder.if_else(builder.icmp_signed("!=", stream, _INT(0))) as (streaming, storing):
            with streaming:
                one = builder.module.add_metadata([ir.IntType(32)(1)])
                for place, total in _places(builder, c, c_row, totals):
                    pointer = builder.inttoptr(place, _VECTOR.as_pointer())
                    builder.store(total, pointer, align=LANES * FLOAT).set_metadata("nontemporal", one)
            with storing:
                for place, total in _places(builder, c, c_row, totals):
                    _store(builder, total, place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 11), generate


def _sum_products(
    builder: ir.IRBuilder, a: ir.Value, a_row: ir.Value, a_depth: ir.Value, b: ir.Value, b_depth: ir.Value,
    depth: ir.Value, start: Sequence[ir.Value],
) -> list[list[ir.Value]]:  # fmt: skip
    """ROWS x PER_ROW vectors of sums over `depth` products, every row from `start` on. See `multiply_tile`."""
    rows = [builder.mul(a_row, _INT(i)) for i in range(ROWS)]
    before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    step, a_here, b_here = (_phi(builder, _INT, first, before) for first in (_INT(0), a, b))
    sums = [[_phi(builder, _VECTOR, start[j], before) for j in range(PER_ROW)] for _ in range(ROWS)]
    row_of_b = [_load(builder, builder.add(b_here, _INT(j * LANES * FLOAT))) for j in range(PER_ROW)]
    new = []
    for i in range(ROWS):
        value = _broadcast(builder, builder.add(a_here, rows[i]))
        new.append([_fma(builder, value, row_of_b[j], sums[i][j]) for j in range(PER_ROW)])
    following = builder.add(step, _INT(1))
    for phi, value in (
        (step, following),
        (a_here, builder.add(a_here, a_depth)),
        (b_here, builder.add(b_here, b_depth)),
    ):
        phi.add_incoming(value, loop)
    for i in range(ROWS):
        for j in range(PER_ROW):
            sums[i][j].add_incoming(new[i][j], loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    return new


def _places(
    builder: ir.IRBuilder, c: ir.Value, c_row: ir.Value, sums: Sequence[Sequence[ir.Value]]
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The address in C of each vector of a tile, with its sums."""
    for i, row_of_sums in enumerate(sums):
        row = builder.add(c, builder.mul(c_row, _INT(i)))
        for j, total in enumerate(row_of_sums):
            yield builder.add(row, _INT(j * LANES * FLOAT)), total


@intrinsic
def multiply_float16(typing: Any, w: Any, w_row: Any, x: Any, depth: Any, sums: Any) -> Any:
    """FLOAT16_ROWS rows of float16 times a float32 vector, summed by lane: FLOAT16_ROWS x LANES floats at `sums`.

    Row i of W lies at w + i * w_row; `depth` is the length of the rows, a multiple of LANES.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        w, w_row, x, depth, sums = arguments
        float16 = ir.VectorType(ir.HalfType(), LANES)
        before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("sums")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, w_here, x_here = (_phi(builder, _INT, start, before) for start in (_INT(0), w, x))
        totals = [_phi(builder, _VECTOR, _zeros(), before) for _ in range(FLOAT16_ROWS)]
        factor = _load(builder, x_here)
        new = []
        for i, total in enumerate(totals):
            place = builder.add(w_here, builder.mul(w_row, _INT(i)))
            row = builder.load(builder.inttoptr(place, float16.as_pointer()), align=2)
            new.append(_fma(builder, builder.fpext(row, _VECTOR), factor, total))
            total.add_incoming(new[i], loop)
        following = builder.add(step, _INT(LANES))
        step.add_incoming(following, loop)
        w_here.add_incoming(builder.add(w_here, _INT(LANES * 2)), loop)
        x_here.add_incoming(builder.add(x_here, _INT(LANES * FLOAT)), loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
        builder.position_at_end(after)
        for i, value in enumerate(new):
            _store(builder, value, builder.add(sums, _INT(i * LANES * FLOAT)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def fetch_add(typing: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at `address` as one step that no other thread can divide; returns what was there."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        place = builder.inttoptr(arguments[0], _INT.as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "monotonic")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def flush_denormals(typing: Any) -> Any:
    """Let the calling thread take numbers below 1.2e-38 as zeros; returns its mode, for `set_float_mode`.

    Arithmetic with them takes many times as long. They occur in weights that have decayed, and in memory that was
    used for something else, of which products read a few rows more than they need.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        before = _float_mode(builder)
        _set_float_mode(builder, builder.or_(before, _MODE(_FLUSH)))
        return builder.zext(before, _INT)

    return types.int64(), generate


@intrinsic
def set_float_mode(typing: Any, mode: Any) -> Any:
    """Give the calling thread back the mode that `flush_denormals` returned."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        _set_float_mode(builder, builder.trunc(arguments[0], _MODE))
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _float_mode(builder: ir.IRBuilder) -> ir.Value:
    """The register FPCR of ARM, or MXCSR of x86-64."""
    if _ON_ARM:
        return _call(builder, _INT, "llvm.aarch64.get.fpcr", [])
    place = builder.alloca(_MODE)
    _call(builder, ir.VoidType(), "llvm.x86.sse.stmxcsr", [builder.bitcast(place, _BYTES)])
    return builder.load(place)


def _set_float_mode(builder: ir.IRBuilder, mode: ir.Value) -> None:
    if _ON_ARM:
        _call(builder, ir.VoidType(), "llvm.aarch64.set.fpcr", [mode])
        return
    place = builder.alloca(_MODE)
    builder.store(mode, place)
    _call(builder, ir.VoidType(), "llvm.x86.sse.ldmxcsr", [builder.bitcast(place, _BYTES)])


@intrinsic
def floats_at(typing: Any, address: Any) -> Any:
    """The address as a pointer to float32, for numba's `carray`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        return builder.inttoptr(arguments[0], _SCALAR.as_pointer())

    return types.CPointer(types.float32)(types.int64), generate


def _transform(matrix: Matrix, *, adds_bias: bool = False, relu: bool = False, pool: bool = False) -> Any:
    """An intrinsic that computes M v M^T for every lane of a square of vectors v.

    Its arguments: the address of a list of source addresses (row by row), of a list of destinations, of the bias (used
    only by one that adds it), and the bytes to work through at each of them, a multiple of 4 LANES. With `pool` the
    largest of each 2x2 window is stored alone; with `relu` values below zero become zero. A NaN stays one.
    """
    side_out, side_in = len(matrix), len(matrix[0])

    @intrinsic
    def transform(typing: Any, sources: Any, destinations: Any, bias: Any, num_bytes: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            sources, destinations, bias, num_bytes = arguments

            def body(offset: ir.Value) -> None:
                def load(i: int, j: int) -> ir.Value:
                    return _load(builder, builder.add(_listed(builder, sources, i * side_in + j), offset))

                columns = [_apply(builder, matrix, [load(i, j) for i in range(side_in)]) for j in range(side_in)]
                shift = _load(builder, builder.add(bias, offset)) if adds_bias else None
                results = []
                for i in range(side_out):
                    results.append(_apply(builder, matrix, [column[i] for column in columns]))
                    if not pool:
                        store(i, results[-1], shift, offset)
                    elif i % 2:
                        store(i // 2, _pooled(builder, *results[-2:]), shift, offset)

            def store(row: int, values: Sequence[ir.Value], shift: ir.Value | None, offset: ir.Value) -> None:
                for j, value in enumerate(values):
                    result = value if shift is None else builder.fadd(value, shift)
                    if relu:
                        negative = builder.fcmp_ordered("<", result, _zeros())
                        result = builder.select(negative, _zeros(), result)
                    place = _listed(builder, destinations, row * len(values) + j)
                    _store(builder, result, builder.add(place, offset))

            _loop(builder, num_bytes, LANES * FLOAT, body)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return transform


def _pooled(builder: ir.IRBuilder, upper: Sequence[ir.Value], lower: Sequence[ir.Value]) -> list[ir.Value]:
    """The largest of each 2x2 window of two rows; a NaN if there is one in it."""
    tall = [_maximum(builder, a, b) for a, b in zip(upper, lower, strict=True)]
    return [_maximum(builder, tall[j], tall[j + 1]) for j in range(0, len(tall), 2)]


def _apply(builder: ir.IRBuilder, matrix: Matrix, values: Sequence[ir.Value]) -> list[ir.Value]:
    """M v. Two rows that are e + o and e - o, as those of the points 1 and -1 are, share the work for e and o."""
    results: list[ir.Value] = []
    while len(results) < len(matrix):
        row, following = matrix[len(results)], (*matrix, None)[len(results) + 1]
        if following and _mirrored(row, following):
            even = _combine(builder, [(x + y) / 2 for x, y in zip(row, following, strict=True)], values)
            odd = _combine(builder, [(x - y) / 2 for x, y in zip(row, following, strict=True)], values)
            results += [builder.fadd(even, odd), builder.fsub(even, odd)]
        else:
            results.append(_combine(builder, row, values))
    return results


def _mirrored(row: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the rows are e + o and e - o, where e and o have no column in common and neither is empty."""
    same = [x == y for x, y in zip(row, other, strict=True) if x or y]
    return all(abs(x) == abs(y) for x, y in zip(row, other, strict=True)) and any(same) and not all(same)


def _combine(builder: ir.IRBuilder, factors: Sequence[float], values: Sequence[ir.Value]) -> ir.Value:
    """The sum of factor * value."""
    terms = sorted(((f, v) for f, v in zip(factors, values, strict=True) if f), key=lambda term: abs(term[0]) != 1)
    factor, value = terms[0]
    if abs(factor) != 1:
        total = builder.fmul(value, _constant(factor))
    else:
        total = value if factor == 1 else builder.fneg(value)
    for factor, value in terms[1:]:
        if abs(factor) == 1:
            total = (builder.fadd if factor == 1 else builder.fsub)(total, value)
        else:
            total = _fma(builder, value, _constant(factor), total)
    return total


def _loop(builder: ir.IRBuilder, stop: ir.Value, step: int, body: Callable[[ir.Value], None]) -> None:
    """`body` with 0, step, 2 step ... below `stop`, which is above 0."""
    before, loop, after = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    offset = _phi(builder, _INT, _INT(0), before)
    body(offset)
    following = builder.add(offset, _INT(step))
    offset.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, stop), loop, after)
    builder.position_at_end(after)


def _phi(builder: ir.IRBuilder, kind: ir.Type, start: ir.Value, before: ir.Block) -> Any:
    phi = builder.phi(kind)
    phi.add_incoming(start, before)
    return phi


def _listed(builder: ir.IRBuilder, addresses: ir.Value, index: int) -> ir.Value:
    """Entry `index` of a list of addresses."""
    return builder.load(builder.inttoptr(builder.add(addresses, _INT(index * 8)), _INT.as_pointer()))


def _load(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.load(builder.inttoptr(address, _VECTOR.as_pointer()), align=FLOAT)


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    builder.store(value, builder.inttoptr(address, _VECTOR.as_pointer()), align=FLOAT)


def _broadcast(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """One float in every lane."""
    value = builder.load(builder.inttoptr(address, _SCALAR.as_pointer()))
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _fma(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x y + z in one rounding."""
    return _call(builder, _VECTOR, f"llvm.fma.v{LANES}f32", [x, y, z])


def _maximum(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return _call(builder, _VECTOR, f"llvm.maximum.v{LANES}f32", [x, y])


def _call(builder: ir.IRBuilder, result: ir.Type, name: str, arguments: Sequence[ir.Value]) -> ir.Value:
    """The result of one of LLVM's intrinsics."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(get_or_insert_function(builder.module, kind, name), arguments)


def _constant(value: float) -> ir.Value:
    return ir.Constant(_VECTOR, [value] * LANES)


def _zeros() -> ir.Value:
    return _constant(0.0)


input_2, input_4 = _transform(F2.input), _transform(F4.input)
kernel_2, kernel_4 = _transform(F2.kernel), _transform(F4.kernel)
output_2, output_4 = _transform(F2.output, adds_bias=True), _transform(F4.output, adds_bias=True)
output_relu_2 = _transform(F2.output, adds_bias=True, relu=True)
output_relu_4 = _transform(F4.output, adds_bias=True, relu=True)
output_pool_2 = _transform(F2.output, adds_bias=True, relu=True, pool=True)
output_pool_4 = _transform(F4.output, adds_bias=True, relu=True, pool=True)
grad_output_2, grad_output_4 = _transform(transposed(F2.output)), _transform(transposed(F4.output))
grad_kernel_2, grad_kernel_4 = _transform(transposed(F2.kernel)), _transform(transposed(F4.kernel))
