"""Grad-CAM (Selvaraju et al., ICCV 2017, arXiv:1610.02391) and Grad-CAM++ (Chattopadhay et al., arXiv:1710.11063).

Both weigh the maps A of a layer by the gradients g of a class score, and keep what speaks for the class:
relu(sum_c w_c A_c). Neither needs a hook: the layers after the map are run by themselves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.interpret.layers import split_at
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG

LEAST_MAP = 4  # places a side, below which a map says little of where


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


def enlarged(cam: Tensor, size: torch.Size) -> Tensor:
    """(N, h, w) -> (N, H, W), bilinear."""
    return F.interpolate(cam.unsqueeze(1), size=list(size), mode="bilinear", align_corners=False).squeeze(1)


def cam_layers(network: VGG) -> list[str]:
    """Layers whose maps are not negative: after a ReLU."""
    return [name for name, _ in network.features.named_children() if not name.startswith(("conv", "bn"))]


def default_layer(network: VGG, size: int) -> str:
    """The deepest ReLU whose map of an image of `size` pixels has LEAST_MAP places a side: relu5_3 at 224 pixels."""
    deepest = [name for name in cam_layers(network) if name.startswith("relu")]
    deepest = [name for name in deepest if size >> (int(name[4]) - 1) >= LEAST_MAP]
    assert size >= TOTAL_STRIDE
    return deepest[-1]
