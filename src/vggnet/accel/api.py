"""`accelerate` puts any PyTorch model on the engine of this package, `restore` takes it off."""

from typing import TypeVar

import torch
from torch import nn

from vggnet.accel.fusion import FusedSequential
from vggnet.accel.modules import Conv3x3, DilatedConv3x3, LargeLinear, OtherConv2d, PointwiseConv2d
from vggnet.accel.weight_cache import forget

Model = TypeVar("Model", bound=nn.Module)

MANY_WEIGHTS = 1 << 20  # from so many on, a fully connected layer takes the time of reading its weights


def accelerate(model: Model) -> Model:
    """Make a model faster on CPUs, in training and inference, by changing the class of its layers in place.

    Changed are 3x3 convolutions with stride 1, one group, and a padding equal to their dilation; nn.Sequential, which
    fuses such convolutions, batch norm, ReLU and 2x2 max pool; in bfloat16 also 1x1 convolutions with stride 1 and one
    group; and fully connected layers with at least 2^20 weights, which use float16 weights for inference where that is
    faster. Other convolutions stay PyTorch's; in a training in bfloat16 their tensors are rounded first, as by
    autocast. Layers stay the same objects with the same parameters, names, hooks and `state_dict`; weights become
    channels-last, which changes no value. Results differ by rounding: with float16 weights, logits by at most 1e-3 of
    the largest one. On other devices than the CPU, and with $VGGNET_CONV=direct, PyTorch does all the work.

    In eval mode without gradients of the weights, what is computed from the weights is cached until they change.
    PyTorch does not notice a change through `.data`: call `model.eval()` after one. At the first convolution on the
    CPU, the engine makes malloc keep freed memory (`vggnet.accel.buffers.keep_freed_memory`).

    Args:
        model: any module; of a subclass of nn.Conv2d, nn.Linear or nn.Sequential the layer is left as it is.

    Returns:
        `model` itself.

    >>> import torch, vggnet
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU())
    >>> vggnet.accelerate(model) is model
    True
    >>> model(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 16, 8, 8])
    """
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = _fast_class(module)
        if type(module) is nn.Linear and module.weight.numel() >= MANY_WEIGHTS:
            module.__class__ = LargeLinear
        if type(module) is nn.Sequential:
            module.__class__ = FusedSequential
    return model.to(memory_format=torch.channels_last)


def restore(model: Model) -> Model:
    """Undo `accelerate`: layers get back PyTorch's classes, and what was cached of their weights is dropped.

    Args:
        model: any module; weights stay channels-last.

    Returns:
        `model` itself.

    >>> import torch, vggnet
    >>> model = vggnet.accelerate(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1)))
    >>> type(vggnet.restore(model)[0])
    <class 'torch.nn.modules.conv.Conv2d'>
    """
    stock: dict[type, type] = {
        Conv3x3: nn.Conv2d,
        DilatedConv3x3: nn.Conv2d,
        OtherConv2d: nn.Conv2d,
        PointwiseConv2d: nn.Conv2d,
        LargeLinear: nn.Linear,
        FusedSequential: nn.Sequential,
    }
    for module in model.modules():
        if type(module) in stock:
            forget(module)
            module.__class__ = stock[type(module)]
    return model


def _fast_class(conv: nn.Conv2d) -> type[nn.Conv2d]:
    """The class of a convolution on this engine."""
    if conv.stride != (1, 1) or conv.groups != 1 or conv.padding_mode != "zeros":
        return OtherConv2d
    if conv.kernel_size == (1, 1) and conv.padding in ((0, 0), "same", "valid"):
        return PointwiseConv2d
    if conv.kernel_size == (3, 3) and conv.padding in (conv.dilation, "same"):
        return Conv3x3 if conv.dilation == (1, 1) else DilatedConv3x3
    return OtherConv2d
