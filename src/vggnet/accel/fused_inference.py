"""Inference: convolutions with what follows them as one operator, and fully connected layers with float16 weights.

What is made from the weights (batch norm folded into them, kernels transformed, float16) is cached while they stay
unchanged; the weights themselves stay the module's.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.accel.algorithm import Shape, round_up
from vggnet.accel.autotuning import DIRECT, Candidate, autotuner
from vggnet.accel.buffers import keep_freed_memory
from vggnet.accel.dispatch import channels_last, run_fastest
from vggnet.accel.precision import allowed_precision
from vggnet.accel.startup import startup
from vggnet.accel.weight_cache import FoldedWeights, cached

FLOAT16, BFLOAT16 = "float16", "bfloat16"
FEW = 8  # images for which reading the weights takes longer than multiplying them


def convolve(
    conv: nn.Conv2d, norm: nn.BatchNorm2d | None, x: Tensor, *, relu: bool, pool: bool, for_convolution: bool = False
) -> Tensor:
    """3x3 convolution of x (N, C, H, W), then batch norm by its running statistics, ReLU and 2x2 max pool if wanted.

    float32 on a CPU. With `pool` the height and width must be even, and `relu` true. The result is channels-last.

    for_convolution: whether the result goes into another one of these alone. It is in bfloat16 then if products may be
        computed in it, and x may be: half of the memory traffic.
    """
    weights = FoldedWeights(conv, norm)
    label = "inference" + (" relu" if relu else "") + (" pool" if pool else "")
    x = channels_last(x)
    dtype = torch.bfloat16 if for_convolution and allowed_precision() == "bfloat16" else torch.float32
    shape = Shape.of(x, weights.weight)
    return run_fastest("inference", shape, lambda algorithm: algorithm.infer(x, weights, relu, pool, dtype), label)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """x (N, in) float32 on a CPU -> (N, out), by weights in float16 where that is faster.

    Rounding a weight changes it by at most 2^-11 of itself; weights too large for float16 are left as they are. Where
    products may be computed in bfloat16, they are if that is faster.
    """
    keep_freed_memory()
    key = f"inference linear n={round_up(len(x))} {layer.in_features}->{layer.out_features}"
    candidates: dict[str, Candidate] = {DIRECT: partial(F.linear, x, layer.weight, layer.bias)}
    for_many = DIRECT
    if allowed_precision() == BFLOAT16:
        key, for_many = f"{BFLOAT16} {key}", BFLOAT16
        candidates[BFLOAT16] = partial(_linear_bfloat16, layer, x)
    if not (autotuner().knows(key) or startup().pays()):
        return startup().run(candidates[DIRECT])
    weight = cached(layer, FLOAT16, [layer.weight], partial(_to_float16, layer.weight.detach()))
    if weight is not None:
        from vggnet.accel.algorithms import float16_linear

        candidates[FLOAT16] = partial(float16_linear.linear, x, weight, layer.bias)
    return autotuner().run(key, candidates, lambda: FLOAT16 if weight is not None and len(x) <= FEW else for_many)


def _linear_bfloat16(layer: nn.Linear, x: Tensor) -> Tensor:
    """By PyTorch's own product, whose result is rounded before the bias is added."""
    weight = cached(layer, BFLOAT16, [layer.weight], layer.weight.detach().bfloat16)
    y = F.linear(x.bfloat16(), weight).float()
    return y if layer.bias is None else y + layer.bias


def _to_float16(weight: Tensor) -> Tensor | None:
    from vggnet.accel.algorithms import float16_linear  # imports numba

    return weight.half() if float16_linear.supports(weight) else None
