"""Options: impossible values, combinations in which an option cannot act, and configurations as JSON."""

import json
from dataclasses import replace

import pytest

from vggnet.errors import ConfigError
from vggnet.training.config import (
    AugmentConfig,
    DataConfig,
    OptimizerConfig,
    ScheduleConfig,
    TaskConfig,
    TrainConfig,
    check_options,
)
from vggnet.training.presets import PRESETS, preset

FAST = preset("fast")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0.0),
        ("epochs", 0),
        ("val_fraction", 1.0),
        ("momentum", -0.1),
        ("accumulate", 5000),
        ("min_area", 0.0),
        ("epochs", 1.5),
        ("epochs", True),
        ("lr", "fast"),
        ("device", 3),
        ("compile", "yes"),
        ("model", 11),
        ("optimizer", "adam"),
        ("seed", -1),
        ("freeze", 6),
        ("std", (0.5, 0.5, 0.5)),
        ("max_resize", 31),
        ("color_axes", (1.0, 2.0)),
    ],
)
def test_impossible_values_name_their_option(option, value):
    """Oracle: the name of the option."""
    with pytest.raises(ConfigError, match=rf"\b{option} is"):
        FAST.override(**{"color_shift": 0.1, option: value})


@pytest.mark.parametrize("options", [{"color": 1}, {"name": "vgg16"}])
def test_unknown_options_are_named(options):
    """Oracle: the name, and one that exists."""
    with pytest.raises(ConfigError, match=f"unknown training option '{next(iter(options))}'.*epochs"):
        FAST.override(**options)
    with pytest.raises(ConfigError, match="unknown training option"):
        check_options(options)


@pytest.mark.parametrize(
    ("beside", "option", "value"),
    [
        ({"task": "classify"}, "boxes", "shared"),
        ({"task": "localize", "head": "grid"}, "label_smoothing", 0.1),
        ({"head": "gap"}, "dropout", 0.2),
        ({"augment": "torchvision"}, "shift", 4),
        ({"augment": "torchvision"}, "flip", "random"),
        ({"augment": "torchvision"}, "rotation", 15.0),
        ({"augment": "torchvision"}, "jitter", 0.2),
        ({"augment": "torchvision"}, "cutout", 8),
        ({"augment": "torchvision"}, "color_shift", 0.1),
        ({"augment": "torchvision"}, "min_area", 0.5),
        ({"augment": "torchvision"}, "max_resize", 300),
        ({"shift": 0, "rotation": 0.0}, "padding", "zero"),
        ({"color_shift": 0.0}, "color_axes", (0.0,) * 9),
        ({"optimizer": "sgd"}, "kernel_lr", 0.2),
        ({"optimizer": "sgd"}, "norm_bias_lr", 5.0),
        ({"momentum": 0.0}, "nesterov", True),
        ({"weight_decay": 0.0}, "decay_norms", True),
        ({"schedule": "step"}, "warmup", 0.2),
        ({"schedule": "onecycle"}, "step_epochs", 5),
        ({"schedule": "onecycle"}, "plateau_epochs", 3),
        ({"val_fraction": 0.0}, "patience", 3),
    ],
)
def test_an_option_that_cannot_act_is_refused(beside, option, value):
    """Oracle: by hand, what each option needs. Alone it is refused; from a preset it is given up without a word."""
    with pytest.raises(ConfigError, match=f"{option} is .* acts only with"):
        TrainConfig().override(**beside, **{option: value})
    enabling = {"boxes": {"task": "localize"}, "label_smoothing": {"task": "classify"}, "dropout": {"head": "paper"},
                "padding": {"shift": 2}, "color_axes": {"color_shift": 0.1}, "kernel_lr": {"optimizer": "muon"},
                "norm_bias_lr": {"optimizer": "muon"}, "nesterov": {"momentum": 0.9},
                "decay_norms": {"weight_decay": 1}, "warmup": {"schedule": "onecycle"},
                "step_epochs": {"schedule": "step"},
                "plateau_epochs": {"schedule": "plateau"}, "patience": {"val_fraction": 0.1}}  # fmt: skip
    config = TrainConfig().override(**enabling.get(option, {"augment": "batch"}), **{option: value})
    assert config.as_options()[option] == value
    changed = config.override(**beside).as_options()
    assert changed[option] == TrainConfig().as_options()[option]


def test_groups_are_checked_together():
    """Oracle: the same combination, given as groups."""
    with pytest.raises(ConfigError, match="shift is 4, but it acts only with augment batch"):
        TrainConfig(augment=AugmentConfig(name="torchvision", shift=4))
    with pytest.raises(ConfigError, match="schedule is plateau"):
        TrainConfig(data=DataConfig(val_fraction=0.0), schedule=ScheduleConfig(name="plateau"))
    with pytest.raises(ConfigError, match='rotation is 5.0, but with task "localize"'):
        TrainConfig(task=TaskConfig(name="localize"), augment=AugmentConfig(rotation=5.0))
    with pytest.raises(ConfigError, match="accumulate is 9"):
        OptimizerConfig(batch_size=8, accumulate=9)


def test_options_by_group_and_without():
    """Oracle: by hand."""
    config = TrainConfig().override(model="vgg11_bn", epochs=3, augment="torchvision")
    assert (config.model.name, config.schedule.epochs, config.augment.name) == ("vgg11_bn", 3, "torchvision")
    assert config == replace(
        TrainConfig(),
        model=replace(config.model, name="vgg11_bn"),
        schedule=ScheduleConfig(epochs=3),
        augment=AugmentConfig(name="torchvision"),
    )
    assert len(config.as_options()) == sum(map(len, config.as_dict().values()))


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_json(name):
    """Oracle: equality."""
    config = preset(name)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize("values", [{"color": {}}, {"model": {"color": 1}}, {"model": {}, "epochs": 3}])
def test_a_configuration_of_other_groups_is_refused(values):
    """Oracle: the name that does not exist."""
    with pytest.raises(ConfigError, match="unknown"):
        TrainConfig.from_dict(values)


# The flat configuration of a run of version 0.1, `vgg train --preset article`: some options of it could not act.
VERSION_1 = {
    "task": "classify", "boxes": "per_class", "model": "vgg16_bn", "head": "paper", "width": 1.0, "in_channels": 3,
    "dropout": 0.5, "init": "he", "freeze": 0, "resize": 32, "crop": 32, "max_resize": None,
    "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.201], "val_fraction": 0.1, "workers": None,
    "on_bad_image": "stop", "augment": "article", "shift": 4, "flip": "alternating", "rotation": 0.0, "jitter": 0.0,
    "cutout": 0, "colour_shift": 0.0, "colour_axes": None, "padding": "reflect", "min_area": 1.0, "epochs": 50,
    "batch_size": 128, "accumulate": 1, "optimizer": "sgd", "lr": 0.01, "kernel_lr": 0.24, "norm_bias_lr": 10.0,
    "schedule": "step", "warmup": 0.1, "step_epochs": 30, "plateau_epochs": 5, "momentum": 0.9, "nesterov": False,
    "weight_decay": 0.0005, "decay_norms": True, "label_smoothing": 0.0, "ema": 0.0, "patience": 0, "seed": 0,
    "device": None, "precision": "auto", "compile": None, "checkpoint_minutes": 5.0,
}  # fmt: skip


def test_a_configuration_of_version_1_is_read():
    """Oracle: the preset of today, which is the same training."""
    assert TrainConfig.from_dict(VERSION_1) == preset("article")
    with pytest.raises(ConfigError, match="unknown training option 'color'"):
        TrainConfig.from_dict({**VERSION_1, "color": 1})


def test_what_an_older_configuration_lacks_is_as_it_was_then():
    """Oracle: the defaults of version 0.1, typed by hand; British spelling is read."""
    config = TrainConfig.from_dict({"task": "localise", "optimizer": "sgd", "colour_shift": 0.1})
    assert (config.model.name, config.model.width, config.optimizer.batch_size) == ("vgg8_bn", 1.5, 512)
    assert (config.task.name, config.augment.color_shift, config.optimizer.nesterov) == ("localize", 0.1, True)
