"""Convolution by products in bfloat16 with float32 sums, on the matrix unit (AMX) of a CPU that has one.

Every output is the sum of its 9 C products, so that its error is that of rounding both factors, at most 2^-8 of each.
`SplitBfloat16` is exact enough for float32: it multiplies what rounding loses as well.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from vggnet.accel.algorithm import Algorithm, Amounts, Pass, Precision, Prepared, Shape
from vggnet.accel.algorithms import bfloat16_batch as batch
from vggnet.accel.buffers import CACHE_LINE, FLOAT, constant, feature_maps, floats, kernel_scratch, scratch
from vggnet.accel.kernels import bfloat16_kernels as kernels
from vggnet.accel.kernels.bfloat16_kernels import SUMS
from vggnet.accel.kernels.bfloat16_packing import PIXEL
from vggnet.accel.kernels.tiles import BFLOAT16, CONFIGURATION, ROW, SIDE, STEP, has_tiles
from vggnet.accel.threads import num_threads
from vggnet.accel.weight_cache import FoldedWeights

# Positions that a thread packs, and works through for 32 output channels after the other: they stay in its cache.
BLOCK_BYTES = 768 << 10
MOST_POSITIONS = 4096
LEAST_POSITIONS = 128
SMALL_WEIGHTS = 1280 << 10  # bytes of packed ones that stay in a thread's cache as well
BLOCKS_PER_THREAD = 4  # where there are positions enough
CHUNK = 1024  # positions that the weight's gradient packs at a time: of one factor they stay in the L2 cache
MOST_PARTS = 8  # into which the positions are divided for the weight's gradient; each has sums of its own


class Bfloat16(Algorithm):
    """For any numbers of channels: zeros fill them up to multiples of 32, but 1 and 3 input channels.

    Weights may also be (K, C, 1, 1), with a padding of 0, or (K, C, 3, 3) of that dilation, with a padding as large.

    Args:
        dilation: of 3x3 kernels; more than 1 only for at least 4 input channels.
    """

    name = "bfloat16"
    precision: Precision = "bfloat16"

    def __init__(self, dilation: int = 1) -> None:
        self._dilation = dilation

    def supports(self, work: Pass, shape: Shape) -> bool:
        """Whether the CPU has the unit. The input's gradient is not computed for 1 or 3 channels."""
        return not (work == "grad_input" and _PLAIN.packs_few(shape.in_channels)) and has_tiles()

    def fills_tiles(self, shape: Shape) -> bool:
        """Whether there is nothing to fill up."""
        few = _PLAIN.packs_few(shape.in_channels)
        return (few or shape.in_channels % SIDE == 0) and shape.out_channels % SIDE == 0

    def amounts(self, work: Pass, shape: Shape) -> Amounts:
        """With channels in whole tiles; of few channels all factors of an output are one row of a tile."""
        if _PLAIN.packs_few(shape.in_channels):
            if work == "grad_weight":  # by PyTorch
                return super().amounts(work, shape)
            n, height, width, in_channels, out_channels = shape
            pixels, weights = n * height * width, 9 * in_channels * out_channels
            return Amounts(SIDE * pixels * _filled(out_channels), pixels * in_channels, weights)
        in_channels, out_channels = _filled(shape.in_channels), _filled(shape.out_channels)
        return super().amounts(work, shape._replace(in_channels=in_channels, out_channels=out_channels))

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32, *, relu: bool = False
    ) -> Tensor:
        """Packs the weight, then the image. Activations and gradients may be bfloat16 in all passes."""
        window = _Window.of(weight, self._dilation)
        packed = _pack_weights(weight, window, memory=kernel_scratch)
        return _convolve(x, packed, len(weight), bias, window, relu=relu, dtype=dtype)

    def grad_input(self, grad: Tensor, weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The convolution of the gradient with the kernel turned by 180 degrees, C and K exchanged."""
        window = _Window.of(weight, self._dilation)
        packed = _pack_weights(weight, window, memory=kernel_scratch, turned=True)
        return _convolve(_fill(grad), packed, weight.shape[1], None, window, dtype=dtype)

    def grad_weight(self, grad: Tensor, x: Tensor, side: int = 3) -> Tensor:
        """For each tap the product of the gradients, transposed, and the shifted images, over all positions.

        The positions are added up in parts, the same ones for any number of threads. For few input channels PyTorch's
        convolution of bfloat16 does it.

        side: of the kernel, 3 or 1.
        """
        kernels_of = (grad.shape[1], x.shape[1], side, side)
        window = _Window(side, self._dilation)
        if window.packs_few(x.shape[1]):
            few: Tensor = conv2d_weight(x.bfloat16(), kernels_of, grad.bfloat16(), padding=1)  # type: ignore[no-untyped-call]
            return few.float()
        x, grad = _fill(x), _fill(grad)
        n, in_channels, height, width = x.shape
        out_channels = grad.shape[1]
        if window == _PLAIN and batch.pays(Shape(n, height, width, in_channels, out_channels)):
            return batch.grad_weight(grad, x)[: kernels_of[0], : kernels_of[1]]
        layout, threads = _Layout(n, height, width, window), num_threads()
        parts = min(max(layout.positions // (2 * CHUNK), 1), MOST_PARTS)
        groups = min(math.ceil(2 * threads / parts), out_channels // SIDE)
        count = math.ceil(min(CHUNK, layout.positions) / SIDE) * SIDE
        a_row = count * BFLOAT16 | CACHE_LINE  # rows of 2^n bytes would share a few places of the cache
        a_bytes = math.ceil(out_channels // SIDE / groups) * SIDE * a_row
        copies = 1 if window.taps == 1 else 2
        b_copy = (count // 2 + layout.first) * ROW
        scratch_bytes = a_bytes + in_channels // SIDE * copies * b_copy
        squares = in_channels // SIDE * (out_channels // SIDE)
        packed, sums = scratch(threads * scratch_bytes, parts * squares * window.taps * SUMS)
        result = feature_maps(out_channels, in_channels, side, side)
        fields: dict[str, Any] = {
            "n": n, "height": height, "width": width, "taps": window.taps, "gap": window.gap,
            "in_channels": in_channels, "out_channels": out_channels, "positions": layout.positions, "chunk": CHUNK,
            "parts": parts, "groups": groups, "first": layout.first, "x_bytes": x.element_size(),
            "grad_bytes": grad.element_size(), "tiles": CONFIGURATION.ctypes.data, "x": x, "grad": grad,
            "zeros": constant(max(in_channels, out_channels), 0.0), "a_row": a_row, "a_bytes": a_bytes,
            "copies": copies, "b_copy": b_copy, "sums": sums, "y": result, "scratch": packed,
            "scratch_bytes": scratch_bytes,
        }  # fmt: skip
        kernels.sum_weight_gradients(blocks=parts * groups, **fields)
        kernels.join_weight_gradients(blocks=out_channels // SIDE, **fields)
        return result[: kernels_of[0], : kernels_of[1]]

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """The weight is packed once; ReLU and the pool are part of the last step."""
        shape = Shape.of(x, weights.weight)
        return self.prepare(shape, weights, relu, pool, torch.float32, torch.float32)(x)

    def prepare(
        self, shape: Shape, weights: FoldedWeights, relu: bool, pool: bool, x_dtype: torch.dtype, dtype: torch.dtype
    ) -> Prepared:
        """Factors are rounded anyway, so that a result in bfloat16 changes nothing for the next convolution."""
        window = _Window.of(weights.weight, self._dilation)
        packed = weights.derive(self.name, partial(_pack_weights, window=window, memory=floats))
        return _Prepared(shape, packed, weights.bias, window, relu=relu, pool=pool, x_dtype=x_dtype, dtype=dtype)


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
        return _convolve(x, _pack_split(weight, kernel_scratch), len(weight), bias, _PLAIN, split=True)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """As in bfloat16."""
        packed = _pack_split(weight, kernel_scratch, turned=True)
        return _convolve(grad, packed, weight.shape[1], None, _PLAIN, split=True)

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """As in bfloat16."""
        packed = weights.derive(self.name, partial(_pack_split, memory=floats))
        return _convolve(x, packed, len(weights.weight), weights.bias, _PLAIN, relu=relu, pool=pool, split=True)


def _filled(channels: int) -> int:
    """To the next number of channels that fills tiles."""
    return -(-channels // SIDE) * SIDE


def _fill(x: Tensor) -> Tensor:
    """x (N, C, H, W) channels-last, with channels of zeros up to a multiple of 32."""
    rest = -x.shape[1] % SIDE
    return F.pad(x, (0, 0, 0, 0, 0, rest)).contiguous(memory_format=torch.channels_last) if rest else x


class _Window(NamedTuple):
    """Where the taps of a kernel lie."""

    side: int  # of the kernel, 3 or 1
    dilation: int

    @classmethod
    def of(cls, weight: Tensor, dilation: int) -> Self:
        """That of a weight (K, C, side, side)."""
        return cls(weight.shape[2], dilation)

    @property
    def taps(self) -> int:
        """Of the kernel."""
        return self.side**2

    def packs_few(self, in_channels: int) -> bool:
        """Whether all factors of an output, those of every tap and channel, fit into one row of a tile."""
        return self == _PLAIN and in_channels in (1, 3)

    @property
    def gap(self) -> int:
        """Positions of zeros between two rows of pixels."""
        return self.dilation * (self.side // 2)


_PLAIN = _Window(3, 1)


class _Layout:
    """The memory layout of a batch: its positions in order, see `kernels.bfloat16_kernels`."""

    def __init__(self, n: int, height: int, width: int, window: _Window) -> None:
        self.n = n
        self.height = height
        self.window = window
        self.pitch = width + window.gap
        self.size = (height + window.gap) * self.pitch  # of an image
        self.first = window.gap * (self.pitch + 1)  # positions of zeros before the first image
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
        if self.window.taps * position_bytes * panels * SIDE <= SMALL_WEIGHTS:
            share = self.height * self.n // (images * wanted) // 2 * 2
            least = math.ceil(LEAST_POSITIONS / self.pitch / 2) * 2
            rows = min(rows, max(share, least))
        rows = min(rows, self.height)
        blocks = math.ceil(self.n / images) * math.ceil(self.height / rows)
        return images, rows, min(max(wanted // blocks, 1), panels)


def _pack_weights(weight: Tensor, window: _Window, memory: Callable[[int], Tensor], *, turned: bool = False) -> Tensor:
    """weight (K, C, side, side) channels-last -> panels of 32 output channels, in `memory` of so many floats.

    Zeros fill both numbers of channels up to multiples of 32, but a C of 1 or 3.

    turned: by 180 degrees, C and K exchanged.
    """
    few = window.packs_few(weight.shape[1]) and not turned
    rest_of_out, rest_of_in = -len(weight) % SIDE, 0 if few else -weight.shape[1] % SIDE
    if rest_of_out or rest_of_in:
        weight = F.pad(weight, (0, 0, 0, 0, 0, rest_of_in, 0, rest_of_out)).contiguous(
            memory_format=torch.channels_last
        )
    out_channels, in_channels = weight.shape[:2]
    if few:
        packed = memory(out_channels // SIDE * STEP // FLOAT)
        kernels.pack_few_weights(blocks=out_channels // SIDE, in_channels=in_channels, w=weight, packed=packed)
        return packed
    packed = memory(weight.numel() * BFLOAT16 // FLOAT)
    kernels.pack_weights(
        blocks=out_channels // SIDE, in_channels=in_channels, out_channels=out_channels, taps=window.taps,
        w=weight, packed=packed, turned=int(turned),
    )  # fmt: skip
    return packed


def _pack_split(weight: Tensor, memory: Callable[[int], Tensor], *, turned: bool = False) -> Tensor:
    """As `_pack_weights`: the values, then the rests."""
    size = weight.numel() * BFLOAT16 // FLOAT
    packed = memory(2 * size)
    _pack_weights(weight, _PLAIN, lambda count: packed[:size], turned=turned)
    _pack_weights(weight - weight.bfloat16().float(), _PLAIN, lambda count: packed[size : 2 * size], turned=turned)
    return packed


def _convolve(
    x: Tensor,
    weights: Tensor,
    out_channels: int,
    bias: Tensor | None,
    window: _Window,
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
    if window == _PLAIN and not (split or pool or window.packs_few(in_channels)) and batch.pays(shape):
        filled = _filled(out_channels)
        bias = None if bias is None else F.pad(bias, (0, filled - out_channels))
        return batch.convolve(_fill(x), weights, filled, bias, relu=relu, dtype=dtype)[:, :out_channels]
    return _Prepared(shape, weights, bias, window, relu=relu, pool=pool, x_dtype=x.dtype, dtype=dtype, split=split)(x)


class _Prepared(Prepared):
    """What `_convolve` does with x of this shape and type. The result is a part of one with channels in whole tiles.

    first: one of few input channels and without a pool, whose result in bfloat16 is what this one convolves. It is
        computed where its values are packed otherwise, and is never written to memory.
    """

    def __init__(
        self,
        shape: Shape,
        weights: Tensor,
        bias: Tensor | None,
        window: _Window,
        *,
        relu: bool,
        pool: bool,
        x_dtype: torch.dtype,
        dtype: torch.dtype,
        split: bool = False,
        first: "_Prepared | None" = None,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "shape": shape, "weights": weights, "bias": bias, "window": window, "relu": relu, "pool": pool,
            "x_dtype": x_dtype, "dtype": dtype, "split": split,
        }  # fmt: skip
        n, height, width, in_channels, _ = shape
        few, out_channels = window.packs_few(in_channels), _filled(shape.out_channels)
        in_channels = in_channels if few else _filled(in_channels)
        self._few = few or first is not None  # windows are packed from float32
        layout, threads = _Layout(n, height, width, window), num_threads()
        taps = 1 if few else window.taps
        steps = math.ceil(in_channels / SIDE) * (1 + split)
        planes = steps + (first is not None)  # for each position, 32 values
        images, rows, parts = layout.partition(planes * PIXEL, out_channels // SIDE, threads)
        blocks = math.ceil(n / images) * math.ceil(height / rows)
        positions = (images - 1) * layout.size + rows * layout.pitch
        unused = max(in_channels, out_channels) * FLOAT
        scratch_bytes = unused + 2 * SIDE * ROW + planes * (positions + 2 * layout.first + SIDE) * PIXEL
        zeros = constant(max(in_channels, out_channels), 0.0)
        self._least = zeros if relu else constant(out_channels, -math.inf, dtype)
        self._bias = zeros if bias is None else F.pad(bias, (0, out_channels - len(bias)))
        self._weights, self._first = weights, first
        self._start = kernels.convolve.prepare(
            blocks=blocks * parts, n=n, height=height, width=width, taps=taps, gap=window.gap,
            in_channels=in_channels, out_channels=out_channels, images=images, rows=rows, parts=parts,
            first=layout.first, pool=int(pool), split=int(split),
            x_bytes=FLOAT if self._few else x_dtype.itemsize, y_bytes=dtype.itemsize,
            tiles=CONFIGURATION.ctypes.data, zeros=zeros, b=weights,
            b_panel=taps * math.ceil(in_channels / SIDE) * STEP, bias=self._bias, least=self._least, unused=unused,
            scratch_bytes=scratch_bytes, **(first._fields() if first else {}),
        )  # fmt: skip
        self._y = n, out_channels, height >> pool, width >> pool, dtype
        self._channels = shape.out_channels
        self._scratch_bytes = threads * scratch_bytes

    def __call__(self, x: Tensor) -> Tensor:
        """As the base class says."""
        x = x.float() if self._few else _fill(x)
        *shape, dtype = self._y
        y = feature_maps(*shape, dtype=dtype)
        self._start(x=x, y=y, scratch=scratch(self._scratch_bytes)[0])
        return y[:, : self._channels]

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
