"""LPIPS."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vggnet.accel.unit_vectors import unit_distance, unit_distance_by_pytorch
from vggnet.errors import WeightsError
from vggnet.features.distance import LAYERS, Distance, check_full_vgg16, installed_tensors, weights_of_all
from vggnet.features.extractor import DEFAULT_MODEL, accepts_weights
from vggnet.features.frozen_network import FrozenFeatures, checked_pair
from vggnet.files import check_readable
from vggnet.models.vgg import VGG
from vggnet.weights.file_format import check_tensors
from vggnet.weights.registry import locate

HEADS_FILE = "lpips_vgg_heads.safetensors"  # the learned weights of LPIPS: lin0 to lin4


class LPIPS(Distance):
    """Learned perceptual distance between RGB images: 0 for equal images, about 1 for very different ones.

    At every place of five layers the features of both images are scaled to unit vectors; the squares of their
    difference, with a learned weight for each channel (equation 1), are averaged over places and added over layers. A
    zero vector stays zero and has no gradient. The weights are frozen; the distance is differentiable for the images.

    Args:
        model: weights of VGG-16 on ImageNet: a name of `vgg weights list`, a file, a run folder, a VGG, or a folder
            with `vgg16_features.safetensors`. The learned weights are read from `lpips_vgg_heads.safetensors` in the
            same folder; without that file the package lpips must be installed, which contains them.
        layers: {name: weight} of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, whose weighted sum is taken; by
            default 1 for each, which is LPIPS. Layers that are not named have weight 0.
        exact: see `FrozenFeatures`.

    Raises:
        ConfigError: there is no such layer, or a weight is negative or not finite.
        WeightsError: a file is missing or damaged, or the network is not VGG-16.
        MissingDependencyError: the package lpips is needed and not installed.

    Source:
        Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018
        (arXiv:1801.03924); the numbers are those of the package lpips, version 0.1, net="vgg".

    Example:
        >>> import vggnet
        >>> network = vggnet.create_model("vgg16", head="none")  # untrained
        >>> network.preprocess = vggnet.Preprocess.imagenet()
        >>> distance = LPIPS(network)
        >>> image = torch.zeros(1, 3, 32, 32)
        >>> distance(image, image).tolist()
        [0.0]
    """

    @accepts_weights
    def __init__(
        self,
        model: VGG | Path | str = DEFAULT_MODEL,
        layers: Mapping[str, float] | None = None,
        *,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.layer_weights = weights_of_all(LAYERS, layers)
        self.features = FrozenFeatures(model, list(LAYERS), exact=exact)
        check_full_vgg16("LPIPS", self.features)
        self.heads = nn.ParameterList(_lpips_heads(model)).requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor, others: Tensor, *, normalize: bool = False, spatial: bool = False) -> Tensor:
        """Compare two batches image by image.

        Args:
            images: RGB (N, 3, H, W), float in [-1, 1], H and W at least 16. float16 and bfloat16 are computed in
                float32, with or without autocast.
            others: as `images`, of the same shape.
            normalize: whether the images are in [0, 1] instead.
            spatial: return a map of the distance instead of one number.

        Returns:
            (N,); with `spatial` (N, 1, H, W), whose mean is close to, but not equal to, the distance.

        Raises:
            InputError: other shapes, types or values.
        """
        images, others = checked_pair(images, others, normalize, self._checked)
        with torch.autocast(images.device.type, enabled=False):
            return self._compare(images, others, images.shape[2:] if spatial else None)

    def _compare(self, images: Tensor, others: Tensor, size: torch.Size | None = None) -> Tensor:
        """With a size a map (N, 1, H, W)."""
        pairs = self.features.pair(images, others)
        compare = unit_distance_by_pytorch if self.features.exact else unit_distance
        layers = [
            weight * _over_places(compare(first, second, head.to(first.dtype)), size)
            for weight, (first, second), head in zip(self.layer_weights.values(), pairs, self.heads, strict=True)
        ]
        return torch.stack(layers).sum(0)


def _lpips_heads(model: VGG | Path | str) -> list[Tensor]:
    """The weight of each channel, (C,) for each layer: of the file beside the network's, else of the package lpips."""
    path = None if isinstance(model, VGG) else locate(model).parent / HEADS_FILE
    if path is not None and path.is_file():
        check_readable(path)
        try:
            heads = load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a sound safetensors file ({error}). Make it again.") from error
        expected = {f"lin{index}": torch.empty(channels) for index, channels in enumerate(LAYERS.values())}
        check_tensors(path, heads, expected, network="LPIPS")
        return [heads[name].float() for name in expected]
    tensors = installed_tensors("lpips", "lpips", "weights/v0.1/vgg.pth")
    return [tensors[f"lin{index}.model.1.weight"].flatten() for index in range(len(LAYERS))]


def _over_places(distances: Tensor, size: torch.Size | None) -> Tensor:
    """LPIPS of one layer (N, h, w): averaged over places (N,), or as a map of this size (N, 1, H, W)."""
    if size is None:
        return distances.mean((1, 2))
    return F.interpolate(distances.unsqueeze(1), size=list(size), mode="bilinear", align_corners=False)
