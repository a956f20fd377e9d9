"""Networks that are looked into: opened plainly, and given back as they were found."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from vggnet.accel.api import accelerate
from vggnet.devices import choose_device
from vggnet.errors import ConfigError
from vggnet.models.vgg import VGG
from vggnet.weights.checkpoint import load

Model = VGG | Path | str


def opened(model: Model, device: str | None = None, *, fast: bool = False) -> VGG:
    """The network of a run folder, a `.safetensors` file or a name of `vgg weights list`, by default on a GPU if any.

    A VGG is taken as it is, and stays where it is unless there is a `device`.
    fast: on the fast convolutions of a CPU. Gradients are better off without: which of them is the fastest is measured,
        and the last bit of an activation, which differs, can decide a ReLU or a pool.
    Raises: ConfigError if there is no such device, or the model has no weights; WeightsError as `vggnet.load`.
    """
    if isinstance(model, VGG):
        if next(model.parameters()).is_meta:
            raise ConfigError("the model was built without weights (init=None); load some before it is explained.")
        return model if device is None else model.to(choose_device(device))
    place = choose_device(device)
    network = load(model).to(place)
    return accelerate(network) if fast and place.type == "cpu" else network


@contextmanager
def borrowed(network: nn.Module) -> Iterator[None]:
    """Eval mode and frozen weights inside; afterwards each layer's mode and what wants gradients are as before."""
    modes = [(module, module.training) for module in network.modules()]
    wishes = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        if any(training for _, training in modes):
            network.eval()
        network.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wish in wishes:
            parameter.requires_grad_(wish)
