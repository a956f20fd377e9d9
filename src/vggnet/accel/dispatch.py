"""The operator `conv3x3`: every pass runs by the fastest algorithm that supports its shape."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.accel.algorithm import Algorithm, Pass, Shape
from vggnet.accel.algorithms.direct import DirectConvolution
from vggnet.accel.autotuning import autotuner
from vggnet.accel.buffers import keep_freed_memory
from vggnet.accel.cost_model import fastest
from vggnet.accel.precision import allowed_precision
from vggnet.accel.startup import startup


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with 3x3 kernels, stride 1 and padding 1: `F.conv2d(x, weight, bias, padding=1)`, faster on a CPU.

    The algorithm is the fastest for the shape, as predicted or measured, or the one that $VGGNET_CONV names. Results
    differ from PyTorch's by rounding; products are computed in bfloat16 only where `allowed_precision` says so. float32
    on a CPU is computed here; everything else, such as an empty batch, autocast or `torch.vmap`, goes to F.conv2d.
    Gradients can be taken once (no gradients of gradients).

    Args:
        x: images (N, C, H, W) in any memory format; channels-last is faster.
        weight: kernels (K, C, 3, 3).
        bias: (K,); None adds nothing.

    Returns:
        (N, K, H, W); channels-last memory if it is computed here.

    Raises:
        RuntimeError: PyTorch's, if the shapes do not fit together.

    Source: Lavin & Gray, arXiv:1509.09308, for the Winograd algorithms.

    >>> import torch
    >>> from vggnet.accel import conv3x3
    >>> conv3x3(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))[0, 0]
    tensor([[4., 6., 4.],
            [6., 9., 6.],
            [4., 6., 4.]])
    """
    if not is_supported(x, weight, bias):
        return F.conv2d(x, weight, bias, padding=1)
    result: Tensor = _conv3x3(x, weight, bias)
    return result


def is_supported(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the operator computes these itself: float32 on a CPU, of fitting shapes, in no transform."""
    tensors = [tensor for tensor in (x, weight, bias) if tensor is not None]
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and x.ndim == 4
        and x.numel() > 0
        and weight.shape == (len(weight), x.shape[1], 3, 3)
        and (bias is None or bias.shape == (len(weight),))
        and not torch.is_autocast_enabled("cpu")
        and not is_wrapped(x)
    )


def is_recorded(x: Tensor) -> bool:
    """Whether autograd records what is done with x, for its gradient."""
    return torch.is_grad_enabled() and x.requires_grad


def is_traced() -> bool:
    """Whether a compiler or tracer records what is done, instead of doing it."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def is_wrapped(x: Tensor) -> bool:
    """Whether x stands for other tensors inside `torch.vmap`, `torch.func.grad` and the like: it has no memory."""
    return not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x)


def run_fastest(
    work: Pass, shape: Shape, run: Callable[[Algorithm], Tensor], label: str = "", *, keeps_ties: bool = False
) -> Tensor:
    """Run a pass by the fastest algorithm that supports it; the result is channels-last.

    run: the pass by an algorithm.
    label: what the autotuning cache calls the pass; by default its name.
    keeps_ties: whether to use only algorithms that do.
    """
    keep_freed_memory()
    key = _key(shape, label or work)
    if not kernels_pay(key):
        return channels_last(startup().run(partial(run, DirectConvolution())))
    algorithms = _algorithms(work, shape, keeps_ties)
    runs = {name: partial(run, algorithm) for name, algorithm in algorithms.items()}
    return channels_last(autotuner().run(key, runs, partial(fastest, algorithms.values(), work, shape)))


def expected(work: Pass, shape: Shape, label: str) -> tuple[Algorithm, str | None] | None:
    """The algorithm that `run_fastest` will use next, as long as `autotuner().choices` is the same.

    Returns:
        It, and the name of the pass in the autotuning cache if it holds only while `autotuner().predicts` it.
        None if it is not known.
    """
    key = _key(shape, label)
    if not kernels_pay(key):
        return None
    algorithms = _algorithms(work, shape, keeps_ties=False)
    if name := autotuner().settled(key, algorithms):
        return algorithms[name], None
    if autotuner().predicts(key):
        return algorithms[fastest(algorithms.values(), work, shape)], key
    return None


def _key(shape: Shape, label: str) -> str:
    """The name of a pass in the autotuning cache."""
    precision = allowed_precision()
    return shape.key(label) if precision == "float32" else f"{precision} {shape.key(label)}"


def _algorithms(work: Pass, shape: Shape, keeps_ties: bool) -> dict[str, Algorithm]:
    """Those that can be used, by their names."""
    precisions = "float32", allowed_precision()
    return {
        algorithm.name: algorithm
        for algorithm in _all_algorithms()
        if algorithm.precision in precisions
        and (shape.in_channels >= algorithm.keeps_ties_from or not keeps_ties)
        and algorithm.supports(work, shape)
    }


def kernels_pay(key: str) -> bool:
    """Whether a pass of this name in the autotuning cache is long enough for compiled kernels, or is to be measured."""
    return autotuner().knows(key) or startup().pays()


def channels_last(tensor: Tensor) -> Tensor:
    """The tensor (N, C, H, W) in channels-last memory; copied only if it is not."""
    return tensor.contiguous(memory_format=torch.channels_last)


@cache
def _all_algorithms() -> tuple[Algorithm, ...]:
    from vggnet.accel.algorithms.all import ALGORITHMS  # imports numba, which takes a part of a second

    startup().start()
    return ALGORITHMS


@torch.library.custom_op("vggnet::conv3x3", mutates_args=())
def _conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.contiguous()
    x, weight = channels_last(x), channels_last(weight)
    return run_fastest("forward", Shape.of(x, weight), lambda algorithm: algorithm.forward(x, weight, bias))


@torch.library.custom_op("vggnet::conv3x3_grad_input", mutates_args=())
def _grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    grad, weight = channels_last(grad), channels_last(weight)
    return run_fastest("grad_input", Shape.of(grad, weight), lambda algorithm: algorithm.grad_input(grad, weight))


@torch.library.custom_op("vggnet::conv3x3_grad_weight", mutates_args=())
def _grad_weight(grad: Tensor, x: Tensor) -> Tensor:
    n, in_channels, height, width = x.shape
    shape = Shape(n, height, width, in_channels, grad.shape[1])
    grad, x = channels_last(grad), channels_last(x)
    return run_fastest("grad_weight", shape, lambda algorithm: algorithm.grad_weight(grad, x))


@_conv3x3.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _empty(x, (len(x), len(weight), *x.shape[2:]))


@_grad_input.register_fake
def _(grad: Tensor, weight: Tensor) -> Tensor:
    return _empty(grad, (len(grad), weight.shape[1], *grad.shape[2:]))


@_grad_weight.register_fake
def _(grad: Tensor, x: Tensor) -> Tensor:
    return _empty(x, (grad.shape[1], x.shape[1], 3, 3))


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(context: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = context.saved_tensors
    for_x, for_weight, for_bias = context.needs_input_grad
    return (
        _grad_input(grad, weight) if for_x else None,
        _grad_weight(grad, x) if for_weight else None,
        grad.sum((0, 2, 3)) if for_bias else None,
    )


_conv3x3.register_autograd(_backward, setup_context=_save_inputs)
