"""Everything that a training run can be told, and the presets."""

from dataclasses import asdict, dataclass, fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vggnet.errors import ConfigError

_RENAMED = {"colour_shift": "color_shift", "colour_axes": "color_axes"}  # field of version 0.1 -> today's


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the preset `fast`.

    Raises: ConfigError, naming the field, if a value cannot work.
    """

    task: Literal["classify", "localize"] = "classify"  # localize: the box of the object, from data that have boxes
    boxes: Literal["shared", "per_class"] = "per_class"  # localize: one box for all classes, or one for each

    # network
    # vgg11, vgg11_lrn, vgg13, vgg16_1x1, vgg16, vgg19, most with _bn, or a column letter; vgg8_bn is not the paper's
    model: str = "vgg8_bn"
    # paper: its three layers; dense: the same as convolutions; folded: the same for 32 pixels; cifar: one layer, 32
    # pixels; gap: any size; grid: any size, one layer that knows what lies where, for boxes
    head: Literal["paper", "cifar", "gap", "grid", "dense", "folded"] = "cifar"
    width: float = 1.5  # multiplies the channels of the convolutions
    in_channels: Literal[1, 3] = 3  # 1 trains on gray images
    dropout: float = 0.5  # of the three-layer heads
    init: Literal["he", "glorot", "gaussian", "dirac"] = "dirac"  # how the weights start
    freeze: int = 0  # blocks, from the first, whose weights and batch norm stay as they start

    # images
    resize: int = 32  # pixels, shorter side
    crop: int = 32  # pixels, both sides of what the network sees
    # photos: random crops of the image whose shorter side is drawn from resize to max_resize, the paper's scale jitter;
    # the same as resize for one scale. Tests then see the mean of both. None: whole images, or by min_area
    max_resize: int | None = None
    mean: tuple[float, ...] | None = None  # in [0, 1]; by default measured on the training images (photos: ImageNet's)
    std: tuple[float, ...] | None = None  # given together with the mean, or not at all
    # share of the training images by which the best epoch is chosen; 0 trains on all of them and keeps the last epoch
    val_fraction: float = 0.05
    workers: int | None = None  # loader processes; by default none for small images, else one a core
    # an image that cannot be read: stop and name it, or skip it, its batch being smaller by one; skipped.json names all
    on_bad_image: Literal["stop", "skip"] = "stop"

    # augmentation
    augment: Literal["batch", "article"] = "batch"  # batch: a batch at once; article: torchvision's, image by image
    shift: int = 2  # pixels, largest shift on each axis
    flip: Literal["none", "random", "alternating"] = "alternating"  # alternating: each image every other epoch
    rotation: float = 0.0  # degrees, largest to either side
    jitter: float = 0.0  # brightness, contrast, saturation: factors within 1 +- jitter
    cutout: int = 0  # pixels, side of the square
    # the paper's random shift of an image's color along the principal components of the training pixels: the standard
    # deviation of each component's factor, 0.1 in the paper
    color_shift: float = 0.0
    # C x C numbers, row by row: principal components in columns, times their variances; by default measured
    color_axes: tuple[float, ...] | None = None
    padding: Literal["zero", "reflect"] = "reflect"  # what a shift or rotation brings into view
    min_area: float = 1.0  # below 1: crops that cover this share of a photo or more, resized (photos only)

    # optimization
    epochs: int = 10  # passes over the training images
    batch_size: int = 512  # images per optimizer step
    accumulate: int = 1  # parts that a batch is worked through in, to save memory
    # sgd, or muon: orthogonal updates for the convolutions, which batch norm must follow, and SGD for all else
    optimizer: Literal["sgd", "muon"] = "muon"
    lr: float = 0.01  # SGD's highest learning rate
    kernel_lr: float = 0.12  # muon's highest rate for the convolutions: the share of a kernel that a step changes
    norm_bias_lr: float = 10.0  # muon's highest rate for the biases of batch norm
    # onecycle: the rate rises, then falls to 0; step: a tenth every step_epochs; plateau: a tenth, at most three times,
    # whenever plateau_epochs bring no better validation accuracy
    schedule: Literal["onecycle", "step", "plateau"] = "onecycle"
    warmup: float = 0.0  # onecycle: share of the run in which the rate rises to its highest
    step_epochs: int = 30  # step: the rate is divided by 10 every so many epochs
    plateau_epochs: int = 5  # plateau: the rate is divided by 10 after so many epochs without a better one
    momentum: float = 0.85  # SGD's: share of the last update that goes into the next
    nesterov: bool = True  # Nesterov's form of momentum
    weight_decay: float = 0.1  # L2 penalty on the weights that SGD trains
    decay_norms: bool = False  # weight decay also on batch norm and biases
    label_smoothing: float = 0.2  # share of each label that is spread over all classes
    ema: float = 0.0  # decay per step of an average of the weights, which is then validated and kept; 0 is off
    patience: int = 0  # epochs without a better validation accuracy after which to stop; 0 is off

    # the machine
    seed: int = 0  # fixes split, order, augmentation, initialization and dropout
    device: str | None = None  # by default a GPU if there is one
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on GPUs that have it
    compile: bool | None = None  # torch.compile; by default on GPUs only
    checkpoint_minutes: float = 5.0  # between checkpoints within an epoch; 0 saves after every step

    def __post_init__(self) -> None:
        for field, kind in get_type_hints(TrainConfig).items():
            self._require_type(field, kind)
        for field in (
            *("resize", "crop", "epochs", "batch_size", "accumulate", "step_epochs", "plateau_epochs"),
            *("lr", "kernel_lr", "norm_bias_lr"),
        ):
            self._require(field, getattr(self, field) > 0, "above 0")
        for field in ("weight_decay", "patience", "checkpoint_minutes"):
            self._require(field, getattr(self, field) >= 0, "at least 0")
        for field in ("val_fraction", "momentum", "label_smoothing", "ema", "warmup", "dropout"):
            self._require(field, 0 <= getattr(self, field) < 1, "in [0, 1)")
        for field, kind in get_type_hints(TrainConfig).items():
            if get_origin(kind) is Literal:
                choices = get_args(kind)
                self._require(field, getattr(self, field) in choices, f"one of {', '.join(map(str, choices))}")
        for field in ("shift", "rotation", "jitter", "cutout", "color_shift"):
            self._require(field, getattr(self, field) >= 0, "at least 0")
        self._require("seed", 0 <= self.seed < 2**32, "in [0, 2^32)")
        self._require("nesterov", self.momentum > 0 or not self.nesterov, "False without momentum")
        self._require("min_area", 0 < self.min_area <= 1, "in (0, 1]")
        self._require("max_resize", (self.max_resize or self.resize) >= self.resize, f"at least resize ({self.resize})")
        self._require("max_resize", self.max_resize is None or self.min_area == 1, "None beside min_area below 1")
        self._require("color_axes", len(self.color_axes or ()) in (0, self.in_channels**2), "C x C numbers")
        self._require("schedule", self.schedule != "plateau" or self.val_fraction > 0, "another without validation")
        self._require("freeze", 0 <= self.freeze <= 5, "from 0 to 5")
        self._require("workers", self.workers is None or self.workers >= 0, "at least 0")
        self._require("accumulate", self.accumulate <= self.batch_size, f"at most batch_size ({self.batch_size})")
        self._require("patience", not self.patience or self.val_fraction > 0, "0 without a validation split")
        self._require("mean", all(0 <= value <= 1 for value in self.mean or ()), "in [0, 1]")
        self._require("std", all(value > 0 for value in self.std or ()), "above 0")
        self._require("std", (self.mean is None) == (self.std is None), "given together with mean, or not at all")

    def _require_type(self, field: str, kind: Any) -> None:
        """A whole number may stand for a float, a bool for no number.  Raises: ConfigError."""
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        if {bool, int, float, str, NoneType}.issuperset(kinds):
            allowed = (*kinds, int) if float in kinds else kinds
            names = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
            self._require(field, type(getattr(self, field)) in allowed, f"of type {names}")

    def _require(self, field: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{field} is {getattr(self, field)}; it must be {expected}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of `as_dict`.  Raises: ConfigError for a field that does not exist."""
        values = {_RENAMED.get(name, name): value for name, value in values.items()}
        if values.get("task") == "localise":
            values["task"] = "localize"
        tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        try:
            return cls(**{**values, **tuples})
        except TypeError as error:
            names = ", ".join(field.name for field in fields(cls))
            raise ConfigError(f"unknown training option ({error}). The options are {names}.") from error


# CIFAR-10 and images like its own, on two ordinary cores; `quick` in minutes, `best` in about an hour. Width buys more
# than length: half again as wide, 10 epochs end higher on validation than 15 did on test, for half again the work.
FAST = TrainConfig()
QUICK = replace(FAST, width=0.75, epochs=4)
BEST = replace(FAST, width=2.0, epochs=12)

# The tutorial's script: VGG-16-BN with the paper's head on 32x32 images. It drops the learning rate by steps, decays
# every parameter, and normalizes by a deviation that is not the data's per-pixel one.
ARTICLE = TrainConfig(
    model="vgg16_bn",
    width=1.0,
    head="paper",
    init="he",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    val_fraction=0.1,
    augment="article",
    shift=4,
    cutout=0,
    epochs=50,
    batch_size=128,
    optimizer="sgd",
    lr=0.01,
    schedule="step",
    momentum=0.9,
    nesterov=False,
    weight_decay=5e-4,
    decay_norms=True,
    label_smoothing=0.0,
)

# Folders of photos at 224 pixels.
PHOTOS = TrainConfig(
    model="vgg16_bn",
    width=1.0,
    head="gap",
    init="he",
    resize=256,
    crop=224,
    val_fraction=0.1,
    shift=0,
    flip="random",
    jitter=0.2,
    cutout=0,
    min_area=0.25,
    epochs=30,
    batch_size=32,
    optimizer="sgd",
    lr=0.05,
    warmup=0.2,
    momentum=0.9,
    weight_decay=5e-4,
    label_smoothing=0.1,
)

# The same from weights that know photos already: small steps, and the first blocks, which see edges and textures, stay.
FINETUNE = replace(PHOTOS, model="vgg16", freeze=4, epochs=8, lr=0.01)

# The paper's own training (section 3.1), of column A; the deeper ones start from it: --model vgg16 --init-from RUN. At
# one scale; --max-resize 512 is its scale jitter. The input lies in 0..255, and only its mean color is subtracted.
PAPER = TrainConfig(
    model="vgg11",
    width=1.0,
    head="paper",
    init="glorot",
    resize=256,
    crop=224,
    max_resize=256,
    mean=(0.485, 0.456, 0.406),
    std=(1 / 255, 1 / 255, 1 / 255),
    val_fraction=0.1,
    shift=0,
    flip="random",
    color_shift=0.1,
    epochs=74,
    batch_size=256,
    accumulate=8,
    optimizer="sgd",
    lr=0.01,
    schedule="plateau",
    momentum=0.9,
    nesterov=False,
    weight_decay=5e-4,
    decay_norms=True,
    label_smoothing=0.0,
)

# Boxes in small images, enlarged so that the last map has 3x3 cells, from a network that knows ImageNet:
# --init-from vgg16:features. The rate is that of vectors of length 1, which the head "grid" makes of the map.
BOXES = TrainConfig(
    task="localize",
    model="vgg16",
    width=1.0,
    head="grid",
    init="he",
    freeze=4,
    resize=96,
    crop=96,
    shift=6,
    epochs=8,
    batch_size=64,
    optimizer="sgd",
    lr=2.5,
    warmup=0.1,
    momentum=0.9,
    weight_decay=0.0,
    label_smoothing=0.0,
)

# scikit-learn's 8x8 digits at 32x32: a minute on two cores.
DIGITS = TrainConfig(
    model="vgg11_bn",
    width=0.25,
    val_fraction=0.1,
    flip="none",
    shift=3,
    rotation=10,
    cutout=0,
    epochs=20,
    batch_size=64,
    optimizer="sgd",
    lr=0.1,
    warmup=0.2,
    momentum=0.9,
    weight_decay=5e-4,
    label_smoothing=0.1,
)

PRESETS = {
    "quick": QUICK,
    "fast": FAST,
    "best": BEST,
    "article": ARTICLE,
    "photos": PHOTOS,
    "finetune": FINETUNE,
    "paper": PAPER,
    "boxes": BOXES,
    "digits": DIGITS,
}
