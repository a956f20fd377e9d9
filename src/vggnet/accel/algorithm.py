"""What every convolution algorithm offers. They are listed in `algorithms.all`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.accel.weight_cache import FoldedWeights

Pass = Literal["forward", "grad_input", "grad_weight", "inference"]
Precision = Literal["float32", "bfloat16"]  # of the factors of products; sums are float32


class Shape(NamedTuple):
    """The sizes of a 3x3 convolution with stride 1 and padding 1. All its passes have the same."""

    n: int  # images
    height: int  # of input and output
    width: int
    in_channels: int
    out_channels: int

    @classmethod
    def of(cls, activation: Tensor, weight: Tensor) -> "Shape":
        """Of an input or an output's gradient, and a weight (K, C, 3, 3)."""
        n, _, height, width = activation.shape
        return cls(n, height, width, weight.shape[1], weight.shape[0])

    def key(self, work: str) -> str:
        """The name of a pass of this shape in the autotuning cache.

        Batches and maps of nearly the same size share an entry: the last batch of an epoch, or whole photos.
        """
        batch = 1 << (self.n - 1).bit_length()
        size = f"{round_up(self.height)}x{round_up(self.width)}"
        return f"{work} n<={batch} {size} {self.in_channels}->{self.out_channels}"


class Amounts(NamedTuple):
    """What a pass has to do, for `cost_model`."""

    products: float  # multiplications, each with an addition
    values: float  # that are read, transformed or written
    weights: float  # that are read or transformed


class Prepared:
    """The inference of one convolution, or of two, to be called often with inputs of the same shape and type."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        self._run = run

    def __call__(self, x: Tensor) -> Tensor:
        """x and the result as `Algorithm.prepare` says."""
        return self._run(x)

    def after(self, first: "Prepared") -> "Prepared | None":
        """Both in one pass, with the same result; None where there is no such kernel."""
        return None


class Algorithm(ABC):
    """One way to compute a 3x3 convolution with stride 1 and padding 1, of float32 on a CPU.

    Activations x (N, C, H, W) and grad (N, K, H, W) and weights (K, C, 3, 3) come in channels-last memory; results may
    have either format.
    """

    name: str  # in the autotuning cache, in checkpoints and in $VGGNET_CONV
    precision: Precision = "float32"
    keeps_ties_from: float = 0  # input channels from which ReLU and pool decide as in float64, also in flat parts

    @abstractmethod
    def supports(self, work: Pass, shape: Shape) -> bool:
        """Whether it can do this pass of this shape on this machine."""

    def amounts(self, work: Pass, shape: Shape) -> Amounts:
        """What it has to do; by default as direct convolution does, with channels in whole vectors."""
        n, height, width, in_channels, out_channels = shape
        pixels, channels = n * height * width, fill(in_channels) * fill(out_channels)
        return Amounts(9 * pixels * channels, pixels * (in_channels + out_channels), 9 * in_channels * out_channels)

    @abstractmethod
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """y (N, K, H, W)."""

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """The gradient of x (N, C, H, W)."""
        raise NotImplementedError

    def grad_weight(self, grad: Tensor, x: Tensor) -> Tensor:
        """The gradient of the weight (K, C, 3, 3)."""
        raise NotImplementedError

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """The forward pass with weights that stay the same, then ReLU and a 2x2 max pool of an even map if wanted."""
        return relu_and_pool(self.forward(x, weights.weight, weights.bias), relu, pool)

    def prepare(
        self, shape: Shape, weights: FoldedWeights, relu: bool, pool: bool, x_dtype: torch.dtype, dtype: torch.dtype
    ) -> Prepared:
        """`inference` of x of this shape, to be called often.

        x and the result are float32, or bfloat16 where it lies between two convolutions with such products.
        """
        return Prepared(lambda x: self.inference(x.float(), weights, relu, pool).to(dtype))


def relu_and_pool(y: Tensor, relu: bool, pool: bool) -> Tensor:
    """What follows a convolution; ReLU changes y in place."""
    y = y.relu_() if relu else y
    return F.max_pool2d(y, 2) if pool else y


def fills_vectors(shape: Shape) -> bool:
    """Whether both numbers of channels are multiples of 16, the most float32 lanes that a vector has."""
    return shape.in_channels % 16 == 0 and shape.out_channels % 16 == 0


def fill(channels: int) -> int:
    """To the next number of channels that fills vectors."""
    return -(-channels // 16) * 16


def round_up(size: int) -> int:
    """To the next number of three binary digits and zeros (7, 14, 224 and powers of two stay): at most a fifth more."""
    step = 1 << max(size.bit_length() - 3, 0)
    return -(-size // step) * step
