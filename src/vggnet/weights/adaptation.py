"""Trained weights for another network: other classes, channels or widths, and the start of fine-tuning."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vggnet.errors import ConfigError, WeightsError
from vggnet.models.initialization import bilinear_kernel
from vggnet.models.table1 import resolve
from vggnet.models.vgg import VGG, empty

FIRST, FIRST_BIAS = "features.conv1_1.weight", "features.conv1_1.bias"
FIRST_FOUR = ("1_1", "2_1", "3_1", "3_2")  # convolutions of column A, which deeper networks start with


@torch.no_grad()
def adapt(
    model: VGG, *, num_classes: int | None = None, in_channels: int | None = None, width: float | None = None
) -> VGG:
    """A network with the weights of `model` as far as they can be kept; see `vggnet.load` for the arguments.

    Raises: ConfigError if a number is out of range, or the width larger than the model's.
    """
    given = model.architecture
    num_classes = given.num_classes if num_classes is None else num_classes
    architecture = replace(
        given,
        num_classes=num_classes,
        in_channels=given.in_channels if in_channels is None else in_channels,
        width=given.width if width is None else width,
        head="gap" if given.head == "none" and num_classes else given.head,
    )
    if architecture == given:
        return model
    if architecture.width > given.width:
        raise ConfigError(
            f"width {architecture.width:g} is more than the {given.width:g} of the given weights; they can only be cut."
        )
    adapted = empty(architecture)
    state = dict(model.state_dict())
    preprocess = model.preprocess and model.preprocess.adapted(architecture.in_channels)
    if preprocess is not None and (given.in_channels, architecture.in_channels) == (3, 1):
        assert model.preprocess is not None  # the other one is made from it
        state[FIRST], bias = model.preprocess.gray_kernel(state[FIRST], preprocess)
        state[FIRST_BIAS] = state[FIRST_BIAS] + bias
    else:
        state[FIRST] = to_channels(state[FIRST], architecture.in_channels)
    is_new = architecture.num_classes != given.num_classes
    fresh = adapted.class_layers if is_new else ()
    adapted.load_state_dict(
        {
            name: _started(adapted, name, like) if _is_of(name, fresh) else _cut(state[name], like)
            for name, like in adapted.state_dict().items()
        }
    )
    adapted.classes, adapted.task = None if is_new else model.classes, model.task
    adapted.preprocess = preprocess
    return adapted.train(model.training)


def to_channels(kernel: Tensor, in_channels: int) -> Tensor:
    """A first kernel, (out, C, h, w), for another number of input channels.

    One channel gets the sum over all: a gray image then gives the same output as its RGB copies if all channels are
    normalized alike; `Preprocess.gray_kernel` is for those that are not. For others the C kernels are
    repeated in turn and scaled by C / in_channels, which keeps the answer to equal channels if C divides their number.
    """
    given = kernel.shape[1]
    if in_channels == given:
        return kernel
    if in_channels == 1:
        return kernel.sum(1, keepdim=True)
    return kernel[:, torch.arange(in_channels) % given] * (given / in_channels)


def _cut(tensor: Tensor, like: Tensor) -> Tensor:
    """The first channels in each dimension, as many as `like` has; all pixels of a channel are side by side in fc6."""
    return tensor[tuple(slice(size) for size in like.shape)].clone()


def _is_of(name: str, layers: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of the layers."""
    return name.rpartition(".")[0] in layers


def _started(model: VGG, name: str, like: Tensor) -> Tensor:
    """A new last layer: weights N(0, sd 0.01), biases 0, as in torchvision; one that enlarges is bilinear."""
    layer = model.get_submodule(name.rpartition(".")[0])
    if isinstance(layer, nn.ConvTranspose2d):
        return bilinear_kernel(layer.in_channels, layer.stride[0])
    started = torch.zeros(like.shape)
    return started.normal_(std=0.01) if name.endswith(".weight") else started


@torch.no_grad()
def transfer(given: VGG, model: VGG) -> tuple[str, ...]:
    """Copy the weights of `given` into `model`, and return the names of what keeps its own initialization.

    All convolutions (and their norms) must fit, unless `given` is column A and `model` a deeper one: it then starts
    with A's first four convolutions, as the paper's did (section 3.1). Of the head, each tensor of the same name and
    shape is copied, also between a fully connected layer and the convolution that does the same, but layers that depend
    on the number of classes only if both models name the same `classes`, and give scores, boxes or masks alike: they
    would otherwise answer with the old ones.
    Raises: WeightsError if the networks differ in column, batch norm, width or channels.
    """
    grows = _grows(given, model)
    for field in ("name", "width", "channels", "in_channels"):
        found, expected = getattr(given.architecture, field), getattr(model.architecture, field)
        if found != expected and not (field == "name" and grows):
            raise WeightsError(
                f"the given weights are of a network with {field} {found}, but the one to train has {field} "
                f"{expected}. Train with {field} {found}, or start without given weights."
            )
    theirs, ours = dict(given.state_dict()), model.state_dict()
    for network in (given, model):  # from the order of the given network to RGB, and on to that of the model
        if network.preprocess is not None:
            theirs[FIRST] = network.preprocess.in_rgb_order(theirs[FIRST])
    same_classes = given.classes is not None and given.classes == model.classes
    same_classes = same_classes and given.architecture.boxes == model.architecture.boxes
    class_layers, kept = model.class_layers, []
    for name, tensor in ours.items():
        is_last = _is_of(name, class_layers)
        is_wanted = not grows or name.startswith("head.") or name.split(".")[1].endswith(FIRST_FOUR)
        fits = name in theirs and _fits(theirs[name], tensor)
        if fits and is_wanted and (same_classes or not is_last):
            tensor.copy_(theirs[name].reshape(tensor.shape))
        else:
            kept.append(name)
    return tuple(kept)


def _fits(tensor: Tensor, like: Tensor) -> bool:
    """Whether the shapes are equal, or those of a fully connected layer and of the convolution that does the same."""
    return tensor.shape == like.shape or (
        {tensor.ndim, like.ndim} == {2, 4} and len(tensor) == len(like) and tensor.numel() == like.numel()
    )


def _grows(given: VGG, model: VGG) -> bool:
    """Whether this is column A and a deeper column, both with batch norm or both without."""
    shallow, deep = resolve(given.architecture.name), resolve(model.architecture.name)
    return shallow.column == "A" and deep.column in ("B", "C", "D", "E") and shallow.batch_norm == deep.batch_norm
