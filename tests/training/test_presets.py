"""Presets: the recipes of paper and tutorial, and how one is chosen."""

import re

import pytest
from PIL import Image

from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError
from vggnet.models.vgg import build
from vggnet.training.learner import build_model, make_learner
from vggnet.training.presets import PRESETS, preset, suggest_preset
from vggnet.weights.checkpoint import save


def options_of(name, *options):
    values = preset(name).as_options()
    return tuple(values[option] for option in options)


def test_paper_preset_is_the_papers_recipe():
    """Oracle: section 3.1 of the paper, typed by hand."""
    step = options_of("paper", "batch_size", "momentum", "nesterov", "weight_decay", "decay_norms", "lr", "dropout")
    assert step == (256, 0.9, False, 5e-4, True, 1e-2, 0.5)
    assert options_of("paper", "model", "head", "epochs", "schedule") == ("vgg11", "paper", 74, "plateau")
    images = options_of("paper", "resize", "max_resize", "crop", "flip", "shift", "color_shift")
    assert images == (256, 256, 224, "random", 0, 0.1)


def test_article_preset_is_the_tutorials_recipe():
    """Oracle: the facts of the tutorial, typed by hand."""
    assert options_of("article", "model", "head", "init", "dropout") == ("vgg16_bn", "paper", "he", 0.5)
    assert options_of("article", "lr", "momentum", "weight_decay", "nesterov") == (0.01, 0.9, 5e-4, False)
    step = options_of("article", "epochs", "batch_size", "label_smoothing", "schedule", "step_epochs")
    assert step == (50, 128, 0, "step", 30)
    config = preset("article").override(width=0.05)
    learner = make_learner(config, build_model(config, 10))
    assert {group["weight_decay"] for group in learner.optimizer.param_groups} == {5e-4}


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_says_what_it_takes_and_gives(name):
    """Oracle: the promise of the module: the command in each docstring trains by this preset."""
    text = PRESETS[name].__doc__
    command = re.search(r"Command: vgg train (.+)", text)[1]
    assert f"--preset {name}" in command or name in ("digits", "finetune")
    assert all(f"{part}" in text.lower() for part in ("hardware", "time", "accuracy"))


def test_an_unknown_preset_is_named():
    """Oracle: the names."""
    with pytest.raises(ConfigError, match="unknown preset 'slow'.*quick, fast"):
        preset("slow")


@pytest.mark.parametrize(
    ("side", "given", "task", "expected"),
    [
        (90, None, None, "photos"),
        (90, "given", None, "finetune"),
        (90, "given", "classify", "finetune"),
        (90, "given", "localize", "boxes"),
        (90, None, "localize", "photos"),
        (64, "given", None, "fast"),
        (64, "given", "localize", "boxes"),
    ],
)
def test_the_preset_follows_from_images_weights_and_task(tmp_path, side, given, task, expected):
    """Oracle: the help of --preset."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (100, side)).save(tmp_path / "photos" / "train" / name / "1.png")
    source = open_source(tmp_path / "photos", "train")
    assert suggest_preset(source, init_from=given, task=task) == expected


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ("paper", "photos", "paper"), ("gap", "fast", "gap"), ("folded", "fast", "folded"),
        ("dense", "photos", "dense"), ("folded", "photos", "gap"), ("cifar", "finetune", "gap"),
        ("dense", "fast", "cifar"), ("none", "photos", "gap"), ("paper", "boxes", "grid"),
    ],
)  # fmt: skip
def test_the_head_is_that_of_the_weights_where_it_fits(tmp_path, given, name, expected):
    """Oracle: by hand: what takes 32 pixels, or 224, or anything."""
    save(
        build("vgg11_bn", num_classes=2, head=given, width=0.05),
        tmp_path / "given.safetensors",
        preprocess=Preprocess.imagenet(),
    )
    assert preset(name, init_from=tmp_path / "given.safetensors").model.head == expected
