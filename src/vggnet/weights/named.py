"""Weights by name: those that come with the package, and those that were fetched."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from vggnet.files import cache_folder
from vggnet.weights.registry import KNOWN, Known

SHIPPED = Path(__file__).parent / "shipped"
DEFAULT = "vgg8_bn-cifar10-fast"  # what a picture is answered by if no weights are named


@dataclass(frozen=True, kw_only=True)
class Card:
    """What there is to know of named weights before they are used."""

    name: str
    model: str
    width: float
    num_classes: int
    data: str  # what they were trained on
    preset: str  # how
    top1: float  # 0..1, on the test images
    top1_six_views: float
    test_images: int
    megabytes: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def shipped() -> list[str]:
    """The names of the weights that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def fetched_file(known: Known) -> Path:
    """Where published weights are once they were fetched."""
    return cache_folder() / "weights" / known.file_name


def find(source: Path | str) -> Path | None:
    """The file of named weights that are here; None for others, and if a file or folder has that name."""
    name = str(source)
    if Path(source).exists():
        return None
    if name in KNOWN:
        path = fetched_file(KNOWN[name])
        return path if path.is_file() else None
    return SHIPPED / f"{name}.safetensors" if name in shipped() else None


def card(name: str) -> Card:
    """Of weights that come with the package."""
    path = SHIPPED / f"{name}.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    architecture, notes = (
        json.loads(metadata["architecture"]),
        json.loads(metadata.get("provenance") or metadata["notes"]),
    )
    return Card(
        name=name,
        model=architecture["name"],
        width=architecture["width"],
        num_classes=architecture["num_classes"],
        data=notes["data"],
        preset=notes["preset"],
        top1=notes["top1"],
        top1_six_views=notes["top1_six_views"],
        test_images=notes["test_images"],
        megabytes=round(path.stat().st_size / 1e6, 2),
    )
