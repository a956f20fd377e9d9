"""Convolution by products in bfloat16 with float32 sums, on the matrix unit (AMX) of a CPU that has one.

Every output is the sum of its 9 C products, so that its error is that of rounding both factors, at most 2^-8 of each.
`SplitBfloat16` is exact enough for float32: it multiplies what rounding loses as well.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from vggnet.accel.algorithm import Algorithm, Pass, Precision, Prepared, Shape
from vggnet.accel.buffers import CACHE_LINE, FLOAT, feature_maps, floats, kernel_scratch, scratch
from vggnet.accel.kernels import bfloat16_kernels as kernels
from vggnet.accel.kernels.bfloat16_kernels import CHUNK, PIXEL, SUMS
from vggnet.accel.kernels.tiles import BFLOAT16, CONFIGURATION, ROW, SIDE, STEP, has_tiles
from vggnet.accel.threads import num_threads
from vggnet.accel.weight_cache import FoldedWeights

# Positions that a thread packs, and works through for 32 output channels after the other: they stay in its cache.
BLOCK_BYTES = 768 << 10
MOST_POSITIONS = 4096
LEAST_POSITIONS = 128
SMALL_WEIGHTS = 1280 << 10  # bytes of packed ones that stay in a thread's cache as well
BLOCKS_PER_THREAD = 4  # where there are positions enough
MOST_PARTS = 8  # into which the positions are divided for the weight's gradient; each has sums of its own


class Bfloat16(Algorithm):
    """For numbers of channels that are multiples of 32; for 1 or 3 input channels all but the input's gradient."""

    name = "bfloat16"
    precision: Precision = "bfloat16"

    def supports(self, work: Pass, shape: Shape) -> bool:
        """Whether the numbers of channels fill tiles, and the CPU has the unit."""
        few = shape.in_channels in (1, 3) and work != "grad_input"
        return (few or shape.in_channels % SIDE == 0) and shape.out_channels % SIDE == 0 and has_tiles()

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32, *, relu: bool = False
    ) -> Tensor:
        """Packs the weight, then the image. Activations and gradients may be bfloat16 in all passes."""
        packed = _pack_weights(weight, memory=kernel_scratch)
        return _convolve(x, packed, len(weight), bias, relu=relu, dtype=dtype)

    def grad_input(self, grad: Tensor, weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The convolution of the gradient with the kernel turned by 180 degrees, C and K exchanged."""
        packed = _pack_weights(weight, memory=kernel_scratch, turned=True)
        return _convolve(grad, packed, weight.shape[1], None, dtype=dtype)

    def grad_weight(self, grad: Tensor, x: Tensor) -> Tensor:
        """For each tap the product of the shifted images, transposed, and the gradients, over all positions.

        The positions are added up in parts, the same ones for any number of threads. For few input channels PyTorch's
        convolution of bfloat16 does it.
        """
        n, in_channels, height, width = x.shape
        out_channels = grad.shape[1]
        if in_channels < SIDE:
            kernels_of = (out_channels, in_channels, 3, 3)
            few: Tensor = conv2d_weight(x.bfloat16(), kernels_of, grad.bfloat16(), padding=1)  # type: ignore[no-untyped-call]
            return few.float()
        layout, threads = _Layout(n, height, width), num_threads()
        parts = min(max(layout.positions // (2 * CHUNK), 1), MOST_PARTS)
        groups = min(math.ceil(2 * threads / parts), in_channels // SIDE)
        count = math.ceil(min(CHUNK, layout.positions) / SIDE) * SIDE
        a_row = (count + 2 * layout.first + SIDE) * BFLOAT16 // CACHE_LINE * CACHE_LINE
        a_row |= CACHE_LINE  # rows of 2^n bytes would share a few places of the cache
        a_bytes = math.ceil(in_channels // SIDE / groups) * SIDE * a_row
        b_panel = count // 2 * ROW
        scratch_bytes = a_bytes + out_channels // SIDE * b_panel
        squares = in_channels // SIDE * (out_channels // SIDE)
        packed, sums = scratch(threads * scratch_bytes, parts * squares * SUMS)
        result = feature_maps(out_channels, in_channels, 3, 3)
        fields: dict[str, Any] = {
            "n": n, "height": height, "width": width, "in_channels": in_channels, "out_channels": out_channels,
            "positions": layout.positions, "parts": parts, "groups": groups, "first": layout.first,
            "x_bytes": x.element_size(), "grad_bytes": grad.element_size(),
            "tiles": CONFIGURATION.ctypes.data, "offsets": layout.offsets(BFLOAT16), "x": x, "grad": grad,
            "zeros": _constant(max(in_channels, out_channels), 0.0, torch.float32), "a_row": a_row, "a_bytes": a_bytes,
            "b_panel": b_panel, "sums": sums, "y": result, "scratch": packed, "scratch_bytes": scratch_bytes,
        }  # fmt: skip
        kernels.sum_weight_gradients(blocks=parts * groups, **fields)
        kernels.join_weight_gradients(blocks=out_channels // SIDE, **fields)
        return result

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """The weight is packed once; ReLU and the pool are part of the last step."""
        shape = Shape.of(x, weights.weight)
        return self.prepare(shape, weights, relu, pool, torch.float32, torch.float32)(x)

    def prepare(
        self, shape: Shape, weights: FoldedWeights, relu: bool, pool: bool, x_dtype: torch.dtype, dtype: torch.dtype
    ) -> Prepared:
        """Factors are rounded anyway, so that a result in bfloat16 changes nothing for the next convolution."""
        packed = weights.derive(self.name, partial(_pack_weights, memory=floats))
        return _Prepared(shape, packed, weights.bias, relu=relu, pool=pool, x_dtype=x_dtype, dtype=dtype)


class SplitBfloat16(Algorithm):
    """A factor is the sum of two bfloat16: a value and the rest, at most 2^-9 of it. Of four products three are added.

    The one that is left out, of both rests, and what the two bfloat16 do not hold are at most 2^-16 of a product.
    """

    name = "bfloat16x3"
    # Below, nearly equal values change places too often: a cosine of 0.9999 to the gradient in float64.
    keeps_ties_from = 256

    def supports(self, work: Pass, shape: Shape) -> bool:
        """Whether the numbers of channels fill tiles, and the CPU has the unit."""
        return shape.in_channels % SIDE == shape.out_channels % SIDE == 0 and work != "grad_weight" and has_tiles()

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As in bfloat16."""
        return _convolve(x, _pack_split(weight, kernel_scratch), len(weight), bias, split=True)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """As in bfloat16."""
        packed = _pack_split(weight, kernel_scratch, turned=True)
        return _convolve(grad, packed, weight.shape[1], None, split=True)

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """As in bfloat16."""
        packed = weights.derive(self.name, partial(_pack_split, memory=floats))
        return _convolve(x, packed, len(weights.weight), weights.bias, relu=relu, pool=pool, split=True)


class _Layout:
    """The memory layout of a batch: its positions in order, see `kernels.bfloat16_kernels`."""

    def __init__(self, n: int, height: int, width: int) -> None:
        self.n = n
        self.height = height
        self.pitch = width + 1
        self.size = (height + 1) * self.pitch  # of an image
        self.first = self.pitch + 1  # positions of zeros before the first image
        self.positions = n * self.size

    def partition(self, position_bytes: int, panels: int, threads: int) -> tuple[int, int, int]:
        """How a convolution is divided into blocks: images, rows of each, and parts of the `panels` of 32 channels.

        Packed positions, of so many bytes, stay in the cache of their thread, and all weights are read for each block.
        So small weights are read again for each of a few rows, and of large ones each thread takes a part. Rows are an
        even number, as a pool needs, or all.
        """
        most = min(MOST_POSITIONS, BLOCK_BYTES // position_bytes)
        wanted = threads * BLOCKS_PER_THREAD
        images = max(min(most // self.size, math.ceil(self.n / wanted)), 1)
        bands = math.ceil(self.height * self.pitch / most)
        rows = math.ceil(self.height / bands / 2) * 2
        if 9 * position_bytes * panels * SIDE <= SMALL_WEIGHTS:
            share = self.height * self.n // (images * wanted) // 2 * 2
            least = math.ceil(LEAST_POSITIONS / self.pitch / 2) * 2
            rows = min(rows, max(share, least))
        rows = min(rows, self.height)
        blocks = math.ceil(self.n / images) * math.ceil(self.height / rows)
        return images, rows, min(max(wanted // blocks, 1), panels)

    def offsets(self, position_bytes: int) -> Tensor:
        """The distance of each tap from the first one, in bytes."""
        return _offsets(self.pitch, position_bytes)


@lru_cache(maxsize=256)
def _offsets(pitch: int, position_bytes: int) -> Tensor:
    places = [(y * pitch + x) * position_bytes for y in range(3) for x in range(3)]
    return torch.tensor(places, device="cpu")


@lru_cache(maxsize=64)
def _constant(channels: int, value: float, dtype: torch.dtype) -> Tensor:
    """What kernels read only."""
    return torch.full((channels,), value, dtype=dtype, device="cpu")


def _pack_weights(weight: Tensor, memory: Callable[[int], Tensor], *, turned: bool = False) -> Tensor:
    """weight (K, C, 3, 3) channels-last -> panels of 32 output channels, in `memory` of so many floats.

    turned: by 180 degrees, C and K exchanged.
    """
    out_channels, in_channels = weight.shape[:2]
    if in_channels < SIDE:
        packed = memory(out_channels // SIDE * STEP // FLOAT)
        kernels.pack_few_weights(blocks=out_channels // SIDE, in_channels=in_channels, w=weight, packed=packed)
        return packed
    packed = memory(weight.numel() * BFLOAT16 // FLOAT)
    kernels.pack_weights(
        blocks=out_channels // SIDE, in_channels=in_channels, out_channels=out_channels,
        w=weight, packed=packed, turned=int(turned),
    )  # fmt: skip
    return packed


def _pack_split(weight: Tensor, memory: Callable[[int], Tensor], *, turned: bool = False) -> Tensor:
    """As `_pack_weights`: the values, then the rests."""
    size = weight.numel() * BFLOAT16 // FLOAT
    packed = memory(2 * size)
    _pack_weights(weight, lambda count: packed[:size], turned=turned)
    _pack_weights(weight - weight.bfloat16().float(), lambda count: packed[size : 2 * size], turned=turned)
    return packed


def _convolve(
    x: Tensor,
    weights: Tensor,
    out_channels: int,
    bias: Tensor | None,
    *,
    relu: bool = False,
    pool: bool = False,
    dtype: torch.dtype = torch.float32,
    split: bool = False,
) -> Tensor:
    """x (N, C, H, W) channels-last by packed weights -> (N, out_channels, H, W) channels-last, halved by a pool.

    split: whether factors have rests, as `SplitBfloat16` says.
    """
    n, in_channels, height, width = x.shape
    shape = Shape(n, height, width, in_channels, out_channels)
    return _Prepared(shape, weights, bias, relu=relu, pool=pool, x_dtype=x.dtype, dtype=dtype, split=split)(x)


class _Prepared(Prepared):
    """What `_convolve` does with x of this shape and type.

    first: one of few input channels and without a pool, whose result in bfloat16 is what this one convolves. It is
        computed where its values are packed otherwise, and is never written to memory.
    """

    def __init__(
        self,
        shape: Shape,
        weights: Tensor,
        bias: Tensor | None,
        *,
        relu: bool,
        pool: bool,
        x_dtype: torch.dtype,
        dtype: torch.dtype,
        split: bool = False,
        first: "_Prepared | None" = None,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "shape": shape, "weights": weights, "bias": bias, "relu": relu, "pool": pool, "x_dtype": x_dtype,
            "dtype": dtype, "split": split,
        }  # fmt: skip
        n, height, width, in_channels, out_channels = shape
        self._few = in_channels < SIDE or first is not None  # windows are packed from float32
        layout, threads = _Layout(n, height, width), num_threads()
        steps = math.ceil(in_channels / SIDE) * (1 + split)
        planes = steps + (first is not None)  # for each position, 32 values
        images, rows, parts = layout.partition(planes * PIXEL, out_channels // SIDE, threads)
        blocks = math.ceil(n / images) * math.ceil(height / rows)
        positions = (images - 1) * layout.size + rows * layout.pitch
        unused = max(in_channels, out_channels) * FLOAT
        scratch_bytes = unused + 2 * SIDE * ROW + planes * (positions + 2 * layout.first + SIDE) * PIXEL
        zeros = _constant(max(in_channels, out_channels), 0.0, torch.float32)
        self._least = zeros if relu else _constant(out_channels, -math.inf, dtype)
        self._bias, self._weights, self._first = zeros if bias is None else bias, weights, first
        self._start = kernels.convolve.prepare(
            blocks=blocks * parts, n=n, height=height, width=width, in_channels=in_channels,
            out_channels=out_channels, images=images, rows=rows, parts=parts, first=layout.first, pool=int(pool),
            split=int(split), x_bytes=FLOAT if self._few else x_dtype.itemsize, y_bytes=dtype.itemsize,
            tiles=CONFIGURATION.ctypes.data, offsets=layout.offsets(PIXEL), zeros=zeros, b=weights,
            b_panel=math.ceil(9 * in_channels / SIDE) * STEP, bias=self._bias, least=self._least, unused=unused,
            scratch_bytes=scratch_bytes, **(first._fields() if first else {}),
        )  # fmt: skip
        self._y = n, out_channels, height >> pool, width >> pool, dtype
        self._scratch_bytes = threads * scratch_bytes

    def __call__(self, x: Tensor) -> Tensor:
        """As the base class says."""
        x = x.float() if self._few else x
        *shape, dtype = self._y
        y = feature_maps(*shape, dtype=dtype)
        self._start(x=x, y=y, scratch=scratch(self._scratch_bytes)[0])
        return y

    def after(self, first: Prepared) -> Prepared | None:
        """As the base class says."""
        if not isinstance(first, _Prepared) or self._few or self._arguments["split"]:
            return None
        one, two = first._arguments, self._arguments
        fits = one["dtype"] == two["x_dtype"] == torch.bfloat16 and first._few and not first._first and not one["pool"]
        return _Prepared(**self._arguments, first=first) if fits else None

    def _fields(self) -> dict[str, Any]:
        """What the kernel is told about the one before it."""
        shape: Shape = self._arguments["shape"]
        return {
            "before_channels": shape.in_channels, "before_b": self._weights, "before_bias": self._bias,
            "before_least": self._least,
        }  # fmt: skip
