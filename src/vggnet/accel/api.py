"""Any PyTorch model on the fast kernels of this folder, and back. VGGNET_CONV=direct leaves all to PyTorch."""

from typing import TypeVar

import torch
from torch import nn

from vggnet.accel.fusion import FusedSequential
from vggnet.accel.modules import Conv3x3, LargeLinear
from vggnet.accel.threads import keep_freed_memory
from vggnet.accel.weight_cache import forget

Model = TypeVar("Model", bound=nn.Module)

MANY_WEIGHTS = 1 << 20  # from so many on, reading them is what a fully connected layer's time is


def accelerate(model: Model) -> Model:
    """Let every eligible layer of `model` take the fastest way on a CPU; returns the model itself.

    Eligible are 3x3 convolutions with stride 1, padding 1, dilation 1 and one group; batch norm, ReLU and a 2x2 max
    pool after it within an nn.Sequential; and fully connected layers of a million weights and more, which answer in
    eval mode by weights in float16 where that is faster (logits within 1e-3 of the largest one).
    Layers stay the objects they are, with their parameters, hooks and names; only their class changes, so `state_dict`
    is the same. Weights are laid out channels-last, which changes no value. In eval mode, without gradients, what is
    made of the weights is kept until they change; after a change through `.data`, which PyTorch does not count, call
    `model.eval()`. GNU's malloc keeps freed memory from now on, for the whole process: see `keep_freed_memory`.
    """
    keep_freed_memory()
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_eligible(module):
            module.__class__ = Conv3x3
        if type(module) is nn.Linear and module.weight.numel() >= MANY_WEIGHTS:
            module.__class__ = LargeLinear
        if type(module) is nn.Sequential:
            module.__class__ = FusedSequential
    return model.to(memory_format=torch.channels_last)


def restore(model: Model) -> Model:
    """Undo `accelerate`; returns the model itself."""
    stock: dict[type, type] = {Conv3x3: nn.Conv2d, LargeLinear: nn.Linear, FusedSequential: nn.Sequential}
    for module in model.modules():
        if type(module) in stock:
            forget(module)
            module.__class__ = stock[type(module)]
    return model


def _is_eligible(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.padding in ((1, 1), "same")
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )
