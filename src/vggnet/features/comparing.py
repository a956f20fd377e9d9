"""Two pictures compared by the distances of this folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from vggnet.data.decoding import decode_image
from vggnet.errors import ConfigError, InputError
from vggnet.features.dists import DISTS
from vggnet.features.gatys import ContentDistance, StyleDistance
from vggnet.features.lpips import LPIPS
from vggnet.features.pretrained import DEFAULT

DISTANCES: dict[str, Callable[[Path | str], nn.Module]] = {
    "lpips": LPIPS,
    "dists": DISTS,
    "content": ContentDistance,
    "style": StyleDistance,
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far two pictures are from each other."""

    first: str
    second: str
    distances: dict[str, float]  # name -> distance; 0 for the same picture

    def as_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def as_table(self) -> str:
        """One line a distance."""
        return "\n".join(f"{name:<8} {value:.4f}" for name, value in self.distances.items())


@torch.no_grad()
def compare(
    first: Path, second: Path, names: Sequence[str] = ("lpips",), *, weights: Path | str = DEFAULT
) -> Comparison:
    """The distances called `names` between two pictures of one size.

    weights: as LPIPS takes them.
    Raises: ConfigError for an unknown distance; ImageError for a picture that cannot be read; InputError if their sizes
        differ; WeightsError.
    """
    unknown = [name for name in names if name not in DISTANCES]
    if unknown or not names:
        raise ConfigError(f"unknown distance {', '.join(unknown) or '(none)'}; expected {', '.join(DISTANCES)}.")
    images, others = pair_of_images(first, second)
    distances = {name: DISTANCES[name](weights)(images, others).item() for name in dict.fromkeys(names)}
    return Comparison(first=str(first), second=str(second), distances=distances)


def pair_of_images(first: Path, second: Path) -> tuple[Tensor, Tensor]:
    """Two pictures of one size -> (1, 3, H, W) in [-1, 1] twice.  Raises: ImageError, InputError."""
    images = [pil_to_tensor(decode_image(path))[None] / 127.5 - 1 for path in (first, second)]
    (h, w), (other_h, other_w) = (image.shape[2:] for image in images)
    if (h, w) != (other_h, other_w):
        raise InputError(
            f"{first} has {w} x {h} pixels and {second} {other_w} x {other_h}; they must be the same. "
            "Resize or crop one of them."
        )
    return images[0], images[1]
