"""What a network costs, counted without running it: weights, multiplications, and what training keeps of an image."""

from typing import NamedTuple

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


class Costs(NamedTuple):
    """Of one network and one image."""

    parameters: int
    fully_connected: int  # of the parameters, those of fully connected layers
    macs: int  # multiplications with an addition, of convolutions and fully connected layers
    file_bytes: int  # all parameters and buffers as they are in memory, float32
    activation_bytes: int  # what training keeps of the image for the backward pass


def count_costs(network: nn.Module, size: int) -> Costs:
    """Costs of a network on the meta device for a square RGB image of `size` pixels. It is left in training mode.

    Activations: every tensor that PyTorch's autograd saves in the forward pass, the image among them, each storage
    once, as far as it grows with the batch: parameters do not. A layer that keeps its input and one that keeps its
    output share what lies between them.
    """
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return Costs(
        parameters=_count(network),
        fully_connected=sum(map(_count, linear)),
        macs=_macs(network.eval(), size),
        file_bytes=sum(tensor.nbytes for tensor in network.state_dict().values()),
        activation_bytes=(_saved_bytes(network.train(), size, 4) - _saved_bytes(network, size, 2)) // 2,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _macs(network: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, size, size, device="meta"))
    operations: int = counter.get_total_flops()
    return operations // 2


def _saved_bytes(network: nn.Module, size: int, batch: int) -> int:
    """Bytes that autograd saves for the backward pass of a batch, parameters included."""
    saved: dict[int, UntypedStorage] = {}  # by its address, which holds as long as the storage is here

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.empty(batch, 3, size, size, device="meta"))
    return sum(storage.nbytes() for storage in saved.values())
