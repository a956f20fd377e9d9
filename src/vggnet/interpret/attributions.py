"""How much each pixel counts for a class, by captum: integrated gradients and occlusion.

Both compare with the mean color of the training images, which is 0 in the network's normalized input.
"""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import torch
from captum.attr import IntegratedGradients, Occlusion
from torch import Tensor

from vggnet.errors import ConfigError
from vggnet.models.vgg import VGG

PIXELS_AT_ONCE = 1 << 19  # of a batch: ten images of 224 pixels a side

Seen = Callable[[int], None]


class Integrated(NamedTuple):
    """Integrated gradients, and how well they add up."""

    values: Tensor  # (H, W), in logits
    rise: float  # of the logit from the mean color to the image
    delta: float  # sum of the values less the rise: 0 for infinitely many steps


def integrated_gradients(network: VGG, image: Tensor, target: int, *, steps: int, seen: Seen) -> Integrated:
    """The gradient of the class's logit along the way from the mean color, times the way (arXiv:1703.01365, eq. 1).

    By Gauss-Legendre quadrature with `steps` places, added over the channels; the sum over pixels is the rise of the
    logit (completeness).
    image: (1, C, H, W), normalized. seen: called with the number of images after each batch.
    """
    attributions = IntegratedGradients(_counted(network, seen)).attribute(
        image, baselines=0.0, target=target, n_steps=steps, internal_batch_size=_batch_size(image)
    )
    with torch.no_grad():
        start, end = network(torch.cat([torch.zeros_like(image), image]))[:, target].double().tolist()
    values = attributions[0].detach().double().sum(0)
    rise = end - start
    return Integrated(values.float(), rise, values.sum().item() - rise)


def occlusion(network: VGG, image: Tensor, target: int, *, window: int, stride: int, seen: Seen) -> Tensor:
    """By how much the class's logit falls when a square is hidden (Zeiler & Fergus, arXiv:1311.2901, section 4.2).

    A square of `window` pixels moves by `stride`, and takes the mean color; a pixel has the mean over all squares that
    hide it. Image as in `integrated_gradients` -> (H, W), in logits.
    Raises: ConfigError if the window is larger than the image or leaves pixels out.
    """
    num_windows(image.shape[-1], window, stride)
    channels = image.shape[1]
    with torch.no_grad():
        falls: Tensor = Occlusion(_counted(network, seen)).attribute(
            image,
            sliding_window_shapes=(channels, window, window),
            strides=(channels, stride, stride),
            baselines=0.0,
            target=target,
            perturbations_per_eval=_batch_size(image),
        )
    return falls[0, 0].float()


def num_windows(size: int, window: int, stride: int) -> int:
    """Squares on an image of `size` pixels a side.  Raises: ConfigError if they do not fit or do not cover it."""
    if not 1 <= window <= size:
        raise ConfigError(f"window is {window}; it must lie between 1 and {size} pixels, the side of the image.")
    if not 1 <= stride <= window:
        raise ConfigError(f"stride is {stride}; it must lie between 1 and {window} pixels, the side of the window.")
    return (ceil((size - window) / stride) + 1) ** 2


def _counted(network: VGG, seen: Seen) -> Callable[[Tensor], Tensor]:
    def logits(images: Tensor) -> Tensor:
        answers: Tensor = network(images)
        seen(len(images))
        return answers

    return logits


def _batch_size(image: Tensor) -> int:
    return max(1, min(64, PIXELS_AT_ONCE // image[0, 0].numel()))
