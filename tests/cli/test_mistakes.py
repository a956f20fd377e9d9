"""The mistakes that users make, at the command: one clear line, exit code 2, nothing lost or half-written."""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from vggnet.cli.main import main
from vggnet.cli.train import Train
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError
from vggnet.models.vgg import build
from vggnet.training.config import TrainConfig
from vggnet.weights.checkpoint import save

VGG = Path(sys.executable).with_name("vgg")
CLASSES = ["cat", "dog"]
TINY = ["--model", "vgg11_bn", "--width", "0.05", "--epochs", "1", "--batch-size", "8", "--head", "gap"]


def photo(path, seed=0, size=(90, 70)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Ten photos of each of two classes."""
    for label in CLASSES:
        for number in range(10):
            photo(tmp_path / "photos" / label / f"{number}.jpg", number)
    return tmp_path / "photos"


@pytest.fixture
def run(tmp_path):
    """Something like a run folder: weights with classes and preprocessing."""
    model = build("vgg11_bn", num_classes=2, head="gap", width=0.05)
    save(model, tmp_path / "run" / "weights.safetensors", classes=CLASSES, preprocess=Preprocess(resize=72, crop=72))
    return tmp_path / "run"


@pytest.fixture
def vgg(capsys, tmp_path, monkeypatch):
    """The command in this process: exit code, stdout, lines of stderr."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err.strip().splitlines()

    return command


def assert_one_line(answer, *named):
    code, out, lines = answer
    assert code == 2
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith("vgg: ")
    for name in named:
        assert str(name) in lines[0]


def bomb(path):
    """A PNG of 30,000 x 30,000 pixels in a few hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("command", ["train", "test", "data"])
@pytest.mark.parametrize("mistake", ["missing", "empty", "one class", "class without images"])
def test_data_that_cannot_be_used(vgg, tmp_path, run, command, mistake):
    """Oracle: the list of what every command must survive."""
    data = tmp_path / "given"
    if mistake != "missing":
        data.mkdir()
    if mistake in ("one class", "class without images"):
        for number in range(5):
            photo(data / "cat" / f"{number}.jpg", number)
    if mistake == "class without images":
        (data / "dog").mkdir()
    options = {
        "train": ["--data", data, "--out", tmp_path / "new", *TINY],
        "test": [run, "--data", data, "--out", tmp_path / "new"],
        "data": [data],
    }
    assert_one_line(vgg(command, *options[command]), data)
    assert not (tmp_path / "new" / "config.json").exists()
    assert not (tmp_path / "new" / "test.json").exists()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mistake", ["truncated", "text", "bomb"])
def test_a_picture_that_cannot_be_read_stops_training(vgg, tmp_path, photos, mistake, workers):
    """Oracle: the name of the file. Training stops in its first epoch; there are no weights yet."""
    if mistake == "truncated":
        broken = photos / "dog" / "3.jpg"
        broken.write_bytes(broken.read_bytes()[:2000])
    elif mistake == "text":
        broken = photos / "dog" / "notes.png"
        broken.write_text("not a picture")
    else:
        broken = bomb(photos / "dog" / "huge.png")
    split = tmp_path / "given" / "train"
    split.parent.mkdir()
    photos.rename(split)
    options = ["--preset", "photos", "--resize", "72", "--crop", "72", "--workers", workers, "--out", tmp_path / "new"]
    code, out, lines = vgg("train", "--data", split.parent, *options, *TINY)
    assert (code, out) == (2, "")
    assert lines[-1].startswith("vgg: ")
    assert broken.name in lines[-1]
    assert not (tmp_path / "new" / "weights.safetensors").exists()
    code, out, _ = vgg("data", split.parent)
    assert code == 2
    assert broken.name in out.split("unreadable:")[1]


def test_pictures_that_cannot_be_predicted(vgg, tmp_path, run):
    """Oracle: the good one is answered, each bad one named once."""
    good, text, huge = photo(tmp_path / "good.png"), tmp_path / "text.png", bomb(tmp_path / "huge.png")
    cut = photo(tmp_path / "cut.jpg")
    cut.write_bytes(cut.read_bytes()[:2000])
    text.write_text("not a picture")
    code, out, lines = vgg("predict", run, good, cut, text, huge, tmp_path / "missing.jpg", "--json")
    assert code == 2
    answers = {Path(answer["name"]).name: answer for answer in json.loads(out)}
    assert set(answers["good.png"]["classes"]) == set(CLASSES)
    assert answers["good.png"]["error"] is None
    for name in ("cut.jpg", "text.png", "huge.png", "missing.jpg"):
        assert answers[name]["classes"] == []
        assert sum(name in line for line in lines) == 1
    assert len(lines) == 4
    code, out, lines_of_table = vgg("predict", run, good, cut, text, huge, tmp_path / "missing.jpg")
    assert code == 2
    assert lines_of_table == lines
    assert out.splitlines()[0] == str(good)
    assert len(out.splitlines()) == 1 + len(CLASSES)
    assert_one_line(vgg("predict", run, text), text)


@pytest.mark.parametrize("command", ["predict", "features"])
def test_files_that_are_no_images_are_counted_and_named(vgg, tmp_path, run, command):
    """Oracle: what was put beside the picture."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    photo(folder / "good.png")
    for name in ("a.psd", "b.txt", ".hidden"):
        (folder / name).touch()
    more = ("--model", run, "--layers", "relu1_1", "-o", tmp_path / "f.npy") if command == "features" else ()
    code, _, lines = vgg(command, *([] if more else [run]), folder, *more)
    assert code == 0
    (line,) = (line for line in lines if "left out" in line)
    assert line.startswith("vgg: 2 files are left out")
    assert "a.psd" in line
    assert "b.txt" in line
    assert ".hidden" not in line


def test_a_test_goes_on_without_bad_images_if_asked(vgg, tmp_path, photos, run):
    """Oracle: by hand: what was cut short is counted and named, and does not count as an image."""
    folder = tmp_path / "spoiled"
    for split in ("train", "test"):
        shutil.copytree(photos, folder / split)
    first = folder / "test" / "cat" / "3.jpg"
    images = json.loads(vgg("test", run, "--data", folder, "--json")[1])["images"]
    first.write_bytes(first.read_bytes()[:100])
    assert_one_line(vgg("test", run, "--data", folder), first, "--on-bad-image skip")
    code, out, lines = vgg("test", run, "--data", folder, "--json", "--on-bad-image", "skip")
    assert (code, json.loads(out)["images"]) == (0, images - 1)
    assert any(str(first) in line for line in lines)
    assert any("left out 1 images" in line for line in lines)


@pytest.mark.parametrize("command", ["test", "predict"])
@pytest.mark.parametrize("mistake", ["foreign", "other network", "cut short", "no run folder", "missing"])
def test_weights_that_cannot_be_used(vgg, tmp_path, photos, run, command, mistake):
    """Oracle: the name of the file or folder, and for another network the tensor that does not fit."""
    file, named = run / "weights.safetensors", run / "weights.safetensors"
    if mistake == "foreign":
        save_file(load_file(file), file)  # without a description
    elif mistake == "other network":
        other = build("vgg13_bn", num_classes=2, head="gap", width=0.05)
        save(other, tmp_path / "other.safetensors", classes=CLASSES, preprocess=Preprocess.imagenet())
        from safetensors import safe_open

        with safe_open(file, framework="pt") as described:
            save_file(load_file(tmp_path / "other.safetensors"), file, described.metadata())
    elif mistake == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif mistake == "no run folder":
        file.unlink()
        named = run
    else:
        run = named = tmp_path / "nothing"
    options = ["--data", photos] if command == "test" else [photos]
    answer = vgg(command, run, *options)
    assert_one_line(answer, named, *(["bn1_2.bias does not belong"] if mistake == "other network" else []))


def test_what_is_not_a_run_folder_is_not_resumed(vgg, tmp_path, photos):
    """Oracle: the folder's files are as they were."""
    before = sorted(photos.rglob("*"))
    assert_one_line(vgg("train", "--resume", photos), photos, "config.json")
    assert sorted(photos.rglob("*")) == before


def limited(num_bytes, *arguments, cache):
    """The command in a process whose files may not grow beyond so many bytes, as on a disk that is full."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    environment = {**os.environ, "VGGNET_CACHE": str(cache)}
    command = [VGG, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env=environment)


def test_a_full_disk_while_training(tmp_path, vgg):
    """Oracle: the files before and after, and a run that ends once there is room."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    options = ["--width", "0.05", "--epochs", "1", "--batch-size", "512", "--checkpoint-minutes", "0"]
    vgg("data", "digits")
    stopped = limited(100_000, "train", "--data", "digits", "--out", run, *options, cache=cache)
    assert stopped.returncode == 2
    assert stopped.stdout == ""
    last = stopped.stderr.strip().splitlines()[-1]
    assert last.startswith("vgg: ")
    assert "cannot be written" in last
    assert "Traceback" not in stopped.stderr
    assert not [path for path in run.rglob("*") if path.suffix in (".tmp", ".safetensors")]
    code, out, _ = vgg("train", "--resume", run)
    assert code == 0
    assert "weights.safetensors" in out


def test_a_full_disk_while_testing(tmp_path, vgg, photos, run):
    """Oracle: the accuracy is printed all the same; nothing half-written remains."""
    code, out, _ = vgg("test", run, "--data", photos, "--out", tmp_path / "room")
    assert code == 0
    accuracy = out.strip().splitlines()[-1]
    before = sorted(run.iterdir())
    full = limited(100, "test", run, "--data", photos, "--workers", 0, cache=tmp_path / "cache")
    assert full.returncode == 2
    assert full.stdout.strip().splitlines()[-1] == accuracy
    lines = full.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "test.json" in lines[0]
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("train --epochs abc", ["--epochs", "'abc'", "INT"]),
        ("train --lr fast", ["--lr", "'fast'", "FLOAT"]),
        ("train --workers many", ["--workers", "many", "INT"]),
        ("train --head foo", ["--head", "'foo'", "'gap'"]),
        ("train --epochs", ["--epochs", "value"]),
        ("train --bogus", ["--bogus"]),
        ("train --modle vgg11", ["--modle", "--model"]),
        ("train --resume", ["--resume", "value"]),
        ("train --resume runs/mine --lr 0.1", ["--lr", "no other but --data"]),
        ("train --init-from", ["--init-from", "value"]),
        ("train --init_from", ["--init-from", "value"]),
        ("test", ["MODEL"]),
        ("predict", ["MODEL"]),
        ("predict runs/mine x.png --nope", ["--nope"]),
        (f"predict runs/mine x.png --top {'long/' * 30}", ["--top", "long/" * 30]),
        ("data", ["DATA"]),
        ("data photos more", ["more"]),
        ("bench", ["infer"]),
        ("bench fly", ["fly", "infer"]),
        ("bench train --size x", ["--size", "'x'", "INT"]),
    ],
)
@pytest.mark.parametrize("columns", ["40", "200"])
def test_mistaken_options(vgg, monkeypatch, arguments, named, columns):
    """Oracle: one line with the option, what was found, what is expected, and where help is; at any width."""
    monkeypatch.setenv("COLUMNS", columns)
    command = arguments.split()[0]
    assert_one_line(vgg(*arguments.split()), *named, f"See vgg {command} --help.")
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize("mistake", [["--bogus"], ["--epochs", "abc"], ["--lr", "-1"], ["--init_from", "nothing"]])
def test_options_are_checked_before_the_data_are_opened(vgg, monkeypatch, mistake):
    """Oracle: no data set is opened, although which preset is meant depends on it."""
    monkeypatch.setattr(
        "vggnet.training.preparation.open_source", lambda *arguments: pytest.fail("the data were opened")
    )
    assert_one_line(vgg("train", *mistake), mistake[-1].lstrip("-"))


@pytest.mark.parametrize(("spelling", "width"), [("--init-from", 0.05), ("--init_from", 0.05), (None, 0.25)])
def test_the_network_is_that_of_the_weights(vgg, monkeypatch, tmp_path, run, spelling, width):
    """Oracle: the width that the weights were saved with; else that of the preset for the digits."""

    def stop(folder, model, inputs, *others):
        raise ConfigError(f"{inputs.source.name}, {inputs.config.model.width}, {inputs.config.schedule.epochs}")

    monkeypatch.setattr("vggnet.training.train._run", stop)
    given = [spelling, run] if spelling else []
    out = ["--out", tmp_path / "new"]
    code, printed, (first, last) = vgg("train", "--data", "digits", "--epochs", "3", *out, *given)
    assert (code, printed, last) == (2, "", f"vgg: digits, {width}, 3")
    assert first.startswith("preset digits ")


@pytest.mark.parametrize("model", ["nope", "nope.safetensors"])
def test_a_model_that_does_not_exist_is_not_tested(vgg, model):
    """Oracle: the line says that it does not exist, not that data are missing."""
    assert_one_line(vgg("test", model), model, "no such run folder")


@pytest.mark.parametrize("command", ["test", "predict"])
def test_a_network_without_head_answers_nothing(vgg, tmp_path, photos, command):
    """Oracle: the contract: one line says what is missing, and how to get it."""
    save(build("vgg11", head="none", width=0.05), tmp_path / "features.safetensors", preprocess=Preprocess.imagenet())
    for given in ([], ["--data", photos]) if command == "test" else ([photos / "cat" / "1.jpg"],):
        assert_one_line(vgg(command, tmp_path / "features.safetensors", *given), "has no head", "--init-from")


def test_weights_that_are_not_here_yet(vgg):
    """Oracle: the command that gets them."""
    for command in (
        ["test", "vgg16:keras"],
        ["predict", "vgg16:keras", "x.png"],
        ["train", "--init-from", "vgg16:keras"],
    ):
        assert_one_line(vgg(*command), "vgg weights fetch vgg16:keras")


def test_a_file_of_weights_does_not_say_what_to_test_on(vgg, run):
    """Oracle: the option to add."""
    assert_one_line(vgg("test", run / "weights.safetensors"), "weights.safetensors", "--data")


def test_help_of_training_tells_everything(vgg, monkeypatch):
    """Oracle: the options of a run; the examples, each on a line of its own."""
    monkeypatch.setenv("COLUMNS", "100")
    code, out, lines = vgg("train", "--help")
    assert (code, lines) == (0, [])
    for example in ("Example: vgg train --data cifar10", "Fine-tune: vgg train --data", "Ctrl-C saves and stops"):
        assert sum(line.startswith(example) for line in out.splitlines()) == 1
    helps = help_by_option(out)
    for field in (*Train.__dataclass_fields__.keys() - {"options"}, *TrainConfig().as_options()):
        assert any(word.isalpha() and word.islower() for word in helps["--" + field.replace("_", "-")].split()), field
    assert "passes over the training images" in helps["--epochs"]
    assert "chosen from the data" in helps["--preset"]


def help_by_option(text):
    """What stands beside and below each option in a help text."""
    helps, option = {}, None
    for line in text.splitlines():
        inside = line.strip("│ ")
        if inside.startswith("--"):
            option = inside.split()[0].rstrip(",")
        helps[option] = f"{helps.get(option, '')} {inside}"
    return helps
