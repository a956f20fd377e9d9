"""LPIPS, version 0.1, on VGG-16 (Zhang et al., CVPR 2018, arXiv:1801.03924)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.errors import WeightsError
from vggnet.features.frozen import FrozenFeatures, check_pair
from vggnet.features.pretrained import DEFAULT, HEADS_FILE, beside, installed_tensors, read_tensors

LAYERS = {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512}  # -> channels
EPSILON = 1e-10  # the least length that a vector is divided by


class LPIPS(nn.Module):
    """Learned perceptual distance of RGB images in [-1, 1]: 0 for the same, about 1 for very different ones.

    At every place of five layers the features of both images are made unit vectors; the squares of their difference,
    weighted for each channel as people judged (equation 1), are averaged over places and added over layers. A vector
    of zeros stays one, and has no gradient, so that nothing becomes NaN.
    weights: a folder with `vgg16_features.safetensors` and `lpips_vgg_heads.safetensors`, or any other weights of
        VGG-16 on ImageNet that FeatureExtractor takes. Where the second file is not in the same folder, the package
        lpips must be installed, which carries the same numbers: pip install 'vggnet[distances]'.
    Shapes: two batches (N, 3, H, W), H and W at least 16 -> (N,), or with `spatial` a map (N, 1, H, W), whose mean is
        near, not equal, to the distance. Differentiable for the images; the weights are frozen.
    Raises: WeightsError if a file is missing or damaged, or the network is not VGG-16; when called, InputError for
        other shapes or values.
    """

    def __init__(self, weights: Path | str = DEFAULT) -> None:
        super().__init__()
        self.features = FrozenFeatures(weights, list(LAYERS))
        if list(self.features.extractor.channels.values()) != list(LAYERS.values()):
            raise WeightsError(f"{weights}: LPIPS is made for the features of VGG-16 at its full width, not for these.")
        self.heads = nn.ParameterList(_heads(weights)).requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor, others: Tensor, *, spatial: bool = False) -> Tensor:
        """Two batches (N, 3, H, W) in [-1, 1] -> (N,), or (N, 1, H, W)."""
        check_pair(images, others)
        size = images.shape[2:]
        layers = [
            _place_distances(first, second, head, size if spatial else None)
            for (first, second), head in zip(self.features.pair(images, others), self.heads, strict=True)
        ]
        return torch.stack(layers).sum(0)


def _heads(weights: Path | str) -> list[Tensor]:
    """The weight of each channel, (C,) for each layer: of the file beside the network's, else of the package lpips."""
    path = beside(weights, HEADS_FILE)
    if path.is_file():
        shapes = {f"lin{index}": torch.Size([channels]) for index, channels in enumerate(LAYERS.values())}
        tensors = read_tensors(path, shapes)
        return [tensors[name] for name in shapes]
    tensors = installed_tensors("lpips", "weights/v0.1/vgg.pth") or {}
    if not tensors:
        raise WeightsError(
            f"{path}: no such file. Put it there, or install what carries it: pip install 'vggnet[distances]'."
        )
    return [tensors[f"lin{index}.model.1.weight"].flatten() for index in range(len(LAYERS))]


def _place_distances(first: Tensor, second: Tensor, head: Tensor, size: torch.Size | None) -> Tensor:
    """Of one layer: averaged over places (N,), or as a map of this size (N, 1, H, W)."""
    difference = F.normalize(first, dim=1, eps=EPSILON) - F.normalize(second, dim=1, eps=EPSILON)
    if size is None:
        return difference.square().mean((2, 3)) @ head
    places = (difference.square().movedim(1, 3) @ head).unsqueeze(1)
    return F.interpolate(places, size=list(size), mode="bilinear", align_corners=False)
