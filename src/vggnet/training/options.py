"""The groups of options of a training, neutral by default, each with its help on the command line."""

from dataclasses import dataclass, field
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from vggnet.errors import ConfigError
from vggnet.tasks import DEFAULT, TaskName

T = TypeVar("T")
HeadName = Literal[
    "paper", "cifar", "gap", "grid", "dense", "folded", "unet", "fcn8", "fcn32", "segnet", "ssd300", "ssd512"
]
LoggerName = Literal["tensorboard", "mlflow", "trackio"]


def option(default: T, help: str) -> T:
    """A field with the text that `vgg train --help` shows for it."""
    kept: T = field(default=default, metadata={"help": help})
    return kept


class _Group:
    """Checks the types of its fields, then what `_check` says."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            self._check_type(name, kind)
        self._check()

    def _check(self) -> None:
        """Raises: ConfigError for a value that cannot work."""

    def _check_type(self, name: str, kind: Any) -> None:
        """A whole number may stand for a float, a bool for no number."""
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(map(str, choices))}")
            return
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        if {bool, int, float, str, NoneType}.issuperset(kinds):
            allowed = (*kinds, int) if float in kinds else kinds
            names = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
            self._require(name, type(getattr(self, name)) in allowed, f"of type {names}")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{flat_name(type(self), name)} is {getattr(self, name)}; it must be {expected}.")

    def _above_0(self, *names: str) -> None:
        for name in names:
            self._require(name, getattr(self, name) > 0, "above 0")

    def _at_least_0(self, *names: str) -> None:
        for name in names:
            self._require(name, getattr(self, name) >= 0, "at least 0")

    def _shares(self, *names: str) -> None:
        for name in names:
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class TaskConfig(_Group):
    """What is predicted."""

    name: TaskName = option(
        DEFAULT,
        "classify: the class of an image; localize: the box of its object, from data that have boxes; segment: the "
        "class of each pixel, from data that have masks; detect: a box and a class for each object, from data that "
        "have them",
    )
    boxes: Literal["shared", "per_class"] = option(
        "per_class", "localize: one box for all classes, or one for each of them"
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Group):
    """The images, and how the network sees them."""

    resize: int = option(256, "pixels of the shorter side")
    crop: int = option(224, "pixels of both sides of what the network sees")
    mean: tuple[float, ...] | None = option(
        None, "of each channel, 0..1; by default measured on the training images, for photos and streams ImageNet's"
    )
    std: tuple[float, ...] | None = option(None, "of each channel, 0..1; given together with mean")
    val_fraction: float = option(
        0.1, "share of the training images that chooses the best epoch; 0 trains on all, and keeps the last epoch"
    )
    workers: int | None = option(None, "loader processes; by default none for small images, else one for each core")
    sampling: Literal["shuffled", "balanced"] = option(
        "shuffled",
        "shuffled: each training image once an epoch; balanced: as many images of each class, those of small classes "
        "several times and those of large ones not in every epoch",
    )
    on_bad_image: Literal["stop", "skip"] = option(
        "stop",
        "an image that cannot be read: stop and name it, or skip it, its batch being smaller by one; skipped.json "
        "names all",
    )

    label_column: str | None = option(None, "of a table: the column of labels; by default the one called label")
    image_column: str | None = option(None, "of a table: the column of images; by default the only one of bytes")
    ignore_index: int | None = option(None, "segment: the class index of pixels that do not count, besides 255")

    def _check(self) -> None:
        self._above_0("resize", "crop")
        self._shares("val_fraction")
        self._require("workers", self.workers is None or self.workers >= 0, "at least 0")
        self._require("ignore_index", self.ignore_index is None or 0 <= self.ignore_index <= 255, "from 0 to 255")
        self._require("mean", all(0 <= value <= 1 for value in self.mean or ()), "in [0, 1]")
        self._require("std", all(value > 0 for value in self.std or ()), "above 0")
        self._require("std", (self.mean is None) == (self.std is None), "given together with mean, or not at all")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Group):
    """The network before its first step."""

    name: str = option(
        "vgg16",
        "vgg11, vgg11_lrn, vgg13, vgg16_1x1, vgg16, vgg19, most also with _bn for batch norm, or a column letter of "
        "the paper; vgg8_bn is ours, for small images; repvgg_a0 to repvgg_b1 have strides instead of pools",
    )
    head: HeadName = option(
        "paper",
        "paper: its three layers; dense: the same as convolutions; folded: the same for 32 pixels; cifar: one layer, "
        "for 32 pixels; gap: one layer, any size; grid: one layer that keeps positions, for boxes; unet, fcn8, fcn32, "
        "segnet: a class for each pixel; ssd300, ssd512: objects, on images of 300 or 512 pixels",
    )
    width: float = option(1.0, "factor of the channels of all convolutions")
    channels: tuple[int, ...] | None = option(
        None, "of a pruned network: outputs of each convolution; those of weights to start from are taken over"
    )
    in_channels: Literal[1, 3] = option(3, "1 trains on gray images")
    dropout: float = option(0.5, "in heads of three layers, and in fcn8 and fcn32")
    ranks: tuple[int, ...] | None = option(
        None, "of factorized fully connected layers: the rank of each, 0 for a whole one; taken over likewise"
    )
    init: Literal["he", "glorot", "gaussian", "dirac"] = option("he", "how the weights start")
    branches: Literal["none", "acb", "repvgg"] = option(
        "none",
        "beside each 3x3 convolution of a _bn network while it is trained, folded into it in the weights to use. acb: "
        "1x3 and 3x1 convolutions; repvgg: 1x1 convolutions, and the input itself where it has as many channels",
    )
    freeze: int = option(0, "blocks, from the first, whose convolutions and batch norm are not trained")

    def _check(self) -> None:
        self._shares("dropout")
        self._require("freeze", 0 <= self.freeze <= 5, "from 0 to 5")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(_Group):
    """Random changes of the training images. By default there are none."""

    name: Literal["batch", "torchvision", "ssd"] = option(
        "batch",
        "batch: whole batches at once, by the options below; torchvision: the transforms of the preset article, image "
        "by image, without options; ssd: parts of images around objects, or images on a larger canvas, mirrored and in "
        "other colors, likewise",
    )
    shift: int = option(0, "pixels, the largest shift along each axis")
    flip: Literal["none", "random", "alternating"] = option(
        "none", "mirror left to right; alternating: each image in every second epoch"
    )
    rotation: float = option(0.0, "degrees, the largest to either side")
    jitter: float = option(0.0, "brightness, contrast and saturation: factors within 1 +- jitter")
    cutout: int = option(0, "pixels, the side of a square that is painted over")
    color_shift: float = option(
        0.0,
        "standard deviation of the factors by which an image's color moves along the principal components of the "
        "training pixels, 0.1 in the paper",
    )
    color_axes: tuple[float, ...] | None = option(
        None, "C x C numbers, row by row: principal components in columns, times their variances; by default measured"
    )
    padding: Literal["zero", "reflect"] = option("reflect", "what a shift or a rotation brings into view")
    min_area: float = option(1.0, "below 1: random crops that cover this share of an image or more, resized")
    max_resize: int | None = option(
        None,
        "the paper's scale jitter: random crops of the image whose shorter side is drawn from resize to max_resize, "
        "the same for one scale; tests see the mean of both. None: whole images, or crops by min_area",
    )

    def _check(self) -> None:
        self._at_least_0("shift", "rotation", "jitter", "cutout", "color_shift")
        self._require("min_area", 0 < self.min_area <= 1, "in (0, 1]")
        self._require("max_resize", self.max_resize is None or self.min_area == 1, "None beside min_area below 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(_Group):
    """What a step minimizes, and how it changes the weights."""

    name: Literal["sgd", "muon"] = option(
        "sgd", "muon: orthogonal updates of convolutions that batch norm follows, SGD for all else"
    )
    batch_size: int = option(128, "images for each step")
    accumulate: int = option(1, "parts in which a batch is processed, to save memory")
    lr: float = option(0.01, "highest learning rate of SGD")
    kernel_lr: float = option(0.12, "muon: highest rate of the convolutions, the share of a kernel that a step changes")
    norm_bias_lr: float = option(10.0, "muon: highest rate of the biases of batch norm")
    momentum: float = option(0.9, "of SGD: share of the last update that goes into the next")
    nesterov: bool = option(False, "Nesterov's form of momentum")
    weight_decay: float = option(5e-4, "L2 penalty on the weights that SGD trains")
    decay_norms: bool = option(False, "weight decay of batch norm and biases as well")
    norm_l1: float = option(
        0.0,
        "L1 penalty on the scales of batch norm, such as 1e-4, which drives those of needless channels to 0 before "
        "`vgg shrink --criterion bn`",
    )
    label_smoothing: float = option(0.0, "share of each label that is spread over all classes")
    class_weights: Literal["none", "balanced"] = option(
        "none",
        "balanced: an image of a class with n of the N training images counts N / (C n) in the loss; the history has "
        "the loss with and without weights. segment: a pixel counts by median frequency",
    )
    teacher: str | None = option(
        None,
        "distillation: a run folder, .safetensors file or name whose answers are learned too, of the same classes and "
        "preprocessing",
    )
    teacher_share: float = option(0.9, "of the loss, the rest is that of the labels")
    temperature: float = option(4.0, "by which the logits of both are divided before they are compared")
    ema: float = option(
        0.0, "decay for each step of an average of the weights, which is validated and kept in their place; 0 is off"
    )

    def _check(self) -> None:
        self._above_0("batch_size", "accumulate", "lr", "kernel_lr", "norm_bias_lr", "temperature")
        self._at_least_0("weight_decay", "norm_l1")
        self._shares("momentum", "label_smoothing", "ema")
        self._require("teacher_share", 0 < self.teacher_share <= 1, "in (0, 1]")
        self._require("accumulate", self.accumulate <= self.batch_size, f"at most batch_size ({self.batch_size})")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(_Group):
    """How long, and by which learning rates."""

    name: Literal["onecycle", "step", "plateau"] = option(
        "onecycle",
        "onecycle: the rate rises, then falls to 0; step: it is divided by 10 every step_epochs; plateau: it is "
        "divided by 10, at most three times, whenever plateau_epochs bring no better validation",
    )
    epochs: int = option(10, "passes over the training images")
    warmup: float = option(0.0, "onecycle: share of the run in which the rate rises to its highest")
    step_epochs: int = option(30, "step: epochs after which the rate is divided by 10")
    plateau_epochs: int = option(5, "plateau: epochs without better validation after which the rate is divided by 10")
    restarts: tuple[int, ...] = option(
        (), "onecycle: the epochs after which it starts anew; vgg train --resume RUN --epochs N adds one"
    )
    patience: int = option(0, "epochs without better validation after which the run ends; 0 is off")

    def _check(self) -> None:
        self._above_0("epochs", "step_epochs", "plateau_epochs")
        ascending = all(one < other for one, other in pairwise((0, *self.restarts, self.epochs)))
        self._require("restarts", ascending, f"ascending, above 0 and below epochs ({self.epochs})")
        self._at_least_0("patience")
        self._shares("warmup")


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Group):
    """Random numbers and the machine."""

    seed: int = option(0, "fixes split, order, augmentation, initialization and dropout")
    device: str | None = option(None, "cpu, cuda, ...; by default a GPU if there is one")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        "auto: bfloat16 on GPUs that have it, and for products on CPUs with a matrix unit (AMX)",
    )
    compile: bool | None = option(None, "torch.compile; by default on GPUs only")
    checkpoint_minutes: float = option(5.0, "between checkpoints within an epoch; 0 saves after every step")

    log: tuple[LoggerName, ...] | None = option(
        None,
        "where the rows of history.jsonl are logged as well, one or several; by default TensorBoard's event files in "
        "the run folder, if it is installed",
    )

    def _check(self) -> None:
        self._at_least_0("checkpoint_minutes")
        names = get_args(LoggerName)
        self._require("log", set(self.log or ()) <= set(names), f"some of {', '.join(names)}")
        self._require("seed", 0 <= self.seed < 2**32, "in [0, 2^32)")


def flat_name(group: type, name: str) -> str:
    """The name of a field without its group."""
    return group.__name__.removesuffix("Config").lower() if name == "name" else name
