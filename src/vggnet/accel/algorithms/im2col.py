"""Convolution of images of few channels, as a VGG's first layer is: a product with their unfolded rows.

`reference.forward_unfolded` says what it computes. Winograd transforms vectors of channels, and three do not fill one.
The products' sums are 9 C deep, 27 for RGB.
"""

import math

from torch import Tensor

from vggnet.accel.algorithm import Algorithm, Amounts, Pass, Shape, relu_and_pool
from vggnet.accel.buffers import FLOAT, feature_maps, floats
from vggnet.accel.kernels import im2col_kernels as kernels
from vggnet.accel.kernels.llvm import COLUMNS, ROWS
from vggnet.accel.threads import num_threads
from vggnet.accel.weight_cache import FoldedWeights

MOST_CHANNELS = 4  # of the input
STREAM_BYTES = 16 << 20  # outputs from here on would only push other things out of the caches
PARTS = 16  # of the rows, at most, whose weight gradients are summed one by one: the same for any number of threads


class Im2col(Algorithm):
    """For few input channels; the gradient of the input is left to others, as a first layer needs none."""

    name = "im2col"

    def supports(self, work: Pass, shape: Shape) -> bool:
        """Whether a row of the map is as wide as a product's tile, and the output channels fill tiles."""
        fits = shape.in_channels <= MOST_CHANNELS and shape.out_channels % COLUMNS == 0 and shape.width >= ROWS
        return fits and work != "grad_input"

    def amounts(self, work: Pass, shape: Shape) -> Amounts:
        """Channels of the input need not fill vectors."""
        n, height, width, in_channels, out_channels = shape
        return Amounts(9 * n * height * width * in_channels * out_channels, 0, 0)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
        """With `relu`, what is below 0 becomes 0."""
        n, _, height, width = x.shape
        y = feature_maps(n, len(weight), height, width)
        taps = weight.permute(3, 2, 1, 0).contiguous()  # (column, row, C, K), as the rows are unfolded
        kernels.forward(
            blocks=n * height, y=y, w=taps, bias=floats(len(weight)).zero_() if bias is None else bias,
            relu=int(relu), stream=int(y.nbytes >= STREAM_BYTES), **_images(x, len(weight)),
        )  # fmt: skip
        return y

    def grad_weight(self, grad: Tensor, x: Tensor) -> Tensor:
        """Summed by parts of the rows, then over these."""
        n, channels, height, _ = x.shape
        taps, parts = 9 * channels, min(PARTS, n * height)
        sums = floats(parts, math.ceil(taps / ROWS) * ROWS, grad.shape[1]).zero_()
        kernels.grad_weight(
            blocks=parts, rows=n * height, y=grad, sums=sums, sums_bytes=sums.stride(0) * FLOAT,
            **_images(x, grad.shape[1]),
        )  # fmt: skip
        total = sums.sum(0)[:taps].view(3, 3, channels, -1)
        return total.permute(3, 2, 1, 0)

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """ReLU is part of the product's last step."""
        return relu_and_pool(self.forward(x, weights.weight, weights.bias, relu=relu), relu=False, pool=pool)


def _images(x: Tensor, out_channels: int) -> dict[str, Tensor | int]:
    """The fields of a task that both passes share. A tile reads up to ROWS floats beyond what it uses."""
    _, channels, height, width = x.shape
    unfolded = floats(num_threads(), (width + 2) * 3 * channels + ROWS)
    return {
        "height": height, "width": width, "in_channels": channels, "out_channels": out_channels, "x": x,
        "unfolded": unfolded, "unfolded_bytes": unfolded.stride(0) * FLOAT,
    }  # fmt: skip
