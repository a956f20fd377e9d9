"""A fully connected layer for few images, with its weights in float16: memory traffic is its time, and this is half.

Values and sums stay float32; only the weights are rounded, by at most 2^-11 of each.
"""

import math

from torch import Tensor

from vggnet.accel.buffers import floats
from vggnet.accel.compilation import problem
from vggnet.accel.vectors import VECTORS

LARGEST = 65504  # that float16 holds


def supports(weight: Tensor) -> bool:
    """Whether weight (out, in) float32 fills the vectors, no value is too large for float16, and kernels work here."""
    if VECTORS is None or not VECTORS.float16 or problem():
        return False
    from vggnet.accel.kernels.llvm import FLOAT16_ROWS

    rows, depth = weight.shape
    return rows % FLOAT16_ROWS == 0 and depth % VECTORS.lanes == 0 and bool(weight.abs().max() < LARGEST)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (N, in) float32, weight (out, in) float16, bias (out,) float32 -> (N, out) float32."""
    from vggnet.accel.kernels import float16_kernels as kernels

    x = x.contiguous()
    images, (rows, depth) = len(x), weight.shape
    y = floats(images, rows)
    kernels.linear(
        blocks=math.ceil(rows / kernels.ROWS_BLOCK), rows=rows, depth=depth, images=images, w=weight, x=x,
        bias=floats(rows).zero_() if bias is None else bias, y=y,
    )  # fmt: skip
    return y
