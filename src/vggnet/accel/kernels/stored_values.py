"""Values in memory as float32 or as bfloat16, for loops that numba compiles. Computed with is float32 alone.

bfloat16 is the upper half of a float32. numba has no such type: arrays of it are uint16.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic, overload

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.llvm import BFLOAT, floats_at

_SHORT, _INT = ir.IntType(16), ir.IntType(32)


def values_at(address: int, shape: tuple[int, int], value_bytes: int) -> Any:
    """The array at an address, of float32 if a value has 4 bytes, of bfloat16 if 2; compiled functions only."""
    raise NotImplementedError


def as_float32(value: Any) -> Any:
    """A value of such an array; compiled functions only."""
    raise NotImplementedError


def as_stored(value: Any, value_bytes: int) -> Any:
    """float32 for such an array, rounded to the nearest if it is bfloat16; compiled functions only."""
    raise NotImplementedError


@overload(values_at, prefer_literal=True, strict=False)
def _values_at(address: Any, shape: Any, value_bytes: Any) -> Any:
    if value_bytes.literal_value == FLOAT:
        return lambda address, shape, value_bytes: carray(floats_at(address), shape)
    return lambda address, shape, value_bytes: carray(_halves_at(address), shape)


@overload(as_float32, strict=False)
def _as_float32(value: Any) -> Any:
    return (lambda value: value) if value == types.float32 else (lambda value: _widened(value))


@overload(as_stored, prefer_literal=True, strict=False)
def _as_stored(value: Any, value_bytes: Any) -> Any:
    if value_bytes.literal_value == FLOAT:
        return lambda value, value_bytes: value
    return lambda value, value_bytes: _rounded(value)


@intrinsic
def _halves_at(typing: Any, address: Any) -> Any:
    """The address as a pointer to bfloat16."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        return builder.inttoptr(arguments[0], _SHORT.as_pointer())

    return types.CPointer(types.uint16)(types.int64), generate


@intrinsic
def _widened(typing: Any, value: Any) -> Any:
    """bfloat16 -> float32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        bits = builder.shl(builder.zext(arguments[0], _INT), ir.Constant(_INT, 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _rounded(typing: Any, value: Any) -> Any:
    """float32 -> bfloat16."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        return builder.bitcast(builder.fptrunc(arguments[0], BFLOAT), _SHORT)

    return types.uint16(types.float32), generate
