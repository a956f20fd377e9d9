"""The operator: a 3x3 convolution with stride 1 and padding 1 that takes the fastest way there is for its shape."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from vggnet.accel.algorithms import matmul as dense
from vggnet.accel.autotuning import DIRECT, Algorithm, autotuner

DIRECT_NCHW, DENSE, UNFOLD = "direct_nchw", "dense", "unfold"
WINOGRAD = {"winograd4": 4, "winograd2": 2}  # name -> side of an output tile


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve x (N, C, H, W) with weight (K, C, 3, 3), stride 1, padding 1 -> (N, K, H, W), as F.conv2d does.

    float32 on a CPU gives channels-last memory, by the algorithm that was measured to be the fastest for the shape
    (`autotuning`). Everything else, an empty batch and autocast among it, goes to F.conv2d unchanged.
    Gradients: of all three arguments, once (not of gradients).
    """
    if not is_ours(x, weight, bias):
        return F.conv2d(x, weight, bias, padding=1)
    result: Tensor = _conv3x3(x, weight, bias)
    return result


def is_ours(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are for our own operator."""
    tensors = [tensor for tensor in (x, weight, bias) if tensor is not None]
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and x.ndim == 4
        and x.numel() > 0
        and weight.shape == (len(weight), x.shape[1], 3, 3)
        and (bias is None or bias.shape == (len(weight),))
        and not torch.is_autocast_enabled("cpu")
    )


@torch.library.custom_op("vggnet::conv3x3", mutates_args=())
def _conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x, weight = _channels_last(x), _channels_last(weight)
    bias = None if bias is None else bias.contiguous()
    algorithms: dict[str, Algorithm] = {
        DIRECT: partial(F.conv2d, x, weight, bias, padding=1),
        DIRECT_NCHW: lambda: F.conv2d(x.contiguous(), weight.contiguous(), bias, padding=1),
    }
    if dense.fits(x):
        algorithms[DENSE] = lambda: dense.forward(x, dense.expand(weight, *x.shape[2:]), bias)
    if fits_unfold(x, weight):
        from vggnet.accel.algorithms import im2col as unfold

        algorithms[UNFOLD] = partial(unfold.forward, x, weight, bias)
    if fills_vectors(weight):
        from vggnet.accel.algorithms import winograd

        algorithms |= {name: partial(winograd.forward, x, weight, bias, m) for name, m in WINOGRAD.items()}
    return _channels_last(autotuner().run(shape_key("forward", x, weight), algorithms))


@torch.library.custom_op("vggnet::conv3x3_grad_input", mutates_args=())
def _grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    grad, weight = _channels_last(grad), _channels_last(weight)
    shape = (len(grad), weight.shape[1], *grad.shape[2:])
    algorithms: dict[str, Algorithm] = {
        DIRECT: partial(conv2d_input, shape, weight, grad, padding=1),
        DIRECT_NCHW: lambda: conv2d_input(shape, weight.contiguous(), grad.contiguous(), padding=1),  # type: ignore[no-untyped-call]
    }
    if dense.fits(grad):
        algorithms[DENSE] = partial(dense.grad_input, grad, weight)
    if fills_vectors(weight):
        from vggnet.accel.algorithms import winograd

        algorithms |= {name: partial(winograd.grad_input, grad, weight, m) for name, m in WINOGRAD.items()}
    return _channels_last(autotuner().run(shape_key("grad_input", grad, weight), algorithms))


@torch.library.custom_op("vggnet::conv3x3_grad_weight", mutates_args=())
def _grad_weight(grad: Tensor, x: Tensor) -> Tensor:
    grad, x = _channels_last(grad), _channels_last(x)
    shape = (grad.shape[1], x.shape[1], 3, 3)
    algorithms: dict[str, Algorithm] = {
        DIRECT: partial(conv2d_weight, x, shape, grad, padding=1),
        DIRECT_NCHW: lambda: conv2d_weight(x.contiguous(), shape, grad.contiguous(), padding=1),  # type: ignore[no-untyped-call]
    }
    if dense.fits(x):
        algorithms[DENSE] = partial(dense.grad_weight, grad, x)
    weight = torch.empty(shape, device="meta")
    if fits_unfold(x, weight):
        from vggnet.accel.algorithms import im2col as unfold

        algorithms[UNFOLD] = partial(unfold.grad_weight, grad, x)
    if fills_vectors(weight):
        from vggnet.accel.algorithms import winograd

        algorithms |= {name: partial(winograd.grad_weight, grad, x, m) for name, m in WINOGRAD.items()}
    return _channels_last(autotuner().run(shape_key("grad_weight", grad, weight), algorithms))


@_conv3x3.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    shape = (len(x), len(weight), *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@_grad_input.register_fake
def _(grad: Tensor, weight: Tensor) -> Tensor:
    shape = (len(grad), weight.shape[1], *grad.shape[2:])
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)


@_grad_weight.register_fake
def _(grad: Tensor, x: Tensor) -> Tensor:
    shape = (grad.shape[1], x.shape[1], 3, 3)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(context: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = context.saved_tensors
    for_x, for_weight, for_bias = context.needs_input_grad
    return (
        _grad_input(grad, weight) if for_x else None,
        _grad_weight(grad, x) if for_weight else None,
        grad.sum((0, 2, 3)) if for_bias else None,
    )


_conv3x3.register_autograd(_backward, setup_context=_remember)


def _channels_last(tensor: Tensor) -> Tensor:
    """Where a size is 1, PyTorch's convolution may answer in the other format."""
    return tensor.contiguous(memory_format=torch.channels_last)


def fills_vectors(weight: Tensor) -> bool:
    """Whether both numbers of channels are multiples of 16, the most lanes that a vector has."""
    return weight.shape[0] % 16 == 0 and weight.shape[1] % 16 == 0


def fits_unfold(x: Tensor, weight: Tensor) -> bool:
    """Whether `unfold` can do it: few channels in, as a network's first layer has, and outputs that fill vectors."""
    if weight.shape[1] > 4 or weight.shape[0] % 16:
        return False
    from vggnet.accel.algorithms import im2col as unfold  # compiles its kernels

    return unfold.fits(x, weight)


def shape_key(work: str, activation: Tensor, weight: Tensor) -> str:
    """The pass and its shape; batches of nearly the same size, as the last of an epoch, share an entry, and so do maps
    of nearly the same size, as whole photos have."""
    n, _, height, width = activation.shape
    out_channels, in_channels = weight.shape[:2]
    batch = 1 << (n - 1).bit_length()
    return f"{work} n<={batch} {round_up(height)}x{round_up(width)} {in_channels}->{out_channels}"


def round_up(size: int) -> int:
    """To the next number of three binary digits and zeros (7, 14, 224 and powers of two stay): at most a fifth more."""
    step = 1 << max(size.bit_length() - 3, 0)
    return -(-size // step) * step
