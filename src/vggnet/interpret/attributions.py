"""How much each pixel counts for a class: class activation maps, integrated and guided gradients, occlusion.

Grad-CAM weights the maps of a layer by the gradients of a class score and keeps what supports the class: relu(sum_c
w_c A_c) (Selvaraju et al., arXiv:1610.02391); Grad-CAM++ weights them by positive gradients (Chattopadhay et al.,
arXiv:1710.11063), LayerCAM each place by its own positive gradient (Jiang et al., IEEE TIP 2021). They run the layers
after the map by themselves, so that no hook is needed. Score-CAM weights the maps by what the class gains when the map
alone shows the image (Wang et al., arXiv:1910.01279). Integrated gradients (Sundararajan et al., arXiv:1703.01365),
guided backpropagation (Springenberg et al., arXiv:1412.6806) and occlusion (Zeiler & Fergus, arXiv:1311.2901) are
computed by captum. What is hidden has the mean color of the training images, 0 in the network's normalized input.
"""

import warnings
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.errors import ConfigError, require
from vggnet.interpret.layers import layer_names, split_at
from vggnet.interpret.receptive_field import receptive_field
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG

LEAST_MAP = 4  # places a side, below which a map says little about where
PIXELS_AT_ONCE = 1 << 19  # of a batch: ten images of 224 pixels a side

Seen = Callable[[int], None]


def maps_and_gradients(network: VGG, images: Tensor, target: int, layer: str) -> tuple[Tensor, Tensor]:
    """The output of a layer, and the gradient of the class's logit with respect to it, (N, C, h, w) both."""
    before, after = split_at(network, layer)
    with torch.no_grad():
        maps = before(images)
    maps.requires_grad_()
    score = network.head(after(maps))[:, target].sum()
    (gradients,) = torch.autograd.grad(score, maps)
    return maps.detach(), gradients


def grad_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Equations 1 and 2: w_c is the mean of g over the places. (N, C, h, w) twice -> (N, h, w), not negative."""
    return (gradients.mean((2, 3), keepdim=True) * maps).sum(1).relu()


def grad_cam_plus_plus(maps: Tensor, gradients: Tensor) -> Tensor:
    """Equations 7 and 19, for a class score exp(logit): w_c = sum over places of alpha relu(g).

    alpha = g^2 / (2 g^2 + g^3 sum(A_c)); where g > 0, and elsewhere relu(g) is 0, that is 1 / (2 + g sum(A_c)). The
    factor exp(logit), which all weights have, is left out. The maps must not be negative, as after a ReLU.
    (N, C, h, w) twice -> (N, h, w), not negative.
    """
    rising = gradients.relu()
    alpha = 1 / (2 + rising * maps.sum((2, 3), keepdim=True))
    return ((alpha * rising).sum((2, 3), keepdim=True) * maps).sum(1).relu()


def layer_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Equations 5 to 7: each place has the weight relu(g). (N, C, h, w) twice -> (N, h, w), not negative."""
    return (gradients.relu() * maps).sum(1).relu()


@torch.no_grad()
def score_cam(network: VGG, image: Tensor, target: int, layer: str, *, seen: Seen) -> Tensor:
    """Algorithm 1: the weights are a softmax over the rises of the logit from the mean color to the image under a map.

    A map is enlarged and scaled to [0, 1] before it multiplies the image; one that is the same
    everywhere shows nothing.
    Image as in `integrated_gradients` -> (1, h, w), not negative. One image through the network for each channel.
    """
    maps = split_at(network, layer)[0](image)
    masks = enlarged(maps[0], image.shape[2:])
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    masks = torch.where(high > low, (masks - low) / (high - low).clamp_min(1e-12), 0).unsqueeze(1)
    logits = _counted(network, seen)
    start = network(torch.zeros_like(image))[:, target]
    rises = torch.cat([logits(image * some)[:, target] - start for some in torch.split(masks, _batch_size(image))])
    cam: Tensor = (rises.softmax(0)[None, :, None, None] * maps).sum(1).relu()
    return cam


def guided_backpropagation(network: VGG, image: Tensor, target: int) -> Tensor:
    """The gradient of the class's logit, of which each ReLU passes on the positive part only, added over the channels.

    Image as in `integrated_gradients`, which also names the error -> (H, W).
    """
    method = require("captum.attr", "explain").GuidedBackprop(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that hooks are set, on a network of our own
        gradients: Tensor = method.attribute(image, target=target)
    return gradients[0].detach().sum(0)


def enlarged(cam: Tensor, size: torch.Size) -> Tensor:
    """(N, h, w) -> (N, H, W), bilinear."""
    return F.interpolate(cam.unsqueeze(1), size=list(size), mode="bilinear", align_corners=False).squeeze(1)


def cam_layers(network: VGG) -> list[str]:
    """Layers whose maps are not negative: after a ReLU."""
    return [name for name in layer_names(network) if not name.startswith(("conv", "bn"))]


def default_layer(network: VGG, size: int) -> str:
    """The deepest ReLU whose map of an image of `size` pixels has LEAST_MAP places a side: relu5_3 at 224 pixels."""
    relus = [name for name in cam_layers(network) if name.startswith("relu")]
    assert size >= TOTAL_STRIDE
    return [name for name in relus if size // receptive_field(network, name).step >= LEAST_MAP][-1]


class Integrated(NamedTuple):
    """Integrated gradients, and how well they add up."""

    values: Tensor  # (H, W), in logits
    rise: float  # of the logit from the mean color to the image
    delta: float  # sum of the values less the rise: 0 for infinitely many steps


def integrated_gradients(network: VGG, image: Tensor, target: int, *, steps: int, seen: Seen) -> Integrated:
    """The gradient of the class's logit along the line from the mean color to the image, times the line (equation 1).

    By Gauss-Legendre quadrature with `steps` places, added over the channels; the sum over pixels is the rise of the
    logit (completeness).
    image: (1, C, H, W), normalized. seen: called with the number of images after each batch.
    Raises: MissingDependencyError if captum is not installed.
    """
    method = require("captum.attr", "explain").IntegratedGradients(_counted(network, seen))
    attributions = method.attribute(
        image, baselines=0.0, target=target, n_steps=steps, internal_batch_size=_batch_size(image)
    )
    with torch.no_grad():
        start, end = network(torch.cat([torch.zeros_like(image), image]))[:, target].cpu().double().tolist()
    values = attributions[0].detach().cpu().double().sum(0)
    rise = end - start
    return Integrated(values.float(), rise, values.sum().item() - rise)


def occlusion(network: VGG, image: Tensor, target: int, *, window: int, stride: int, seen: Seen) -> Tensor:
    """By how much the class's logit falls when a square is hidden (section 4.2).

    A square of `window` pixels moves by `stride`, and takes the mean color; a pixel has the mean over all squares that
    hide it. Image as in `integrated_gradients` -> (H, W), in logits.
    Raises: ConfigError if the window is larger than the image or leaves pixels out; MissingDependencyError.
    """
    num_windows(image.shape[-1], window, stride)
    channels = image.shape[1]
    with torch.no_grad():
        falls: Tensor = (
            require("captum.attr", "explain")
            .Occlusion(_counted(network, seen))
            .attribute(
                image,
                sliding_window_shapes=(channels, window, window),
                strides=(channels, stride, stride),
                baselines=0.0,
                target=target,
                perturbations_per_eval=_batch_size(image),
            )
        )
    return falls[0, 0].float()


def num_windows(size: int, window: int, stride: int) -> int:
    """Squares on an image of `size` pixels a side.  Raises: ConfigError if they do not fit or do not cover it."""
    if not 1 <= window <= size:
        raise ConfigError(f"window is {window}; it must be between 1 and {size} pixels, the side of the image.")
    if not 1 <= stride <= window:
        raise ConfigError(f"stride is {stride}; it must be between 1 and {window} pixels, the side of the window.")
    return (ceil((size - window) / stride) + 1) ** 2


def _counted(network: VGG, seen: Seen) -> Callable[[Tensor], Tensor]:
    def logits(images: Tensor) -> Tensor:
        found: Tensor = network(images)
        seen(len(images))
        return found

    return logits


def _batch_size(image: Tensor) -> int:
    return max(1, min(64, PIXELS_AT_ONCE // image[0, 0].numel()))
