"""Layers that do not learn: convolutions with what follows them as one operator, and float16 weights of linear layers.

The operator also gives the gradient of its input, which is a convolution with fixed weights too. What is made from the
weights (batch norm folded into them, kernels transformed, float16) is cached while they stay unchanged; the weights
themselves stay the module's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.accel.algorithm import Algorithm, Prepared, Shape, round_up
from vggnet.accel.autotuning import DIRECT, Candidate, autotuner
from vggnet.accel.buffers import floats, keep_freed_memory
from vggnet.accel.dispatch import channels_last, expected, is_recorded, kernels_pay, run_fastest
from vggnet.accel.precision import allowed_precision, best_precision
from vggnet.accel.startup import startup
from vggnet.accel.weight_cache import FoldedWeights, cached

FLOAT16, BFLOAT16 = "float16", "bfloat16"
FEW = 8  # images for which reading the weights takes longer than multiplying them


def convolve(
    conv: nn.Conv2d, norm: nn.BatchNorm2d | None, x: Tensor, *, relu: bool, pool: bool, for_convolution: bool = False
) -> Tensor:
    """3x3 convolution of x (N, C, H, W), then batch norm by its running statistics, ReLU and 2x2 max pool if wanted.

    float32 on a CPU. With `pool` the height and width must be even, and `relu` true. The result is channels-last. The
    weights get no gradient; that of x can be taken once. Where it is recorded, the algorithm is one that keeps ties,
    as ReLU and pool decide where the gradient goes.

    for_convolution: whether the result goes into another one of these alone. It is in bfloat16 then if products may be
        computed in it, and x may be: half of the memory traffic. Not where a gradient is recorded.
    """
    if is_recorded(x):
        y: Tensor = _Convolution.apply(x, conv, norm, relu)
        return F.max_pool2d(y, 2) if pool else y
    return _convolve(FoldedWeights(conv, norm), x, "inference", relu, pool, _result_type(for_convolution))


class PreparedLayers:
    """What `convolve` does, without a gradient, with every image batch of the same shape and type.

    One convolution, or two in one pass. It notices itself that weights have changed; else it holds as long as
    `autotuner().choices` and PyTorch's switches do, and while algorithms that are only predicted stay so.

    Attributes:
        predicted: what the autotuning cache calls those.
    """

    def __init__(
        self,
        layers: Sequence[tuple[nn.Conv2d, nn.BatchNorm2d | None]],
        prepare: Callable[[Sequence[FoldedWeights]], Prepared],
        predicted: Sequence[str],
    ) -> None:
        self._layers, self._prepare, self.predicted = layers, prepare, predicted
        self._weights = [FoldedWeights(*layer) for layer in layers]
        self._prepared = prepare(self._weights)

    def __call__(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) of that shape and type; the result is channels-last."""
        weights = [FoldedWeights(*layer) for layer in self._layers]
        if any(one.weight is not other.weight for one, other in zip(weights, self._weights, strict=True)):
            self._weights, self._prepared = weights, self._prepare(weights)
        return channels_last(self._prepared(channels_last(x)))

    def after(self, first: "PreparedLayers") -> "PreparedLayers | None":
        """Both in one pass; None where there is no kernel for that."""
        count = len(first._layers)

        def prepare(weights: Sequence[FoldedWeights]) -> Prepared:
            both = self._prepare(weights[count:]).after(first._prepare(weights[:count]))
            assert both is not None
            return both

        if self._prepared.after(first._prepared) is None:
            return None
        return PreparedLayers([*first._layers, *self._layers], prepare, [*first.predicted, *self.predicted])


def prepare(
    conv: nn.Conv2d, norm: nn.BatchNorm2d | None, x: Tensor, *, relu: bool, pool: bool, for_convolution: bool
) -> PreparedLayers | None:
    """What `convolve` does without a gradient, see `PreparedLayers`; None if the algorithm is not known yet."""
    shape = Shape.of(x, conv.weight)
    found = expected("inference", shape, _label("inference", relu, pool))
    if found is None:
        return None
    algorithm, key = found
    x_dtype, dtype = x.dtype, _result_type(for_convolution)
    return PreparedLayers(
        [(conv, norm)],
        lambda weights: algorithm.prepare(shape, weights[0], relu, pool, x_dtype, dtype),
        [] if key is None else [key],
    )


def _result_type(for_convolution: bool) -> torch.dtype:
    return torch.bfloat16 if for_convolution and allowed_precision() == "bfloat16" else torch.float32


def _label(label: str, relu: bool, pool: bool) -> str:
    return label + (" relu" if relu else "") + (" pool" if pool else "")


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, relu: bool) -> Tensor:
        weights = FoldedWeights(conv, norm)
        y = _convolve(weights, x, "recorded", relu, keeps_ties=True)
        ctx.weights = weights
        ctx.save_for_backward(y if relu else None, *weights.sources)  # their changes would be noticed
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, *_ = ctx.saved_tensors
        grad = channels_last(grad)
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        with torch.autocast("cpu", enabled=False):
            return _convolve(ctx.weights.turned(), grad), None, None, None


def _convolve(
    weights: FoldedWeights,
    x: Tensor,
    label: str = "inference",
    relu: bool = False,
    pool: bool = False,
    dtype: torch.dtype = torch.float32,
    *,
    keeps_ties: bool = False,
) -> Tensor:
    x = channels_last(x)
    shape = Shape.of(x, weights.weight)

    def run(algorithm: Algorithm) -> Tensor:
        return algorithm.prepare(shape, weights, relu, pool, x.dtype, dtype)(x)

    return run_fastest("inference", shape, run, _label(label, relu, pool), keeps_ties=keeps_ties)


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
    if not kernels_pay(key):
        return startup().run(candidates[DIRECT])
    weight = cached(layer, FLOAT16, [layer.weight], partial(_to_float16, layer.weight.detach()))
    if weight is not None:
        from vggnet.accel.algorithms import float16_linear

        candidates[FLOAT16] = partial(float16_linear.linear, x, weight, layer.bias)
    return autotuner().run(key, candidates, lambda: FLOAT16 if weight is not None and len(x) <= FEW else for_many)


def _linear_bfloat16(layer: nn.Linear, x: Tensor) -> Tensor:
    """By kernels of ours, or by PyTorch's own product, whose result is rounded before the bias is added."""
    weight = layer.weight.detach()
    if best_precision() == BFLOAT16:
        from vggnet.accel.algorithms import bfloat16_linear  # imports numba

        if bfloat16_linear.supports(weight):
            packed = cached(layer, f"packed {BFLOAT16}", [layer.weight], partial(bfloat16_linear.pack, weight))
            return bfloat16_linear.linear(x, packed, len(weight), layer.bias)
    rounded = cached(layer, BFLOAT16, [layer.weight], weight.bfloat16)
    y = F.linear(x.bfloat16(), rounded).float()
    return y if layer.bias is None else y + layer.bias


def _to_float16(weight: Tensor) -> Tensor | None:
    from vggnet.accel.algorithms import float16_linear  # imports numba

    if not float16_linear.supports(weight):
        return None
    return floats(*weight.shape, dtype=torch.float16).copy_(weight)
