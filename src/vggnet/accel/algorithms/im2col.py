"""Convolution of images of few channels, as a VGG's first layer is: a product with their unfolded rows.

`reference.forward_unfolded` says what it computes. Winograd transforms vectors of channels, and three do not fill one.
The products' sums are 9 C deep, 27 for RGB.
"""

import math

from torch import Tensor

from vggnet.accel.kernels import im2col_kernels as kernels
from vggnet.accel.kernels.llvm import COLUMNS, FLOAT, ROWS
from vggnet.accel.threads import floats, maps, num_threads, run

STREAM_BYTES = 16 << 20  # outputs from here on would only push other things out of the caches
SHARES = 16  # of the rows, at most, that are summed one by one for the kernel's gradient: the same for any threads


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether a row of x (N, C, H, W) is as wide as a tile, and the channels of weight (K, C, 3, 3) fill tiles."""
    return x.shape[3] >= ROWS and len(weight) % COLUMNS == 0


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """x (N, C, H, W) channels-last, weight (K, C, 3, 3) -> (N, K, H, W) channels-last.

    relu: what is below 0 becomes 0.
    """
    n, _, height, width = x.shape
    y = maps(n, len(weight), height, width)
    taps = weight.permute(3, 2, 1, 0).contiguous()  # (column, row, C, K), as the rows are unfolded
    run(
        kernels.forward, kernels.TASK, blocks=n * height, y=y, w=taps,
        bias=floats(len(weight)).zero_() if bias is None else bias, relu=int(relu),
        stream=int(y.nbytes >= STREAM_BYTES), **_images(x, len(weight)),
    )  # fmt: skip
    return y


def grad_weight(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of weight: grad (N, K, H, W), x (N, C, H, W), both channels-last -> (K, C, 3, 3)."""
    n, channels, height, _ = x.shape
    taps, shares = 9 * channels, min(SHARES, n * height)
    sums = floats(shares, math.ceil(taps / ROWS) * ROWS, grad.shape[1]).zero_()
    run(
        kernels.grad_weight, kernels.TASK, blocks=shares, rows=n * height, y=grad,
        sums=sums, sums_bytes=sums.stride(0) * FLOAT, **_images(x, grad.shape[1]),
    )  # fmt: skip
    total = sums.sum(0)[:taps].view(3, 3, channels, -1)
    return total.permute(3, 2, 1, 0)


def _images(x: Tensor, out_channels: int) -> dict[str, Tensor | int]:
    """The fields of a task that both passes share. A tile reads up to ROWS floats beyond what it uses."""
    _, channels, height, width = x.shape
    unfolded = floats(num_threads(), (width + 2) * 3 * channels + ROWS)
    return {
        "height": height, "width": width, "in_channels": channels, "out_channels": out_channels, "x": x,
        "unfolded": unfolded, "unfolded_bytes": unfolded.stride(0) * FLOAT,
    }  # fmt: skip
