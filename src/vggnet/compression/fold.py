"""Layers that others can take over, exactly: batch norm, and the pool that repeats one cell."""

from dataclasses import replace

import torch
from torch import nn

from vggnet.errors import ConfigError
from vggnet.models.folding import fold_norm
from vggnet.models.table1 import resolve
from vggnet.models.vgg import VGG, empty, fold_repeated_pool, repeats_one_cell


def fold(model: VGG, size: int) -> VGG:
    """Fold all that can be folded: batch norm into convolutions, and the paper's repeated pool into fc6.

    Args:
        model: the network; it is not changed.
        size: pixels of both sides of the images; below 64 pool5 gives one cell, which the head "paper" repeats 7x7.

    Returns:
        A network in eval mode with the same outputs, within rounding.

    Raises:
        ConfigError: there is nothing to fold.

    Example:
        >>> from vggnet.models.vgg import build
        >>> fold(build("vgg11_bn", num_classes=10, head="cifar", width=0.1), 32).architecture.name
        'vgg11'
    """
    has_norms, repeats = resolve(model.architecture.name).batch_norm, repeats_one_cell(model, size)
    if not has_norms and not repeats:
        raise ConfigError(
            f"{model.architecture.name} with the head {model.architecture.head} has nothing to fold at {size} pixels: "
            'neither batch norm nor, below 64 pixels, the head "paper". Leave the step out.'
        )
    folded = fold_batch_norm(model) if has_norms else model
    return (fold_repeated_pool(folded) if repeats else folded).eval()


@torch.no_grad()
def fold_batch_norm(model: VGG) -> VGG:
    """A copy without batch norm that computes what the network computes in eval mode.

    The new weights and biases are computed in float64; see `fold_norm`.

    Args:
        model: a network with batch norm.

    Raises:
        ConfigError: it has none.

    Example:
        >>> from vggnet.models.vgg import build
        >>> model = fold_batch_norm(build("vgg8_bn", num_classes=10, head="cifar", width=0.1))
        >>> model.architecture.name, [name for name, _ in model.features.named_children()][:3]
        ('vgg8', ['conv1_1', 'relu1_1', 'conv1_2'])
    """
    name = model.architecture.name
    if not resolve(name).batch_norm:
        raise ConfigError(f"{name} has no batch norm to fold.")
    folded = empty(replace(model.architecture, name=name.removesuffix("_bn")))
    state = {key: tensor for key, tensor in model.state_dict().items() if ".bn" not in key}
    for layer, norm in model.features.named_children():
        if isinstance(norm, nn.BatchNorm2d):
            place = f"features.{layer.replace('bn', 'conv')}"
            weight, bias = state[f"{place}.weight"], state[f"{place}.bias"]
            kernel, shift = fold_norm(weight, bias, norm)
            state[f"{place}.weight"], state[f"{place}.bias"] = kernel.to(weight.dtype), shift.to(bias.dtype)
    return with_state_of(model, folded, state).eval()


def with_state_of(model: VGG, made: VGG, state: dict[str, torch.Tensor]) -> VGG:
    """The network `made` of `model`, with these tensors and the classes, preprocessing and task of `model`."""
    made.load_state_dict({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()})
    made.classes, made.preprocess, made.task = model.classes, model.preprocess, model.task
    return made.train(model.training)
