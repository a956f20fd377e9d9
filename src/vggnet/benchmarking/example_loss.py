"""The loss of a network's task for targets that are made up: a step takes as long as with those of real images."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.errors import ConfigError
from vggnet.models.vgg import VGG
from vggnet.tasks import get_task
from vggnet.training.presets import preset

CLASSES = 10


def example_loss(network: nn.Module, images: Tensor) -> Callable[[Any], Tensor]:
    """The mean loss over the images as a function of what the network returns for them.

    Args:
        network: a VGG of 10 classes that classifies images, segments them or detects objects; or another classifier of
            10 classes.
        images: float (N, C, H, W).

    Raises:
        ConfigError: the network has nothing to learn.

    Example:
        >>> from vggnet.models.vgg import build
        >>> images = torch.zeros(2, 3, 32, 32)
        >>> network = build("vgg11", num_classes=10, head="unet", width=0.1)
        >>> example_loss(network, images)(network(images)).shape
        torch.Size([])
    """
    labels = torch.arange(len(images)) % CLASSES
    outputs = network.architecture.outputs if isinstance(network, VGG) else "scores"
    if isinstance(network, VGG) and network.architecture.head == "none":
        raise ConfigError("a training step needs a head that predicts classes, not head none.")
    if outputs == "scores":
        return lambda logits: F.cross_entropy(logits, labels)
    if outputs not in _TARGETS:
        raise ConfigError(f"the head gives {outputs}, for which there is no training.")
    assert isinstance(network, VGG)
    config = preset(network.task).override(head=network.architecture.head)
    task = get_task(network.task).configured(config.as_options()).fitted(torch.zeros(len(images), 0), CLASSES)
    targets = _TARGETS[outputs](images)
    return lambda results: task.loss(results, targets).minimized / len(images)


def _masks(images: Tensor) -> Tensor:
    """Squares of 16 pixels, each of a class: uint8 (N, H, W)."""
    count, _, height, width = images.shape
    rows, columns = torch.arange(height)[:, None] // 16, torch.arange(width) // 16
    return ((rows + columns) % CLASSES).to(torch.uint8).expand(count, -1, -1)


def _objects(images: Tensor) -> list[Tensor]:
    """Eight objects for each image, a quarter of its width and height each."""
    height, width = images.shape[2:]
    objects = [
        [number, width * (number % 4) / 4, height * (number // 4) / 4, width * (number % 4 + 1) / 4,
         height * (number // 4 + 1) / 4]
        for number in range(8)
    ]  # fmt: skip
    return [torch.tensor(objects)] * len(images)


_TARGETS: Mapping[str, Callable[[Tensor], Any]] = {"masks": _masks, "detections": _objects}
