"""Images that cannot be read: training stops and names one, or goes on without them, says so, and resumes exactly."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from trainings import train

import vggnet
from vggnet.cli.main import main
from vggnet.data import decoded as arrays
from vggnet.data.decoding import StoredImage
from vggnet.data.loading import EvalBatches, TrainBatches
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.data.splits import carve
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.run_report import write_report
from vggnet.tasks.classify import Classify
from vggnet.training.loop import Position

TINY = {"model": "vgg11_bn", "width": 0.05, "head": "gap", "epochs": 2, "on_bad_image": "skip"}
SMALL = {**TINY, "preset": "fast", "optimizer": "sgd", "lr": 0.01, "batch_size": 8, "val_fraction": 0.2}
PHOTOS = {**TINY, "preset": "photos", "resize": 80, "crop": 72, "batch_size": 4, "val_fraction": 0.2}
COUNT = Position.count
SIZES = pytest.mark.parametrize("options", [SMALL, {**PHOTOS, "workers": 2}], ids=["small", "photos"])


class Partly(Source):
    """Flat images whose gray value is their index; those in `bad` cannot be read."""

    def __init__(self, count, bad):
        super().__init__(name="partly", split="train", classes=("a", "b"), labels=np.arange(count) % 2)
        self.bad = bad

    def open(self, index):
        if index in self.bad:
            raise ImageError("broken", name=self.describe(index))
        return StoredImage(Image.new("RGB", (80, 80), (index,) * 3), self.describe(index))

    def describe(self, index):
        return f"image {index}"

    @property
    def fingerprint(self):
        return f"{len(self)}-{sorted(self.bad)}"


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """Convolutions are measured once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(monkeypatch, shared_cache):
    monkeypatch.setenv("VGGNET_CACHE", str(shared_cache))
    arrays.forget_decoded()
    yield
    arrays.forget_decoded()


@pytest.fixture
def folder(tmp_path):
    """Twenty images in each of two classes, of which the third, tenth and seventeenth of the second are cut short."""
    rng = np.random.default_rng(0)
    for label in range(2):
        (tmp_path / "data" / "train" / f"class{label}").mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 128, (80, 90, 3), dtype=np.uint8)
            pixels[..., label] += 127
            Image.fromarray(pixels).save(tmp_path / "data" / "train" / f"class{label}" / f"{number:02}.jpg")
    for file in broken(tmp_path / "data"):
        file.write_bytes(file.read_bytes()[:1000])
    return tmp_path / "data"


def broken(folder):
    return [folder / "train" / "class1" / f"{number:02}.jpg" for number in (2, 9, 16)]


def result(run):
    """Everything that must be equal."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in run.history]
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(run.weights).items()}, rows, run.skipped


@pytest.mark.parametrize(("crop", "workers"), [(32, 0), (72, 0), (72, 2)])
def test_batches_lack_what_cannot_be_read(crop, workers):
    """Oracle: the batches of the same images, all sound, with the bad ones taken out by hand."""
    bad, heard = {3, 4, 11}, []
    preprocess, options = Preprocess(resize=crop, crop=crop), {"indices": np.arange(2, 20), "workers": workers}

    def skip(index, error):
        heard.append((index, str(error)))

    sound = TrainBatches(Partly(20, set()), preprocess, 2, seed=1, **options)
    partly = TrainBatches(Partly(20, bad), preprocess, 2, seed=1, skip=skip, **options)
    assert len(sound) == len(partly) == 9
    for whole, part in zip(sound.epoch(0), partly.epoch(0), strict=True):
        left = [place for place, index in enumerate(whole.indices.tolist()) if index not in bad]
        assert part.indices.tolist() == whole.indices[left].tolist()
        assert part.labels.tolist() == whole.labels[left].tolist()
        assert len(part.images) == len(left)
        assert [int(image[0, 5, 5]) for image in part.images] == part.indices.tolist()
    assert sorted(heard) == [(index, f"image {index}: broken") for index in sorted(bad)]
    evaluated = EvalBatches(Partly(20, bad), preprocess, 1, skip=skip, **options)
    assert [int(batch.indices) for batch in evaluated] == [index for index in range(2, 20) if index not in bad]


@pytest.mark.parametrize("crop", [32, 72])
def test_by_default_the_first_bad_image_is_named(crop):
    """Oracle: the contract."""
    with pytest.raises(ImageError, match="^image 3: broken$"):
        list(EvalBatches(Partly(20, {3, 4}), Preprocess(resize=crop, crop=crop), 8))


def test_what_cannot_be_read_is_kept_with_the_decoded_images(monkeypatch):
    """Oracle: the first decoding; the second reads no image."""
    source, preprocess = Partly(6, {0, 5}), Preprocess(resize=32, crop=32)
    first = arrays.decode_all(source, preprocess)
    assert {index: str(error) for index, error in first.bad.items()} == {0: "image 0: broken", 5: "image 5: broken"}
    arrays.forget_decoded()
    monkeypatch.setattr(Partly, "open", None)
    again = arrays.decode_all(source, preprocess)
    assert {index: str(error) for index, error in again.bad.items()} == {0: "image 0: broken", 5: "image 5: broken"}
    assert torch.equal(again.pixels, first.pixels)


def test_the_command_says_how_to_go_on(folder, tmp_path, capsys):
    """Oracle: the option that it names is then given, and does what it said."""
    network = ["--preset", "photos", "--model", "vgg11_bn", "--width", "0.05", "--resize", "80", "--crop", "72"]
    command = ["train", "--data", str(folder), "--epochs", "1", "--out", str(tmp_path / "run"), *network]
    with pytest.raises(SystemExit, match="^2$"):
        main(command)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.endswith("Replace or remove the file. Or train without such images: --on-bad-image skip.")
    with pytest.raises(SystemExit, match="^0$"):
        main([*command, *said.rstrip(".").split()[-2:]])


def test_what_cannot_be_resized_is_skipped_as_well(folder, tmp_path):
    """Oracle: the file. Whole, as colors are measured, it is too elongated; a random crop of it is trained on."""
    file = folder / "train" / "class0" / "00.jpg"
    Image.new("RGB", (60_000, 2)).save(file)
    options = {**PHOTOS, "preset": "paper", "head": "gap", "max_resize": 90, "accumulate": 1, "workers": 0}
    with pytest.raises(ImageError, match=str(file)):
        train(folder, out=tmp_path / "stopped", **options | {"on_bad_image": "stop"})
    assert train(folder, out=tmp_path / "run", **options).finished


@SIZES
def test_training_goes_on_without_them(folder, tmp_path, capsys, options):
    """Oracle: the files that were cut short; the same folder without them for the number of images seen."""
    with pytest.raises(ImageError, match=r"class1/(02|09|16)\.jpg"):
        train(folder, out=tmp_path / "stopped", **options | {"on_bad_image": "stop"})
    assert not (tmp_path / "stopped").exists()
    run = train(folder, out=tmp_path / "run", progress=True, **options)
    assert run.finished
    assert [row["skipped"] for row in run.history] == [3, 3]
    assert [message.partition(": ")[0] for _, message in sorted(run.skipped.items())] == list(map(str, broken(folder)))
    assert sorted(run.skipped) == ["22", "29", "36"]
    said = capsys.readouterr().err
    assert "they cannot be read: 3 " in said
    assert [said.count(str(file)) for file in broken(folder)] == [1, 1, 1]
    html = write_report(run).path.read_text()
    assert all(str(file) in html for file in broken(folder))
    json.loads((run.folder / "skipped.json").read_text())


@SIZES
def test_a_resumed_run_is_the_uninterrupted_one(folder, tmp_path, monkeypatch, options):
    """Oracle: the uninterrupted run, with what it skipped. Interrupted in the middle of each epoch."""
    whole = train(folder, out=tmp_path / "whole", **options)
    interrupt_at(monkeypatch, 0, 3)
    with pytest.raises(ZeroDivisionError):
        train(folder, out=tmp_path / "run", checkpoint_minutes=0, **options)
    interrupt_at(monkeypatch, 1, 2)
    with pytest.raises(ZeroDivisionError):
        vggnet.resume(tmp_path / "run")
    monkeypatch.setattr(Position, "count", COUNT)
    arrays.forget_decoded()
    assert result(vggnet.resume(tmp_path / "run")) == result(whole)


def interrupt_at(monkeypatch, epoch, step):
    """Fail, by an error of ours, when this step is done and not saved yet."""

    def interrupt(self, *arguments):
        COUNT(self, *arguments)
        if (self.epoch, self.step) == (epoch, step):
            raise ZeroDivisionError

    monkeypatch.setattr(Position, "count", interrupt)


def test_validation_counts_what_can_be_read(folder, tmp_path, monkeypatch):
    """Oracle: the images to validate on, without those that were cut short: they are neither right nor wrong."""
    seen = []

    def recording(self, sums, images):
        seen.append(images)
        return metrics(self, sums, images)

    metrics = Classify.metrics
    monkeypatch.setattr(Classify, "metrics", recording)
    labels = np.repeat([0, 1], 20)
    seed = next(seed for seed in range(99) if {22, 29} & set(carve(labels, 0.2, seed)[1].tolist()))
    run = train(folder, out=tmp_path / "run", **PHOTOS | {"seed": seed, "epochs": 1})
    validated = len(set(carve(labels, 0.2, seed)[1].tolist()) - {22, 29, 36})
    assert seen == [validated, 37 - validated]
    assert validated < 8
    assert len(run.skipped) == 3


@pytest.mark.parametrize("options", [SMALL, PHOTOS], ids=["small", "photos"])
def test_when_nothing_can_be_read_the_run_ends(tmp_path, options):
    """Oracle: the contract, and the folders before."""
    for label in range(2):
        (tmp_path / "data" / "train" / f"class{label}").mkdir(parents=True)
        for number in range(5):
            (tmp_path / "data" / "train" / f"class{label}" / f"{number}.jpg").write_bytes(b"no picture %d" % number)
    with pytest.raises(DataError, match="can be read. The first is .*jpg: ") as raised:
        train(tmp_path / "data", out=tmp_path / "runs" / "mine", **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


def test_boxes_stop_at_bad_images(folder, tmp_path):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match="on_bad_image"):
        train(folder, out=tmp_path / "run", **SMALL | {"task": "localize"})
