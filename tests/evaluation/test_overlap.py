"""A test compared with the training: counts by the files' bytes, and what is said of them."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vggnet
from vggnet.cli.main import main
from vggnet.data.sources.opening import open_source
from vggnet.errors import DataError
from vggnet.training.distributed import ALONE
from vggnet.training.preparation import reopen
from vggnet.training.run import Run
from vggnet.training.train import train_with

TINY = {"width": 0.05, "epochs": 1, "batch_size": 16}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Undivided: 30 pictures of two classes each."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(30):
            picture = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
            picture.save(tmp_path / "data" / name / f"{number:02}.png")
    return tmp_path / "data"


def start(data, out, **options):
    return train_with(data, "fast", TINY | options, out=out)


def contents(data, split):
    source = open_source(data, split)
    return [Path(source.describe(index)).read_bytes() for index in range(len(source))]


def test_a_grown_folder_is_no_leak(folder, tmp_path):
    """Oracle: the bytes of the files that were there to train on, against those of the test."""
    run = start(folder, tmp_path / "run")
    trained = contents(folder, "train")
    for number in range(8):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / "cat" / f"0{number}-new.png")
    (folder / "dog" / "11.png").unlink()
    assert not set(trained) & set(contents(folder, "test"))
    result = vggnet.evaluate(run.folder, folder)
    assert (result.trained_on, result.notes) == (0, ())


def test_images_that_were_trained_on_are_counted(folder, tmp_path, capsys):
    """Oracle: copies of training pictures, renamed, counted by hand; those that chose the epoch are not among them."""
    run = start(folder, tmp_path / "run", val_fraction=0.3)
    source = open_source(folder, "train")
    inputs = reopen(Run.open(run.folder), run.config, None, ALONE, False)[1]
    files = [source.describe(index) for index in (*inputs.train_indices[:5], *inputs.val_indices[:2])]
    for number, file in enumerate([*files, files[0]]):
        for name in ("cat", "dog"):
            (tmp_path / "other" / "test" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "other" / "test" / ("cat" if number % 2 else "dog") / f"{number}.png")
    for model in (run.folder, run.weights, [run.folder, run.weights]):
        assert vggnet.evaluate(model, tmp_path / "other").trained_on == 6
    with pytest.raises(SystemExit, match="^0$"):
        main(["test", str(run.folder), "--data", str(tmp_path / "other"), "--json"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["trained_on"] == 6
    assert "warning: 6 of 8 images were trained on" in printed.err
    assert json.loads((run.folder / "test.json").read_text())["trained_on"] == 6


def test_a_test_on_training_images_alone_is_refused(folder, tmp_path):
    """Oracle: the contract; asked for by its name, the split is tested with a warning."""
    run = start(folder, tmp_path / "run", val_fraction=0.0)
    (tmp_path / "other").mkdir()
    shutil.copytree(folder, tmp_path / "other" / "test")
    for file in open_source(folder, "test")._files:
        (tmp_path / "other" / "test" / file.removeprefix(f"{folder}/")).unlink()
    with pytest.raises(DataError, match=r"all \d+ images were trained on, so they are no test"):
        vggnet.evaluate(run.folder, tmp_path / "other")
    result = vggnet.evaluate(run.folder, folder, split="train")
    assert result.trained_on == result.images
    assert "were trained on" in result.notes[0]


def test_what_the_given_weights_were_trained_on_counts(folder, tmp_path):
    """Oracle: the images of the first training."""
    first = start(folder, tmp_path / "first", val_fraction=0.0)
    for name in ("cat", "dog"):
        (tmp_path / "other" / "train" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (32, 32), (number, 50, len(name))).save(
                tmp_path / "other" / "train" / name / f"{number}.png"
            )
    second = train_with(tmp_path / "other", "fast", {"epochs": 1}, out=tmp_path / "second", init_from=first.folder)
    assert vggnet.evaluate(second.folder, folder, split="train").trained_on == len(open_source(folder, "train"))


def test_runs_of_earlier_versions_keep_their_split(folder, tmp_path):
    """Oracle: what the stratified split of that version chose, trained on and tested; a changed folder is said."""
    old = open_source(folder, "train", rule="stratified")
    run = start(folder, tmp_path / "run")
    description = json.loads((run.folder / "config.json").read_text())
    for name in ("split_rule", "val_split", "pixels", "val_pixels"):
        del description[name]
    description |= {"fingerprint": old.fingerprint, "contents": old.contents, "images": len(old)}
    (run.folder / "config.json").write_text(json.dumps(description))
    (run.folder / "trained_on.npz").unlink()
    inputs = reopen(Run.open(run.folder), run.config, None, ALONE, False)[1]
    assert [inputs.source.describe(index) for index in range(len(inputs.source))] == old._files
    assert len(inputs.val_indices) == 3  # ceil(0.05 * 48)
    model = vggnet.load(run.folder)
    vggnet.weights.checkpoint.save(model, run.weights, provenance={"run": description})
    result = vggnet.evaluate(run.folder, folder)
    assert (result.images, result.trained_on, result.notes) == (12, None, ())
    assert result.fingerprint == open_source(folder, "test", rule="stratified").fingerprint
    Image.new("RGB", (32, 32)).save(folder / "cat" / "000.png")
    assert "has changed since the training" in vggnet.evaluate(run.folder, folder).notes[0]


def test_near_copies_and_a_run_folder_inside_the_data_are_said(folder, tmp_path, capsys):
    """Oracle: each picture to train on, saved again with one more level of red: those that come to lie elsewhere."""
    pictures = contents(folder, "train")
    sides = {}
    for number, content in enumerate(pictures):
        picture = Image.open(io.BytesIO(content))
        pixels = np.minimum(np.array(picture), 254) + np.array([1, 0, 0], np.uint8)
        Image.fromarray(pixels).save(folder / "cat" / f"copy{number:02}.png")
        sides[pixels.tobytes()] = "train"
    test = [np.array(Image.open(io.BytesIO(content))).tobytes() for content in contents(folder, "test")]
    across = sum(pixels in sides for pixels in test)
    assert across > 0
    options = ["--out", str(folder / "new"), "--epochs", "1", "--width", "0.05", "--val-fraction", "0"]
    with pytest.raises(SystemExit, match="^0$"):
        main(["train", "--data", str(folder), *options])
    said = capsys.readouterr().err
    found = int(said.partition("near-copies: ")[2].split()[0])
    assert across <= found <= 2 * across + 12  # originals that are tested may have their copies among train
    kept = json.loads((folder / "new" / "config.json").read_text())
    assert sum(kept["near_copies"].values()) == found
    assert (kept["train_images"], kept["val_images"]) == (len(contents(folder, "train")), 0)
    assert f"new is inside the data {folder}" in said
    assert open_source(folder, "all").classes == ("cat", "dog")


def test_a_validation_split_chooses_the_epoch(folder, tmp_path, capsys):
    """Oracle: the images of both folders, and the classes, which are matched by name."""
    shutil.move(folder, tmp_path / "both" / "train")
    for name in ("dog", "cat"):
        (tmp_path / "both" / "valid" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32), (number, 0, len(name))).save(
                tmp_path / "both" / "valid" / name / f"{number}.png"
            )
    with pytest.raises(SystemExit, match="^0$"):
        main(
            [
                "train",
                "--data",
                str(tmp_path / "both"),
                "--out",
                str(tmp_path / "run"),
                "--epochs",
                "1",
                "--width",
                "0.05",
            ]
        )
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(
        "preset fast (chosen for images of 32 x 32) | train 60, val 6 (split val) images | 2 classes"
    )
    run = Run.open(tmp_path / "run")
    inputs = reopen(run, run.config, None, ALONE, False)[1]
    assert (len(inputs.train_indices), len(inputs.val_indices), inputs.val_source.split) == (60, 6, "val")
    assert 6 * run.history[0]["val_accuracy"] == pytest.approx(round(6 * run.history[0]["val_accuracy"]))
    without = start(tmp_path / "both", tmp_path / "without", val_fraction=0.0)
    assert not any(name.startswith("val_") for name in without.history[0])
