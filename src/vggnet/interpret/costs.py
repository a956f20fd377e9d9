"""What a network costs, counted without running it: parameters, multiply-adds, and what training keeps of an image."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks

from vggnet.models.architecture import Architecture
from vggnet.models.vgg import empty


class Costs(NamedTuple):
    """The costs of one network for one image."""

    parameters: int
    fully_connected: int  # of the parameters, those of fully connected layers
    macs: int  # multiply-adds of convolutions and fully connected layers
    file_bytes: int  # all parameters and buffers as they are in memory, float32
    activation_bytes: int  # what training keeps of the image for the backward pass


def layer_macs(layer: nn.Module, output: torch.Size | tuple[int, ...]) -> int:
    """Multiply-adds of one layer for one image: each number of the output takes one filter.

    Args:
        layer: any; only convolutions and fully connected layers have multiply-adds, the addition of a bias not counted.
        output: the shape of its output for one image, (C, H, W) or (C,).

    Example:
        >>> layer_macs(nn.Conv2d(3, 64, 3, device="meta"), (64, 224, 224))
        86704128
    """
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return 0
    return layer.weight[0].numel() * torch.Size(output).numel()


def count_macs(network: nn.Module, size: int, *, in_channels: int = 3) -> int:
    """Multiply-adds of all convolutions and fully connected layers for one square image.

    Args:
        network: any network on the meta device; it is left in eval mode.
        size: pixels of both sides.
        in_channels: of the image.

    Example:
        >>> count_macs(empty(Architecture(name="vgg16")), 224)
        15470264320
    """
    found: list[int] = []

    def add(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        found.append(layer_macs(layer, output.shape[1:]))

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        with torch.no_grad():
            network.eval()(torch.empty(1, in_channels, size, size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(found)


def architecture_macs(architecture: Architecture, size: int) -> int:
    """Multiply-adds of a network of ours for one square image; see `count_macs`.

    Args:
        architecture: of the network.
        size: pixels of both sides.

    Example:
        >>> architecture_macs(Architecture(name="vgg16"), 224)
        15470264320
    """
    # Batch norm has none, and takes most of the time of a network without data.
    without = replace(architecture, name=architecture.name.removesuffix("_bn"))
    return count_macs(empty(without), size, in_channels=architecture.in_channels)


def count_costs(network: nn.Module, size: int) -> Costs:
    """Count parameters, multiply-adds, bytes of the file, and activations.

    Activations are every tensor that PyTorch's autograd saves in the forward pass, the image included; each storage
    counts once, and only as far as it grows with the batch, which parameters do not.

    Args:
        network: any network for RGB images, on the meta device; it is left in training mode.
        size: pixels of both sides of the image.

    Example:
        >>> from vggnet.models.vgg import Architecture, empty
        >>> costs = count_costs(empty(Architecture(name="vgg16")), 224)
        >>> costs.parameters, costs.fully_connected
        (138357544, 123642856)
    """
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return Costs(
        parameters=_num_parameters(network),
        fully_connected=sum(map(_num_parameters, linear)),
        macs=count_macs(network, size),
        file_bytes=sum(tensor.nbytes for tensor in network.state_dict().values()),
        activation_bytes=(_saved_bytes(network.train(), size, 4) - _saved_bytes(network, size, 2)) // 2,
    )


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _saved_bytes(network: nn.Module, size: int, batch: int) -> int:
    """Bytes that autograd saves for the backward pass of a batch, parameters included."""
    saved: dict[int, UntypedStorage] = {}  # by its address, which is valid as long as the storage is kept here

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.empty(batch, 3, size, size, device="meta"))
    return sum(storage.nbytes() for storage in saved.values())
