"""The options of a training, in groups. They are neutral by default; `vggnet.training.presets` has recipes.

This module imports no PyTorch: the command line checks its options before that is loaded.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from vggnet.errors import ConfigError
from vggnet.tasks import DEFAULT, OWN_OPTIONS, TaskName, check_task_options

T = TypeVar("T")


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
        DEFAULT, "classify: the class of an image; localize: the box of its object, from data that have boxes"
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
    on_bad_image: Literal["stop", "skip"] = option(
        "stop",
        "an image that cannot be read: stop and name it, or skip it, its batch being smaller by one; skipped.json "
        "names all",
    )

    def _check(self) -> None:
        self._above_0("resize", "crop")
        self._shares("val_fraction")
        self._require("workers", self.workers is None or self.workers >= 0, "at least 0")
        self._require("mean", all(0 <= value <= 1 for value in self.mean or ()), "in [0, 1]")
        self._require("std", all(value > 0 for value in self.std or ()), "above 0")
        self._require("std", (self.mean is None) == (self.std is None), "given together with mean, or not at all")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Group):
    """The network before its first step."""

    name: str = option(
        "vgg16",
        "vgg11, vgg11_lrn, vgg13, vgg16_1x1, vgg16, vgg19, most also with _bn for batch norm, or a column letter of "
        "the paper; vgg8_bn is ours, for small images",
    )
    head: Literal["paper", "cifar", "gap", "grid", "dense", "folded"] = option(
        "paper",
        "paper: its three layers; dense: the same as convolutions; folded: the same for 32 pixels; cifar: one layer, "
        "for 32 pixels; gap: one layer, any size; grid: one layer that keeps positions, for boxes",
    )
    width: float = option(1.0, "factor of the channels of all convolutions")
    in_channels: Literal[1, 3] = option(3, "1 trains on gray images")
    dropout: float = option(0.5, "in heads of three layers")
    init: Literal["he", "glorot", "gaussian", "dirac"] = option("he", "how the weights start")
    freeze: int = option(0, "blocks, from the first, whose convolutions and batch norm are not trained")

    def _check(self) -> None:
        self._shares("dropout")
        self._require("freeze", 0 <= self.freeze <= 5, "from 0 to 5")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(_Group):
    """Random changes of the training images. By default there are none."""

    name: Literal["batch", "torchvision"] = option(
        "batch",
        "batch: whole batches at once, by the options below; torchvision: the transforms of the preset article, image "
        "by image, without options",
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
    label_smoothing: float = option(0.0, "share of each label that is spread over all classes")
    ema: float = option(
        0.0, "decay for each step of an average of the weights, which is validated and kept in their place; 0 is off"
    )

    def _check(self) -> None:
        self._above_0("batch_size", "accumulate", "lr", "kernel_lr", "norm_bias_lr")
        self._at_least_0("weight_decay")
        self._shares("momentum", "label_smoothing", "ema")
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
    patience: int = option(0, "epochs without better validation after which the run ends; 0 is off")

    def _check(self) -> None:
        self._above_0("epochs", "step_epochs", "plateau_epochs")
        self._at_least_0("patience")
        self._shares("warmup")


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Group):
    """Random numbers and the machine."""

    seed: int = option(0, "fixes split, order, augmentation, initialization and dropout")
    device: str | None = option(None, "cpu, cuda, ...; by default a GPU if there is one")
    precision: Literal["auto", "float32", "bfloat16"] = option("auto", "auto: bfloat16 on GPUs that have it")
    compile: bool | None = option(None, "torch.compile; by default on GPUs only")
    checkpoint_minutes: float = option(5.0, "between checkpoints within an epoch; 0 saves after every step")

    def _check(self) -> None:
        self._at_least_0("checkpoint_minutes")
        self._require("seed", 0 <= self.seed < 2**32, "in [0, 2^32)")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All options of a training.

    Each option also has a name without its group: that of the field, or of the group for the field `name`. The command
    line (`--epochs`, `--model`), `override` and error messages use these.

    Args:
        task: what is predicted.
        data: the images, and how the network sees them.
        model: the network before its first step.
        augment: random changes of the training images.
        optimizer: what a step minimizes, and how it changes the weights.
        schedule: how long, and by which learning rates.
        run: random numbers and the machine.

    Raises:
        ConfigError: an option has a value that cannot work, or cannot act beside the others; it is named.

    Example:
        >>> config = TrainConfig(model=ModelConfig(name="vgg11_bn"), schedule=ScheduleConfig(epochs=3))
        >>> config.override(width=0.5, lr=0.1).model
        ModelConfig(name='vgg11_bn', head='paper', width=0.5, in_channels=3, dropout=0.5, init='he', freeze=0)
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        options = self.as_options()
        for name, rule in _ACTS_ONLY.items():
            if options[name] != defaults()[name] and not rule.holds(options):
                raise ConfigError(f"{name} is {options[name]}, but it acts only with {rule.needs}. Leave it out.")
        check_task_options(self.task.name, options)
        resize, max_resize = self.data.resize, self.augment.max_resize
        if max_resize is not None and max_resize < resize:
            raise ConfigError(f"max_resize is {max_resize}; it must be at least resize ({resize}).")
        if len(self.augment.color_axes or ()) not in (0, self.model.in_channels**2):
            raise ConfigError(f"color_axes is {self.augment.color_axes}; it must be C x C numbers.")
        if self.schedule.name == "plateau" and not self.data.val_fraction:
            raise ConfigError("schedule is plateau; it must be another without a validation split (val_fraction 0).")

    def override(self, **options: Any) -> "TrainConfig":
        """The configuration with some options changed.

        What is not given and cannot act beside what is given gets its default value.

        Args:
            options: names without groups, and their values.

        Raises:
            ConfigError: there is no such option, its value cannot work, or it cannot act beside the others.

        Example:
            >>> TrainConfig().override(schedule="step", step_epochs=2, epochs=6).schedule.step_epochs
            2
        """
        return _from_options({**self.as_options(), **options}, given=options)

    def as_options(self) -> dict[str, Any]:
        """All options by their names without groups."""
        return {flat: getattr(getattr(self, group), name) for flat, (group, name) in _places().items()}

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """All options by group and field, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `as_dict`; reads the configurations of version 0.1, which have no groups, too.

        Raises:
            ConfigError: there is no such option, or a value cannot work.
        """
        if not any(isinstance(value, Mapping) for value in values.values()):
            return _from_options({**defaults(), **_VERSION_1, **modernized(values)}, given=())  # some could not act
        options: dict[str, Any] = {}
        for group, members in values.items():
            if group not in _groups() or not isinstance(members, Mapping):
                raise ConfigError(
                    f"unknown group {group!r} of training options. The groups are {', '.join(_groups())}."
                )
            options |= {group if name == "name" else name: value for name, value in members.items()}
        return _from_options({**defaults(), **options}, given=options)


class _Rule(NamedTuple):
    """When an option acts."""

    holds: Callable[[Mapping[str, Any]], bool]  # given all options
    needs: str


def _only(name: str, *values: Any) -> _Rule:
    return _Rule(lambda options: options[name] in values, f"{name} {' or '.join(map(str, values))}")


def _positive(name: str) -> _Rule:
    return _Rule(lambda options: options[name] > 0, f"{name} above 0")


# Each after those that it depends on.
_ACTS_ONLY: Mapping[str, _Rule] = {
    **{name: _only("task", task) for name, task in OWN_OPTIONS.items()},
    "dropout": _only("head", "paper", "dense", "folded"),
    **{
        name: _only("augment", "batch")
        for name in ("shift", "flip", "rotation", "jitter", "cutout", "color_shift", "min_area", "max_resize")
    },
    "padding": _Rule(lambda options: options["shift"] > 0 or options["rotation"] > 0, "shift or rotation above 0"),
    "color_axes": _positive("color_shift"),
    "kernel_lr": _only("optimizer", "muon"),
    "norm_bias_lr": _only("optimizer", "muon"),
    "nesterov": _positive("momentum"),
    "decay_norms": _positive("weight_decay"),
    "warmup": _only("schedule", "onecycle"),
    "step_epochs": _only("schedule", "step"),
    "plateau_epochs": _only("schedule", "plateau"),
    "patience": _positive("val_fraction"),
}

_RENAMED = {"colour_shift": "color_shift", "colour_axes": "color_axes"}  # options of version 0.1 -> today's
_RENAMED_VALUES = {("augment", "article"): "torchvision", ("task", "localise"): "localize"}
# What a configuration of version 0.1 means where it lacks an option: the defaults of that version.
_VERSION_1 = {
    "model": "vgg8_bn", "head": "cifar", "width": 1.5, "init": "dirac", "resize": 32, "crop": 32, "val_fraction": 0.05,
    "shift": 2, "flip": "alternating", "batch_size": 512, "optimizer": "muon", "momentum": 0.85, "nesterov": True,
    "weight_decay": 0.1, "label_smoothing": 0.2,
}  # fmt: skip


def modernized(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of version 0.1, which had no groups, by today's names and with today's values."""
    renamed = {_RENAMED.get(name, name): value for name, value in values.items()}
    return {name: _RENAMED_VALUES.get((name, str(value)), value) for name, value in renamed.items()}


def check_options(options: Mapping[str, Any]) -> None:
    """Raises: ConfigError if there is no such option, or its value cannot work, whatever the others are."""
    _make_groups({**defaults(), **options})


def _from_options(options: Mapping[str, Any], given: Iterable[str]) -> TrainConfig:
    """Of options by their names without groups; those that are not `given` get their defaults where they cannot act."""
    values, groups = _make_groups(options)
    for flat, rule in _ACTS_ONLY.items():
        if flat not in given and not rule.holds(values):
            group, name = _places()[flat]
            values[flat] = defaults()[flat]
            groups[group] = replace(groups[group], **{name: values[flat]})
    return TrainConfig(**groups)


def _make_groups(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options with tuples for lists, and the groups made of them."""
    unknown = options.keys() - _places().keys()
    if unknown:
        raise ConfigError(f"unknown training option {min(unknown)!r}. The options are {', '.join(_places())}.")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    groups = {
        group: kind(**{name: values[flat] for flat, (of, name) in _places().items() if of == group})
        for group, kind in _groups().items()
    }
    return values, groups


@cache
def _groups() -> dict[str, type]:
    """The groups by their names."""
    return get_type_hints(TrainConfig)


@cache
def _places() -> dict[str, tuple[str, str]]:
    """Name of an option without its group -> its group and field."""
    return {
        flat_name(kind, member.name): (group, member.name)
        for group, kind in _groups().items()
        for member in fields(kind)
    }


def flat_name(group: type, name: str) -> str:
    """The name of a field without its group."""
    return group.__name__.removesuffix("Config").lower() if name == "name" else name


@cache
def defaults() -> dict[str, Any]:
    """The default of each option, by its name without its group."""
    return {flat_name(kind, member.name): member.default for kind in _groups().values() for member in fields(kind)}
