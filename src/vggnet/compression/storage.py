"""How weights are stored in fewer bytes: as float16, or as int8 with a step for each output."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vggnet.errors import ConfigError
from vggnet.models.architecture import Architecture
from vggnet.models.vgg import VGG, empty
from vggnet.weights.file_format import STEP, quantized


def in_half(model: VGG) -> dict[str, Tensor]:
    """The tensors of a network, weights of convolutions and fully connected layers as float16.

    Vectors (biases, batch norm) stay float32: they are few, and the variances of batch norm can be large.
    Raises: ConfigError for a weight that float16 cannot hold.

    Example:
        >>> from vggnet.models.vgg import build
        >>> tensors = in_half(build("vgg11", num_classes=2, head="gap", width=0.1))
        >>> tensors["features.conv1_1.weight"].dtype, tensors["features.conv1_1.bias"].dtype
        (torch.float16, torch.float32)
    """
    tensors = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(f"{name} holds a number above 65,504, which float16 has not. Leave out the step half.")
    return tensors


def in_int8(model: VGG) -> dict[str, Tensor]:
    """The tensors of a network, weights of convolutions and fully connected layers as int8 with steps.

    A weight is its int8 number times the step of its output, the largest absolute weight of that output over 127.
    Vectors stay float32. A file of such tensors is computed with in float32.

    Example:
        >>> from vggnet.models.vgg import build
        >>> tensors = in_int8(build("vgg11", num_classes=2, head="gap", width=0.1))
        >>> tensors["head.fc.weight"].dtype, tensors["head.fc.weight.step"].shape
        (torch.int8, torch.Size([2]))
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            tensors[name], tensors[f"{name}{STEP}"] = quantized(tensor)
        else:
            tensors[name] = tensor
    return tensors


STORAGE: Mapping[str, Callable[[VGG], dict[str, Tensor]]] = {"half": in_half, "quantize": in_int8}


def stored_bytes(architecture: Architecture, *, storage: str | None, folds: bool) -> int:
    """Bytes of the tensors of a network in a file.

    Args:
        architecture: of the network.
        storage: a key of `STORAGE`; None for float32.
        folds: whether batch norm is folded before it is stored.

    Example:
        >>> stored_bytes(Architecture(name="vgg16"), storage=None, folds=False)
        553430176
    """
    if folds:
        architecture = replace(architecture, name=architecture.name.removesuffix("_bn"))
    bytes_each, steps = {None: (4, 0), "half": (2, 0), "quantize": (1, 4)}[storage]
    return sum(
        tensor.numel() * bytes_each + len(tensor) * steps if tensor.ndim > 1 else tensor.nbytes
        for tensor in empty(architecture).state_dict().values()
    )
