"""Training into a run folder: what is left behind, resumed and refused."""

import json
import os
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from trainings import train

import vggnet
from vggnet.data.counter_random import Domain, derive_seed, image_seed
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, NonFiniteError, RunError
from vggnet.models.vgg import build
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.learner import build_model, make_learner
from vggnet.training.loop import Position
from vggnet.training.presets import preset
from vggnet.weights.checkpoint import Checkpoint, save

DIGITS = preset("digits")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_frozen_blocks_stay_as_they_are(tmp_path, optimizer):
    """Oracle: the weights and statistics before training, tensor by tensor; all others have moved."""
    given = build("vgg11_bn", num_classes=10, head="cifar", width=0.05)
    given.classes = tuple(map(str, range(10)))
    save(given, tmp_path / "given.safetensors", preprocess=Preprocess.cifar10())
    options = {"preset": "digits", "epochs": 1, "optimizer": optimizer, "init_from": tmp_path / "given.safetensors"}
    run = train("digits", out=tmp_path / "run", freeze=2, **options)
    before, after = given.state_dict(), vggnet.load(run.folder).state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {
        name for name in before if name.split("_")[0] in {f"features.{k}{b}" for k in ("conv", "bn") for b in (1, 2)}
    }


def test_divergence_names_step_and_advice_and_keeps_the_checkpoint(tmp_path):
    """Oracle: a learning rate that must diverge; what is on the disk is finite and no later than the message says."""
    with pytest.raises(NonFiniteError, match=r"step \d+ of epoch 1 .*lower lr.* The last checkpoint is sound\."):
        train("digits", out=tmp_path / "run", model="vgg11", width=0.05, epochs=2, lr=1e6, checkpoint_minutes=0.0)
    learner = make_learner(DIGITS, build_model(DIGITS.override(model="vgg11", width=0.05), 10))
    Checkpoints(tmp_path / "run" / "state").restore(learner)
    assert all(torch.isfinite(tensor).all() for tensor in learner.model.state_dict().values())


@pytest.mark.parametrize("before", [(), ("runs",), ("runs", "runs/mine")], ids=["nothing", "runs", "empty folder"])
def test_divergence_before_the_first_checkpoint_leaves_no_trace(tmp_path, before):
    """Oracle: the folders before; nothing is said of a checkpoint."""
    for folder in before:
        (tmp_path / folder).mkdir()
    with pytest.raises(NonFiniteError, match="lower lr") as raised:
        train("digits", out=tmp_path / "runs" / "mine", model="vgg11", width=0.05, epochs=2, lr=1e6)
    assert "checkpoint" not in str(raised.value)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert {path for path in found if not path.startswith("cache")} == set(before)


def test_what_others_put_into_a_failed_run_stays(tmp_path, monkeypatch):
    """Oracle: a file that is written there while the first step runs."""

    def fail(self, *arguments):
        (tmp_path / "run" / "mine.txt").write_text("mine")
        raise ZeroDivisionError

    monkeypatch.setattr(Position, "count", fail)
    with pytest.raises(ZeroDivisionError):
        train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_second_ctrl_c_leaves_a_run_that_starts_again(tmp_path, monkeypatch):
    """Oracle: the training that was not interrupted."""
    options = {"width": 0.05, "epochs": 1, "batch_size": 512}
    whole = train("digits", out=tmp_path / "whole", **options)

    def interrupt(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Position, "count", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("digits", out=tmp_path / "run", **options)
    monkeypatch.undo()
    assert vggnet.resume(tmp_path / "run").history[0]["train_loss"] == whole.history[0]["train_loss"]


def test_of_equal_epochs_the_last_is_kept(tmp_path, monkeypatch):
    """Oracle: validation that gives 0.5, 0.7, 0.7 and 0.6, so the third epoch is noted in the weights."""
    accuracies = iter([0.5, 0.7, 0.7, 0.6])
    monkeypatch.setattr(
        "vggnet.training.train.make_validator",
        lambda *_, **__: lambda _: {"val_loss": 1.0, "val_accuracy": next(accuracies)},
    )
    run = train("digits", out=tmp_path / "run", width=0.05, epochs=4, batch_size=1024)
    assert Checkpoint.open(run.weights).provenance["epoch"]["epoch"] == 3


def test_a_finished_run_without_its_weights_is_not_called_fine(tmp_path):
    """Oracle: the missing file is named."""
    run = train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512)
    run.weights.unlink()
    with pytest.raises(RunError, match=r"weights\.safetensors is missing.*another folder"):
        vggnet.resume(run.folder)


def test_training_without_validation_keeps_the_last_epoch(tmp_path):
    """Oracle: the run folder: history without validation, and the weights note the last epoch."""
    run = train("digits", out=tmp_path / "run", width=0.05, epochs=2, batch_size=256, val_fraction=0.0)
    assert run.finished
    assert all("val_accuracy" not in row for row in run.history)
    assert Checkpoint.open(run.weights).provenance["epoch"]["epoch"] == 2
    assert vggnet.load(run.folder).preprocess == run.preprocess
    assert vggnet.resume(run.folder).history == run.history


def test_statistics_of_digits_are_measured(tmp_path):
    """Oracle: numpy over the decoded training images."""
    from vggnet.data.sources.opening import open_source

    run = train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512)
    source = open_source("digits", "train")
    pixels = np.stack([np.asarray(source.read(index)) for index in range(len(source))]) / 255
    assert run.preprocess.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-4)
    assert run.preprocess.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-4)


@pytest.mark.parametrize(("precision", "prefix"), [("float32", ""), ("bfloat16", "bfloat16 ")])
def test_a_run_folder_tells_which_convolutions_were_used(tmp_path, precision, prefix):
    """Oracle: the shapes of VGG-11 with 32 channels in block 2, by hand; both passes of the gradient and validation."""
    options = {"model": "vgg11_bn", "width": 0.25, "epochs": 1, "batch_size": 256, "precision": precision}
    run = train("digits", out=tmp_path / "run", **options)
    found = json.loads((run.folder / "choices.json").read_text())
    for name in ("forward", "grad_input", "grad_weight"):
        choice = found[f"{prefix}{name} n<=256 16x16 16->32"]
        assert choice["algorithm"] in choice["ms"]
    inference = [key for key in found if key.startswith(f"{prefix}inference relu pool n<=")]
    assert any(key.endswith(" 16x16 16->32") for key in inference)


def test_a_run_folder_is_never_overwritten(tmp_path):
    """Oracle: the file that was there."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        train("digits", out=tmp_path, epochs=1)
    assert [file.name for file in tmp_path.iterdir() if file.name != "cache"] == ["mine.txt"]


def test_a_run_without_its_given_weights_is_not_resumed(tmp_path):
    """Oracle: the contract; it could only go on from weights that nobody gave."""
    run = train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512)
    description = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps({**description, "init_from": "x.safetensors"}))
    for file in (*(run.folder / "state").glob("*.safetensors"), run.folder / "results.png"):
        file.unlink()
    with pytest.raises(RunError, match="given weights"):
        vggnet.resume(run.folder)


SHORT = {"width": 0.05, "epochs": 1, "batch_size": 512}


def test_the_call_of_version_01_still_works(tmp_path):
    """Oracle: the same training by its configuration, and by options of the preset that the data choose."""
    config = preset("digits").override(**SHORT)
    expected = vggnet.train("digits", config, out=tmp_path / "new").history[0]["train_loss"]
    for name, options in (("old", {"preset": "digits", "colour_shift": 0.0}), ("chosen", {})):
        with pytest.warns(DeprecationWarning, match="override"):
            run = vggnet.train("digits", out=str(tmp_path / name), **options, **SHORT)
        assert run.history[0]["train_loss"] == expected
        assert run.description["preset"] == "digits"


def test_the_data_are_opened_and_split_once(tmp_path, monkeypatch):
    """Oracle: the calls, counted; the preset is chosen by the data."""
    calls = []
    for module, name in (("preparation", "open_source"), ("inputs", "carve"), ("inputs", "decode_all")):
        real = getattr(import_module(f"vggnet.training.{module}"), name)

        def counting(*arguments, real=real, **options):
            calls.append(real.__name__)
            return real(*arguments, **options)

        monkeypatch.setattr(f"vggnet.training.{module}.{name}", counting)
    train("digits", out=tmp_path / "run", **SHORT)
    assert sorted(set(calls)) == ["carve", "decode_all", "open_source"]
    assert (calls.count("open_source"), calls.count("carve")) == (1, 1)


def test_progress_is_shown_only_if_asked_for(tmp_path, capsys):
    """Oracle: both streams, which stay empty, also while images are decoded; and a function that hears of each step."""
    heard = []
    vggnet.train("digits", preset("digits").override(**SHORT), out=tmp_path / "silent")
    run = vggnet.train(
        "digits",
        preset("digits").override(**SHORT),
        out=tmp_path / "heard",
        progress=lambda done, total: heard.append((done, total)),
    )
    assert vggnet.resume(run).finished
    assert capsys.readouterr() == ("", "")
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_no_image_has_the_seed_of_a_step():
    """Regression: images and steps had the same seeds. Oracle: a thousand of each, by the functions of both."""
    steps = {derive_seed(0, epoch, step) for epoch in range(3) for step in range(1000)}
    for domain in Domain:
        images = {image_seed(domain, seed=0, epoch=epoch, index=index) for epoch in range(3) for index in range(1000)}
        assert len(images) == 3000
        assert not images & steps


def test_both_losses_of_an_unbalanced_training_are_kept(tmp_path):
    """Oracle: the shares of the classes: with few images of most classes the weighted loss is another than the plain
    one, and a run without the options has no such column."""
    for name in range(3):
        for index in range((20, 6, 4)[name]):
            folder = tmp_path / "data" / f"class {name}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([name, index]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    config = preset("fast").override(epochs=1, width=0.1, batch_size=8, val_fraction=0.3)
    balanced = config.override(class_weights="balanced", sampling="balanced")
    (row,) = vggnet.train(tmp_path / "data", balanced, out=tmp_path / "balanced").history
    assert row["train_weighted_loss"] != row["train_loss"]
    assert row["val_weighted_loss"] != row["val_loss"]
    (row,) = vggnet.train(tmp_path / "data", config, out=tmp_path / "plain").history
    assert "train_weighted_loss" not in row


def test_more_epochs_after_the_end(tmp_path):
    """Oracle: an uninterrupted run with the same schedule: bit for bit, also where the files were touched meanwhile."""
    for name in ("a", "b"):
        for index in range(8):
            folder = tmp_path / "data" / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([ord(name), index]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    config = preset("fast").override(epochs=1, width=0.1, batch_size=8, val_fraction=0.3)
    run = vggnet.train(tmp_path / "data", config, out=tmp_path / "run")
    for file in (tmp_path / "data").rglob("*.png"):
        os.utime(file, (1e9, 1e9))
    longer = vggnet.resume(run, epochs=3, workers=0)
    whole = vggnet.train(tmp_path / "data", config.override(epochs=3, restarts=(1,)), out=tmp_path / "whole")
    assert longer.finished
    assert longer.config == whole.config
    without_time = [[{**row, "seconds": 0} for row in one.history] for one in (longer, whole)]
    assert without_time[0] == without_time[1]
    assert longer.weights.read_bytes()[-1000:] == whole.weights.read_bytes()[-1000:]
    with pytest.raises(ConfigError, match="epochs is 2, but the run has 3"):
        vggnet.resume(longer, epochs=2)


def test_a_result_of_earlier_weights_does_not_stay(tmp_path):
    """Oracle: the contract: a test result in a run folder is one of the weights beside it."""
    config = preset("digits").override(epochs=1, width=0.05, val_fraction=0)
    run = vggnet.train("digits", config, out=tmp_path / "run")
    vggnet.evaluate(run.folder, "digits", out=run.folder)
    written = ["test.json", "predictions.parquet", "predictions.png", "confusion.png"]
    assert all((run.folder / name).is_file() for name in written)
    vggnet.resume(run)
    assert all((run.folder / name).is_file() for name in written)
    vggnet.resume(run, epochs=2)
    assert not any((run.folder / name).exists() for name in written)
