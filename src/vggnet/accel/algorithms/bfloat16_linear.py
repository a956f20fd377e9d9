"""A fully connected layer by products in bfloat16 with float32 sums, on the matrix unit (AMX) of a CPU that has one.

The weight is packed once, in the order in which the unit reads it, and in half of the memory.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from vggnet.accel.buffers import FLOAT, floats
from vggnet.accel.kernels import bfloat16_linear_kernels as kernels
from vggnet.accel.kernels.tiles import BFLOAT16, CONFIGURATION, SIDE


def supports(weight: Tensor) -> bool:
    """Whether weight (out, in) float32 fills tiles."""
    rows, depth = weight.shape
    return rows >= SIDE and depth % SIDE == 0


def pack(weight: Tensor) -> Tensor:
    """weight (out, in) float32 as `linear` takes it."""
    rows, depth = weight.shape
    panels, steps = math.ceil(rows / SIDE), depth // SIDE
    packed = floats(panels * SIDE * depth * BFLOAT16 // FLOAT)
    kernels.pack(blocks=panels, rows=rows, steps=steps, w=weight.contiguous(), packed=packed)
    return packed


def linear(x: Tensor, packed: Tensor, rows: int, bias: Tensor | None) -> Tensor:
    """x (N, in) float32, a packed weight, bias (out,) float32 -> (N, out) float32; `rows` is out."""
    images, depth = x.shape
    steps, groups = depth // SIDE, math.ceil(images / SIDE)
    padded = F.pad(x.bfloat16(), (0, 0, 0, groups * SIDE - images))
    tiles = padded.view(groups, SIDE, steps, SIDE).transpose(1, 2).contiguous()
    y = floats(images, rows)
    kernels.linear(
        blocks=math.ceil(rows / SIDE), images=images, rows=rows, steps=steps, tiles=CONFIGURATION.ctypes.data,
        packed=packed, x=tiles, bias=floats(rows).zero_() if bias is None else bias, y=y,
    )  # fmt: skip
    return y
