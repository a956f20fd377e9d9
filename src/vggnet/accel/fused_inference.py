"""Convolutions with what follows them, and fully connected layers, for answering: without gradients.

What is made from the weights (batch norm folded into them, kernels transformed, float16) is `kept` while they stay
unchanged; the weights themselves stay the module's.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.accel.algorithms import matmul as dense
from vggnet.accel.autotuning import DIRECT, Algorithm, autotuner
from vggnet.accel.dispatch import (
    DENSE,
    DIRECT_NCHW,
    UNFOLD,
    WINOGRAD,
    fills_vectors,
    fits_unfold,
    round_up,
    shape_key,
)
from vggnet.accel.weight_cache import kept

HALVES = "halves"


def convolve(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, x: Tensor, *, relu: bool, pool: bool) -> Tensor:
    """3x3 convolution of x (N, C, H, W), then batch norm by its running statistics, ReLU and 2x2 max pool if wanted.

    float32 on a CPU. With `pool` the height and width must be even, and `relu` true. The result is channels-last.
    """
    sources = [conv.weight, conv.bias]
    if norm is not None:
        sources += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    ready = partial(kept, conv, tensors=[tensor for tensor in sources if tensor is not None])
    weight, bias = ready("folded", make=partial(_fold, conv, norm))
    x = x.contiguous(memory_format=torch.channels_last)

    def direct() -> Tensor:
        return _follow(F.conv2d(x, weight, bias, padding=1), relu, pool)

    def direct_nchw() -> Tensor:
        kernels = ready("nchw", make=weight.contiguous)
        return _follow(F.conv2d(x.contiguous(), kernels, bias, padding=1), relu, pool)

    def as_product() -> Tensor:
        height, width = x.shape[2:]
        expanded = ready(f"dense {height}x{width}", make=partial(dense.expand, weight, height, width))
        return _follow(dense.forward(x, expanded, bias), relu, pool)

    def unfolded() -> Tensor:
        from vggnet.accel.algorithms import im2col as unfold  # compiles its kernels

        return _follow(unfold.forward(x, weight, bias, relu=relu), False, pool)

    def by_winograd(name: str) -> Tensor:
        from vggnet.accel.algorithms import winograd  # compiles its kernels
        from vggnet.accel.kernels import winograd_kernels as kernels  # compiles its kernels

        transformed = ready(name, make=partial(winograd.transform_kernels, weight, WINOGRAD[name]))
        after = kernels.RELU_POOL if pool else kernels.RELU if relu else kernels.NOTHING
        return winograd.convolve(x, transformed, len(weight), bias, WINOGRAD[name], after=after)

    algorithms: dict[str, Algorithm] = {DIRECT: direct, DIRECT_NCHW: direct_nchw}
    if dense.fits(x):
        algorithms[DENSE] = as_product
    if fits_unfold(x, weight):
        algorithms[UNFOLD] = unfolded
    if fills_vectors(weight):
        algorithms |= {name: partial(by_winograd, name) for name in WINOGRAD}
    following = (" relu" if relu else "") + (" pool" if pool else "")
    y = autotuner().run(shape_key(f"answer{following}", x, weight), algorithms)
    return y.contiguous(memory_format=torch.channels_last)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """x (N, in) float32 on a CPU -> (N, out), by weights in float16 where that is faster.

    Rounding a weight changes it by at most 2^-11 of itself; weights too large for float16 are left as they are.
    """
    algorithms: dict[str, Algorithm] = {DIRECT: partial(F.linear, x, layer.weight, layer.bias)}

    def halved() -> Tensor | None:
        from vggnet.accel.algorithms import float16_linear as halves  # compiles its kernels

        return layer.weight.detach().half() if halves.supports(layer.weight) else None

    weight = kept(layer, HALVES, tensors=[layer.weight], make=halved)
    if weight is not None:
        from vggnet.accel.algorithms import float16_linear as halves

        algorithms[HALVES] = partial(halves.linear, x, weight, layer.bias)
    key = f"answer linear n={round_up(len(x))} {layer.in_features}->{layer.out_features}"
    return autotuner().run(key, algorithms)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """Weight, channels-last, and bias of a convolution that does the norm's work too.

    With s = gamma / sqrt(var + eps): s w x + s (b - mean) + beta.
    """
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach().contiguous()
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        shift = -norm.running_mean if bias is None else bias - norm.running_mean
        weight, bias = weight * scale.view(-1, 1, 1, 1), shift * scale + norm.bias.detach()
    return weight.contiguous(memory_format=torch.channels_last), bias


def _follow(y: Tensor, relu: bool, pool: bool) -> Tensor:
    y = y.relu_() if relu else y
    return F.max_pool2d(y, 2) if pool else y
