"""All options of a training together, and which of them can act beside which; `vggnet.training.presets` has recipes.

This module imports no PyTorch: the command line checks its options before that is loaded.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from vggnet.errors import ConfigError
from vggnet.models.table1 import FULLY_CONNECTED, STRIDED, num_convolutions, resolve
from vggnet.tasks import OWN_OPTIONS, check_task_options
from vggnet.training.options import (
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    flat_name,
)


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
        >>> config.override(width=0.5, lr=0.1).model  # doctest: +NORMALIZE_WHITESPACE
        ModelConfig(name='vgg11_bn', head='paper', width=0.5, channels=None, in_channels=3, dropout=0.5, ranks=None,
            init='he', branches='none', freeze=0)
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
    **{name: _only("task", *tasks) for name, tasks in OWN_OPTIONS.items()},
    "channels": _Rule(
        lambda options: (
            options["channels"] is None
            or len(options["channels"]) == num_convolutions(resolve(options["model"]).column)
        ),
        "a model of as many convolutions",
    ),
    "width": _Rule(lambda options: options["channels"] is None, "a network that is not pruned (channels None)"),
    "ranks": _Rule(
        lambda options: options["ranks"] is None or len(options["ranks"]) == FULLY_CONNECTED[options["head"]],
        "a head of as many fully connected layers",
    ),
    "dropout": _only("head", "paper", "dense", "folded", "fcn8", "fcn32"),
    "branches": _Rule(
        lambda options: (
            options["branches"] == "none"
            or (resolve(options["model"]).batch_norm and resolve(options["model"]).column not in STRIDED)
        ),
        "a model with batch norm (_bn) and pools",
    ),
    **{
        name: _only("augment", "batch")
        for name in ("shift", "flip", "rotation", "jitter", "cutout", "color_shift", "min_area", "max_resize")
    },
    "padding": _Rule(lambda options: options["shift"] > 0 or options["rotation"] > 0, "shift or rotation above 0"),
    "color_axes": _positive("color_shift"),
    "kernel_lr": _only("optimizer", "muon"),
    "norm_bias_lr": _only("optimizer", "muon"),
    "teacher_share": _Rule(lambda options: options["teacher"] is not None, "a teacher"),
    "temperature": _Rule(lambda options: options["teacher"] is not None, "a teacher"),
    "nesterov": _positive("momentum"),
    "decay_norms": _positive("weight_decay"),
    "norm_l1": _Rule(lambda options: str(options["model"]).lower().endswith("_bn"), "a model with batch norm (_bn)"),
    "warmup": _only("schedule", "onecycle"),
    "restarts": _only("schedule", "onecycle"),
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


@cache
def defaults() -> dict[str, Any]:
    """The default of each option, by its name without its group."""
    return {flat_name(kind, member.name): member.default for kind in _groups().values() for member in fields(kind)}
