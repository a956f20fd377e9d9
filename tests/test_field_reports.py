"""What users of other tools reported, one kind of fault after another. The product is used from the outside only.

Many inputs are those of ../shared/field/make_cases.py, whose README says what is right; the others are made here.
"""

import importlib.util
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

import vggnet
from vggnet.cli.main import main
from vggnet.errors import DataError
from vggnet.interpret import explain

MAKE_CASES = Path(__file__).parents[2] / "shared" / "field" / "make_cases.py"
SMALL = ["--model", "vgg11_bn", "--head", "gap", "--width", "0.05"]
TINY = ["--preset", "quick", *SMALL, "--epochs", "1", "--batch-size", "8"]


@pytest.fixture(scope="session")
def made_cases(tmp_path_factory):
    if not MAKE_CASES.exists():
        pytest.skip("../shared/field is not here")
    spec = importlib.util.spec_from_file_location("make_cases", MAKE_CASES)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.main(tmp_path_factory.mktemp("cases"))
    return tmp_path_factory.getbasetemp() / "cases0"


@pytest.fixture
def case(made_cases, tmp_path):
    """A copy of one of the inputs, which the test may change."""
    return lambda name: Path(shutil.copytree(made_cases / name, tmp_path / name))


@pytest.fixture
def vgg(capsys, tmp_path, monkeypatch):
    """The command in this process, with a cache of its own: exit code, stdout, stderr."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VGGNET_CONV", "direct")
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return command


@pytest.fixture
def network(tmp_path):
    """Make the weights file of a small random network for these classes."""

    def make(*classes, crop=32, seed=0, **options):
        torch.manual_seed(seed)
        options = {"head": "gap", "width": 0.1} | options
        model = vggnet.create_model("vgg11_bn", num_classes=len(classes), **options).eval()
        model.preprocess = vggnet.Preprocess(resize=crop, crop=crop)
        vggnet.save(model, tmp_path / "network.safetensors", classes=classes)
        return tmp_path / "network.safetensors"

    return make


def noise(path, seed, size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def noises(root, count, classes=("cat", "dog"), size=(32, 32)):
    for label, name in enumerate(classes):
        for number in range(count):
            noise(root / name / f"{number:02}.png", [label, number], size)
    return root


def splits_of(vgg, data, *options):
    code, out, err = vgg("data", data, "--json", *options)
    assert code == 0, err
    return {split["split"]: split for split in json.loads(out)["splits"]}


def one_line(answer, *named):
    code, out, err = answer
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert all(name in err for name in named), err


def process(*arguments, **environment):
    """A Python process: `python -m vggnet` with these arguments, or a program after "-c"."""
    command = [sys.executable, *(arguments if arguments[0] == "-c" else ["-m", "vggnet", *arguments])]
    return subprocess.run(
        list(map(str, command)), env=os.environ | environment, capture_output=True, timeout=120, check=False
    )


# --- Data that silently become something else ---


def test_a_new_image_moves_no_other_one_to_another_split(vgg, case):
    """Symptom: after one more picture, images of the training are in the test. Oracle: one split gains the picture,
    and the other stays as it is, to the last digit of its mean; so after one is deleted."""
    folder = case("leak-by-growing")
    for step in range(4):
        before = splits_of(vgg, folder)
        if step < 3:
            noise(folder / "cat" / f"00{step}-new.png", [7, step])
        else:
            (folder / "dog" / "007.png").unlink()
        after = splits_of(vgg, folder)
        (changed,) = [split for split in before if before[split]["mean"] != after[split]["mean"]]
        assert after[changed]["num_images"] - before[changed]["num_images"] == (1 if step < 3 else -1)


def test_a_test_on_training_images_says_so(vgg, case):
    """Symptom: `vgg test` reports images of the training as a test. Oracle: how many `vgg data` counts in train."""
    folder = case("leak-by-growing")
    count = splits_of(vgg, folder)["train"]["num_images"]
    assert vgg("train", "--data", folder, *TINY, "--val-fraction", 0, "--out", "run")[0] == 0
    shutil.copytree(folder, "other/test")
    code, _, err = vgg("test", "run", "--data", "other", "--json")
    assert code == 0
    assert f"{count} of 60 images were trained on" in err
    assert "trained on" not in vgg("test", "run", "--json")[2]


LAYOUTS = {
    "split-names": {"train": {"cat": 12, "dog": 12}, "test": {"cat": 6, "dog": 6}},
    "split-valid": {"train": {"cat": 12, "dog": 12}, "val": {"cat": 6, "dog": 6}},
    "hidden-files": {"cat": 12, "dog": 12},
    "runs-inside": {"cat": 12, "dog": 12},
    "parquet-below": {"0": 8, "1": 8},
    "thumbnail-first": {"cat": 6, "dog": 6},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_read_as_they_are_meant(vgg, case, name):
    """Symptom: splits, run folders, hidden copies and `__MACOSX` are classes. Oracle: what make_cases.py wrote. A link
    to a folder above changes nothing."""
    folder, expected = case(name), LAYOUTS[name]
    if name == "runs-inside":
        assert vgg("train", "--data", folder, *TINY, "--out", folder / "runs" / "mine")[0] == 0
        (folder / "cat" / "again").symlink_to(folder)
    found = {split: facts["images_per_class"] for split, facts in splits_of(vgg, folder).items()}
    if not isinstance(next(iter(expected.values())), dict):
        first, *others = found.values()
        found = {label: count + sum(other[label] for other in others) for label, count in first.items()}
    assert found == expected


def test_an_existing_validation_split_is_used(vgg, case):
    """Symptom: the folder `valid` is ignored. Oracle: an image there that cannot be read is named by the training."""
    folder = case("split-valid")
    (folder / "valid" / "cat" / "003.png").write_bytes(b"no image")
    code, _, err = vgg("train", "--data", folder, *TINY, "--out", "run")
    assert (code, "valid/cat/003.png" in err.splitlines()[-1]) == (2, True), err


def test_one_thumbnail_does_not_decide_for_all(vgg, case):
    """Symptom: a folder of photos is trained on at 32 pixels, as the first picture is small. Oracle: the preset for
    photos has crops of 224 pixels; the first line says which preset and why."""
    options = [*SMALL, "--epochs", 1, "--batch-size", 4, "--workers", 0, "--val-fraction", 0]
    Path("photos").mkdir()
    case("thumbnail-first").rename("photos/train")
    code, _, err = vgg("train", "--data", "photos", *options, "--out", "run")
    assert code == 0, err
    assert vggnet.load("run").preprocess.crop == 224
    assert "photos" in err.splitlines()[0]
    assert "300 x 300" in err.splitlines()[0]


def test_no_file_is_left_out_in_silence(vgg, case, network):
    """Symptom: 4 of 10 dogs are used, and nothing is said. Oracle: make_cases.py wrote 10; other files are named."""
    folder, weights = case("formats"), network("cat", "dog")
    shutil.copy(folder / "cat" / "000.png", folder / "dog" / "drawing.psd")
    counts = [split["images_per_class"] for split in splits_of(vgg, folder).values()]
    assert sum(count["dog"] for count in counts) == 10
    commands = [
        ("train", "--data", folder, *TINY, "--val-fraction", 0, "--out", "run"),
        ("test", weights, "--data", folder, "--out", "tested"),
        ("predict", weights, folder / "dog", "--json"),
        ("features", folder / "dog", "--model", weights, "--layers", "relu2_1", "--pooling", "mean", "-o", "f.npy"),
        ("similar", "index", folder / "dog", "--weights", weights),
    ]
    for command in commands:
        code, out, err = vgg(*command)
        assert (code, "drawing.psd" in err) == (0, True), (command, err)
        if command[0] == "predict":
            assert [one["error"] for one in json.loads(out)] == [None] * 10
    assert len(np.load("f.npy")) == 10


def test_an_image_that_could_not_be_read_once_is_read_again(vgg, tmp_path, as_any_user):
    """Symptom: a file without permission for a moment is skipped in every later training. Oracle: skipped.json."""
    file = noises(tmp_path / "photos", 8) / "cat" / "03.png"
    options = ["train", "--data", "photos", *TINY, "--on-bad-image", "skip", "--val-fraction", 0, "--out"]
    file.chmod(0)
    with as_any_user():
        vgg(*options, "first")
    file.chmod(0o644)
    code, _, err = vgg(*options, "second")
    assert code == 0
    assert "03.png" in Path("first/skipped.json").read_text(encoding="utf-8")
    assert not Path("second/skipped.json").exists(), err


def test_a_folder_that_is_replaced_is_not_taken_for_the_old_one(vgg, network, tmp_path):
    """Symptom: other pictures of the same names, sizes and times get the results of the earlier ones. Oracle: the mean
    loss of `vgg predict` for each file."""
    weights = network("cat", "dog")
    for turn in range(2):
        for label, name in enumerate(("cat", "dog")):
            file = tmp_path / "photos" / "test" / name / "0.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), ("black", "white")[label ^ turn]).save(file)
            os.utime(file, ns=(10**18, 10**18))
        found = {Path(one.name).parent.name: one for one in vggnet.predict(weights, "photos")}
        losses = [-math.log(one.probabilities[one.classes.index(name)]) for name, one in found.items()]
        code, out, _ = vgg("test", weights, "--data", "photos", "--out", "tested", "--json")
        assert code == 0
        assert json.loads(out)["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_cache_can_be_seen_and_emptied(vgg, case, tmp_path):
    """Symptom: the folder of decoded images only grows. Oracle: the bytes in it: 24 images of 32 x 32 pixels."""

    def num_bytes():
        return sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.npy"))

    folder = case("split-names")
    assert vgg("train", "--data", folder, *TINY, "--val-fraction", 0, "--out", "run")[0] == 0
    assert num_bytes() > 24 * 3 * 32 * 32
    code, out, err = vgg("data", folder, "--clear-cache")
    assert (code, "cache" in out) == (0, True), err
    assert num_bytes() < 24 * 3 * 32 * 32


LABELS = {
    "labels-list": ([], {"0": 8, "1": 8}),
    "labels-float": ([], {"0.0": 8, "1.0": 8}),
    "labels-column": (["--label-column", "target"], {"0": 8, "1": 8}),
    "labels-ragged": ([], "row 2"),
    "missing": ([], "row 2"),
    "one-hot": ([], {"0": 6, "1": 6, "2": 6}),
    "binary": ([], {"cat": 6, "dog": 12}),
    "csv": ([], {"cat": 6, "dog": 12}),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_in_every_form(vgg, request, tmp_path, name):
    """Symptom: a traceback, or a refusal, of labels that other tools write. Oracle: the labels, counted by hand; what
    is no label is refused with its row."""
    options, expected = LABELS[name]
    folder = tmp_path / name
    if name.startswith("labels-"):
        folder = request.getfixturevalue("case")(name)
    else:
        files = [noise(folder / f"{number:02}.png", number) for number in range(18)]
        labels = {
            "missing": [0.0, 1.0, math.nan] * 6,
            "one-hot": [[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 6,
        }.get(name, ["cat", "dog", "dog"] * 6)
        if name == "csv":
            rows = [f"{file.name},{label}" for file, label in zip(files, labels, strict=True)]
            (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
        else:
            images = [file.read_bytes() for file in files]
            cells = images if name == "binary" else [{"bytes": image, "path": None} for image in images]
            shutil.rmtree(folder)
            folder.mkdir()
            pq.write_table(pa.table({"image": cells, "label": labels}), folder / "train.parquet")
    answer = vgg("data", folder, "--json", *options)
    if isinstance(expected, str):
        one_line(answer, expected)
        return
    assert answer[0] == 0, answer[2]
    splits = [split["images_per_class"] for split in json.loads(answer[1])["splits"]]
    assert {label: sum(split[label] for split in splits) for label in splits[0]} == expected


def test_a_file_name_of_any_bytes(vgg, case, network):
    """Symptom: a traceback for the name caf\\xe9.png. Oracle: the name as Python has it (PEP 383), back from JSON;
    it is printed escaped."""
    folder = case("bad-names")
    name = str(folder / "cat" / os.fsdecode(b"caf\xe9.png"))
    assert sum(split["images_per_class"]["cat"] for split in splits_of(vgg, folder).values()) == 13
    assert vgg("train", "--data", folder, *TINY, "--val-fraction", 0, "--out", "run")[0] == 0
    code, out, _ = vgg("predict", "run", folder / "cat", "--json")
    assert code == 0
    assert name in [one["name"] for one in json.loads(out)]
    code, out, _ = vgg("predict", "run", folder / "cat")
    assert (code, "caf\\udce9.png" in out) == (0, True)


def test_a_test_set_with_some_of_the_classes(vgg, case, network):
    """Symptom: the test stops, as the data have other classes. Oracle: the classes that `vgg predict` finds."""
    folder, weights = case("test-lacks-class"), network("cat", "dog", "fox")
    code, out, err = vgg("test", weights, "--data", folder, "--out", "tested", "--json")
    assert code == 0, err
    assert "2 of the model's 3 classes" in err
    found = vggnet.predict(weights, folder / "test", top=1)
    correct = sum(one.classes[0] == Path(one.name).parent.name for one in found)
    assert json.loads(out)["top1"] == pytest.approx(correct / 12)
    assert json.loads(out)["images"] == 12


def test_a_test_split_without_labels(vgg, case):
    """Symptom: because the folder `test` has no class folders, nothing works. Oracle: train has labels, test has 6
    images to predict."""
    folder = case("unlabeled-test")
    assert splits_of(vgg, folder)["train"]["images_per_class"] == {"cat": 12, "dog": 12}
    assert vgg("train", "--data", folder, *TINY, "--val-fraction", 0, "--out", "run")[0] == 0
    one_line(vgg("test", "run", "--data", folder), "no labels")
    assert len(json.loads(vgg("predict", "run", folder / "test", "--json")[1])) == 6


def test_a_bad_image_in_the_test(vgg, case, network, tmp_path):
    """Symptom: one damaged file ends the whole test. Oracle: 23 of 24 images count, and the other is named."""
    weights = network("cat", "dog")
    case("bad-image-in-test").rename(tmp_path / "test")
    (tmp_path / "photos").mkdir()
    (tmp_path / "test").rename(tmp_path / "photos" / "test")
    options = ["test", weights, "--data", "photos", "--out", "tested", "--json"]
    one_line(vgg(*options), "003.png")
    code, out, err = vgg(*options, "--on-bad-image", "skip")
    assert (code, json.loads(out)["images"]) == (0, 23)
    assert "003.png" in err


def test_one_bad_picture_does_not_lose_the_others(network, tmp_path):
    """Symptom: one picture in a list that cannot be read, and no answer at all. Oracle: which pictures are good."""
    good = np.zeros((32, 32, 3), np.uint8)
    stream = io.BytesIO()
    Image.new("RGB", (200, 200)).save(stream, "JPEG")
    cut = stream.getvalue()[:700]
    pictures = {
        "array": good,
        "float array": good.astype(np.float64),
        "PIL image": Image.fromarray(good),
        "cut PIL image": Image.open(io.BytesIO(cut)),
        "file": io.BytesIO(stream.getvalue()),
        "cut file": io.BytesIO(cut),
        "tensor": torch.zeros(3, 32, 32, dtype=torch.uint8),
        "tensor of one row": torch.zeros(32, dtype=torch.uint8),
        "cut bytes": cut,
        "bytes": stream.getvalue(),
    }
    found = vggnet.predict(network("cat", "dog"), list(pictures.values()))
    bad = [name for name, one in zip(pictures, found, strict=True) if one.error]
    assert bad == ["float array", "cut PIL image", "cut file", "tensor of one row", "cut bytes"]


@pytest.mark.parametrize("kind", ["12 bits", "mode I", "mode I;16"])
def test_more_than_8_bits(network, made_cases, tmp_path, kind):
    """Symptom: 12-bit data have 16 gray levels, and mode I is white. Oracle: the features of the 8-bit image that numpy
    makes of the values."""
    if kind == "mode I":
        values = np.random.default_rng(0).integers(0, 256, (64, 64))
        picture, shift = Image.fromarray(values.astype(np.int32)), 0
    else:
        values, shift = np.asarray(Image.open(made_cases / "twelve-bit.png")), 4
        picture = made_cases / "twelve-bit.png" if kind == "12 bits" else Image.fromarray(values)
    gray = (values >> shift).astype(np.uint8)
    pictures = [picture, np.stack([gray] * 3, axis=-1)]
    first, second = vggnet.extract_features(network("cat", "dog", crop=64), pictures, ["relu2_1"])["relu2_1"]
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_picture_of_90_megapixels(vgg, network, tmp_path, monkeypatch):
    """Symptom: a panorama cannot be used. Oracle: a JPEG of one color gets the answer of a small picture of it; for a
    PNG, which cannot be decoded reduced, the limit is said and can be raised."""
    weights = network("cat", "dog")
    for size in ((10_000, 9_000), (300, 200)):
        Image.new("RGB", size, (200, 60, 60)).save(tmp_path / f"{size[0]}.jpg")
    first, second = vggnet.predict(weights, [tmp_path / "10000.jpg", tmp_path / "300.jpg"])
    assert first.error is None
    assert first.probabilities == pytest.approx(second.probabilities, abs=1e-3)
    Image.new("L", (500, 400)).save(tmp_path / "large.png")
    monkeypatch.setenv("VGGNET_MAX_PIXELS", "100000")
    assert "VGGNET_MAX_PIXELS" in vggnet.predict(weights, tmp_path / "large.png")[0].error
    monkeypatch.setenv("VGGNET_MAX_PIXELS", "200000")
    assert vggnet.predict(weights, tmp_path / "large.png")[0].error is None


def test_a_gray_network_made_of_an_rgb_one(network):
    """Symptom: features of gray pictures differ from those of RGB copies, as the deviations differ. Oracle: PyTorch's
    convolution of the RGB copies, by hand; without the border, where zeros stand for different colors."""
    path = network("cat", "dog")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.13])
    rgb = vggnet.load(path)
    rgb.preprocess = vggnet.Preprocess(resize=32, crop=32, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    vggnet.save(rgb, path)
    gray = vggnet.load(path, in_channels=1)
    pixels = torch.rand(1, 1, 32, 32)
    copies = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    first = rgb.features.conv1_1
    expected = nn.functional.conv2d(copies, first.weight, first.bias)
    found = gray.features.conv1_1((pixels - gray.preprocess.mean[0]) / gray.preprocess.std[0])[..., 1:-1, 1:-1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# --- Processes ---


def photo_config(**options):
    given = {"model": "vgg11_bn", "head": "gap", "width": 0.05, "resize": 72, "crop": 72, "workers": 1}
    given |= {"epochs": 1, "batch_size": 4, "val_fraction": 0.0}
    return vggnet.preset("photos").override(**given | options)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that PyTorch leaves open then
def test_a_killed_loader_process_is_one_line(vgg, tmp_path):
    """Symptom: the system kills a worker, and 40 lines of another library say so. Oracle: one line that names a way to
    go on. The worker really is killed, after the first step."""
    noises(tmp_path / "photos", 40, size=(80, 80))

    def kill(*_):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(DataError, match="--workers") as raised:
        vggnet.train("photos", photo_config(), out="run", progress=kill)
    assert len(str(raised.value).splitlines()) == 1


def test_a_shared_memory_of_one_megabyte(vgg, tmp_path):
    """Symptom: in a container the training hangs or dies of a bus error. Oracle: it ends, or one line says what to
    do."""
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("this system lets nobody mount a small /dev/shm")
    noises(tmp_path / "photos", 16, size=(230, 230))
    options = [*SMALL, "--epochs", 1, "--batch-size", 16, "--workers", 1, "--val-fraction", 0, "--preset", "photos"]
    train = [sys.executable, "-m", "vggnet", "train", "--data", "photos", *options, "--out", "run"]
    started = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *map(str, train)]
    done = subprocess.run(started, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    assert Path("run/weights.safetensors").exists()


def test_a_closed_terminal_saves(vgg, tmp_path):
    """Symptom: after the connection is lost, the run is gone. Oracle: two of three epochs are done before the signal;
    the resumed run is whole."""
    noises(tmp_path / "photos", 8)
    program = (
        "import os, signal, vggnet\n"
        "config = vggnet.preset('quick').override(model='vgg11_bn', head='gap', width=0.05, epochs=3, batch_size=16,"
        " val_fraction=0.0)\n"
        "hang_up = lambda done, total: done == 2 and os.kill(os.getpid(), signal.SIGHUP)\n"
        "run = vggnet.train('photos', config, out='run', progress=hang_up)\n"
        "print(run.finished, len(run.history))"
    )
    done = process("-c", program)
    assert (done.returncode, done.stdout.split()[:1]) == (0, [b"False"]), done.stderr
    run = vggnet.resume("run")
    assert (run.finished, len(run.history)) == (True, 3)


def interrupted(data, out, **options):
    """A training in this process that gets SIGINT after its first step."""
    config = photo_config(resize=32, crop=32, workers=0, epochs=2, **options)
    return vggnet.train(
        data, config, out=out, progress=lambda done, _: done == 1 and os.kill(os.getpid(), signal.SIGINT)
    )


def test_an_ignored_ctrl_c_stays_ignored(vgg, tmp_path):
    """Symptom: a training in the background of a script stops with the script's Ctrl-C. Oracle: it finishes."""
    noises(tmp_path / "photos", 8)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert interrupted("photos", "run").finished
    finally:
        signal.signal(signal.SIGINT, before)


def test_touched_files_are_the_same_images(vgg, tmp_path):
    """Symptom: a run cannot be resumed after the archive was unpacked again. Oracle: the same content, other times."""
    noises(tmp_path / "photos", 8)
    assert not interrupted("photos", "run").finished
    shutil.copytree("photos", "again", copy_function=shutil.copyfile)
    shutil.rmtree("photos")
    Path("again").rename("photos")
    assert vggnet.resume("run").finished


def test_more_epochs_after_the_end(vgg, tmp_path):
    """Symptom: a finished run cannot be continued. Oracle: the rows of its history."""
    noises(tmp_path / "photos", 8)
    assert vgg("train", "--data", "photos", *TINY, "--out", "run")[0] == 0
    code, _, err = vgg("train", "--resume", "run", "--epochs", 3)
    assert code == 0, err
    rows = [json.loads(line) for line in Path("run/history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_a_loss_of_guessing_is_pointed_out(vgg, tmp_path):
    """Symptom: the loss stays at 0.693 for hours. Oracle: ln(2) = 0.693, with weights that hardly move."""
    noises(tmp_path / "photos", 8)
    options = ["--preset", "quick", "--model", "vgg11", "--head", "gap", "--width", "0.05", "--init", "gaussian"]
    options += ["--epochs", 2, "--batch-size", 16, "--optimizer", "sgd", "--lr", "1e-6", "--val-fraction", 0]
    code, _, err = vgg("train", "--data", "photos", *options, "--out", "run")
    assert code == 0, err
    assert "ln(2) = 0.693" in err


@pytest.mark.parametrize("lacks", ["process groups", "open folders", "fork"])
def test_training_where_the_system_has_less(vgg, tmp_path, monkeypatch, lacks):
    """Symptom: AttributeError or PermissionError on Windows. Oracle: the training ends as on Linux. Emulated: no
    os.setpgrp; no folder can be opened, so none is synchronized; worker processes are spawned."""
    noises(tmp_path / "photos", 6, size=(80, 80))
    config = photo_config(batch_size=12)
    if lacks == "process groups":
        monkeypatch.delattr(os, "setpgrp")
    elif lacks == "open folders":
        real = os.open
        monkeypatch.setattr(os, "open", lambda path, *rest, **named: real_file(real, path, *rest, **named))
    else:
        monkeypatch.setattr(
            multiprocessing.context._default_context, "_actual_context", multiprocessing.get_context("spawn")
        )
    assert vggnet.train("photos", config, out="run").finished
    assert Path("run/weights.safetensors").exists()


def real_file(real, path, *rest, **named):
    if not isinstance(path, int) and os.path.isdir(path):  # noqa: PTH112 (path may be bytes)
        raise PermissionError(13, "Permission denied", path)
    return real(path, *rest, **named)


def test_class_names_on_a_windows_console(vgg, network, tmp_path):
    """Symptom: UnicodeEncodeError for Chinese class names. Oracle: cp1252 has no such character, so it is escaped."""
    noise(tmp_path / "a.png", 0)
    done = process("predict", network("\u732b", "caf\xe9"), "a.png", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert "caf\xe9" in done.stdout.decode("cp1252")
    assert "\\u732b" in done.stdout.decode("cp1252")


def test_a_full_standard_output():
    """Symptom: a traceback when the disk behind a redirect is full. Oracle: one line, and exit code 2."""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "vggnet", "show", "vgg11"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr


def test_what_may_not_be_read(vgg, network, tmp_path, as_any_user):
    """Symptom: a traceback for a folder or a weights file without permission. Oracle: one line that names it."""
    weights, picture = network("cat", "dog"), noise(tmp_path / "a.png", 0)
    noises(tmp_path / "photos", 3)
    Path("photos").chmod(0)
    weights.chmod(0)
    try:
        with as_any_user():
            for command in (
                ("data", "photos"),
                ("train", "--data", "photos", *TINY),
                ("test", weights, "--data", "photos"),
            ):
                one_line(vgg(*command), "ermission")
            one_line(vgg("predict", weights, picture), "network.safetensors", "ermission")
    finally:
        Path("photos").chmod(0o755)


# --- Features, distances, explanations ---


@pytest.fixture(scope="module")
def vgg16():
    """VGG-16 without its head, whose features are as large as those of trained weights."""
    torch.manual_seed(0)
    model = vggnet.create_model("vgg16", head="none").eval()
    model.preprocess = vggnet.Preprocess.imagenet()
    for parameter in model.parameters():
        parameter.data.mul_(1.35)
    return model


@pytest.fixture(scope="module")
def pair():
    random = torch.Generator().manual_seed(1)
    return torch.rand(2, 1, 3, 16, 16, generator=random).mul(2).sub(1).unbind()


def test_distances_in_half_precision(vgg16, pair):
    """Symptom: the style distance is infinite, and the gradient of DISTS is not finite, under float16 autocast. Oracle:
    float32."""
    pytest.importorskip("DISTS_pytorch")
    for distance in (vggnet.perceptual.StyleDistance(vgg16), vggnet.perceptual.DISTS(vgg16)):
        images = pair[0].clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.float16):
            found = distance(images, pair[1])
        torch.testing.assert_close(found.float(), distance(*pair), rtol=0.01, atol=1e-4)
        (gradient,) = torch.autograd.grad(found.sum(), images)
        assert gradient.isfinite().all()


def test_answers_leave_a_shared_model_alone(network):
    """Symptom: `predict` changes the statistics of a model in training, and `explain` freezes its parameters for
    others. Oracle: the model before, at the moment of each forward pass and after."""
    model = vggnet.load(network("cat", "dog")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = []

    def look(*_):
        states.append((model.training, all(parameter.requires_grad for parameter in model.parameters())))

    for image in (Image.new("RGB", (32, 32), color) for color in ("red", "blue")):
        vggnet.predict(model, [image], progress=look)
        explain(model, image, methods=["gradcam", "gradcam++"], progress=look)
        look()
    assert set(states) == {(True, True)}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("way", ["fx", "vmap"])
def test_pytorchs_own_tools(network, way):
    """Symptom: the network cannot be traced, for features or for a server. Oracle: the network itself."""
    model = vggnet.load(network("cat", "dog")).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
    found = torch.vmap(model)(images[:, None])[:, 0] if way == "vmap" else torch.fx.symbolic_trace(model)(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_picture_has_no_distance_from_itself(vgg16):
    """Symptom: a distance of -1e-7. Oracle: 0, and never below it for pictures that are nearly the same."""
    pytest.importorskip("DISTS_pytorch")
    distance = vggnet.perceptual.DISTS(vgg16)
    for seed in range(3):
        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        assert distance(image, image).item() == 0
        assert distance(image, (image + 1e-6).clamp(-1, 1)).item() >= 0


def test_distances_of_images_in_zero_to_one(vgg16, pair):
    """Symptom: images in [0, 1] get wrong distances, and there is no way to say it. Oracle: the same in [-1, 1]; a
    weighted sum of two layers by hand."""
    distance = vggnet.perceptual.ContentDistance
    units = [(image + 1) / 2 for image in pair]
    one, two = (distance(vgg16, [layer])(*pair) for layer in ("relu1_2", "relu2_1"))
    found = distance(vgg16, {"relu1_2": 0.5, "relu2_1": 3.0})(*units, normalize=True)
    torch.testing.assert_close(found, 0.5 * one + 3 * two, rtol=1e-4, atol=1e-6)


def test_features_of_the_fully_connected_layers(vgg, network, tmp_path):
    """Symptom: fc7, the layer that papers use, is no layer. Oracle: the head's own modules, one after the other."""
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11", num_classes=2, head="folded", width=0.05).eval()
    model.preprocess = vggnet.Preprocess(resize=32, crop=32)
    vggnet.save(model, "w.safetensors")
    picture = noise(tmp_path / "a.png", 0)
    code, _, err = vgg("features", picture, "--model", "w.safetensors", "--layers", "fc7", "-o", "f.npy")
    assert code == 0, err
    kept = []
    model.head.fc7.register_forward_hook(lambda module, given, result: kept.append(result))
    with torch.no_grad():
        model(model.preprocess(Image.open(picture)).unsqueeze(0))
    np.testing.assert_allclose(np.load("f.npy").ravel(), kept[0].flatten(), rtol=1e-4, atol=1e-5)


def test_a_map_of_zeros_is_said(network):
    """Symptom: a Grad-CAM picture without any color. Oracle: LayerCAM and Grad-CAM by hand for a class whose weights
    are all negative: no place speaks for it. Several pictures get an explanation each."""
    model = vggnet.load(network("cat", "dog"))
    with torch.no_grad():
        model.head.fc.weight[1] = -1.0
    images = [np.full((32, 32, 3), gray, np.uint8) for gray in (50, 200)]
    first = explain(model, images[0], target="dog", methods=["gradcam"], layer="relu5_2")
    found = [first, *explain(model, images, target="dog", methods=["gradcam", "layercam"], layer="relu5_2")]
    assert len(found) == 3
    for one in found:
        for attribution in one.attributions.values():
            assert not attribution.values.any()
            assert "zero" in attribution.facts["note"]


def test_pages_of_text_are_no_duplicates(vgg, case, tmp_path):
    """Symptom: six different pages of text are one group. Oracle: how make_cases.py drew them; as classes, too."""
    pages = case("text-pages")
    for number, page in enumerate(sorted(pages.iterdir())):
        (tmp_path / "pages" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(page, tmp_path / "pages" / "ab"[number % 2])
    code, out, err = vgg("data", "pages", "--duplicates", "--weights", "vgg8_bn-cifar10-fast", "--json")
    assert code == 0, err
    assert json.loads(out)["duplicates"]["groups"] == []


def test_duplicates_of_a_plain_folder(vgg, case):
    """Symptom: "no folders in it". Oracle: how make_cases.py made the copies; nothing is deleted."""
    folder = case("plain-folder-duplicates")
    options = ["data", folder, "--duplicates", "--weights", "vgg8_bn-cifar10-fast", "--json"]
    for copies, expected in (
        ([], {"0.png", "0-small.jpg"}),
        (["--copies", "turned"], {"0.png", "0-small.jpg", "0-turned.png"}),
    ):
        code, out, err = vgg(*options, *copies)
        assert code == 0, err
        (group,) = json.loads(out)["duplicates"]["groups"]
        assert {Path(name).name for name in group["images"]} == expected
        assert len(group["could_go"]) == len(expected) - 1
    assert len(list(folder.iterdir())) == 5


def test_an_index_is_updated(vgg, network, tmp_path):
    """Symptom: one more picture, and the whole index is computed again. Oracle: the pictures themselves, nearest to
    their own vectors; the vectors of before stay bit by bit."""
    from safetensors.numpy import load_file

    weights = network("cat", "dog")
    for seed in range(5):
        noise(tmp_path / "photos" / f"{seed}.png", seed)
    assert vgg("similar", "index", "photos", "--weights", weights)[0] == 0
    before = load_file("similar.safetensors")
    noise(tmp_path / "photos" / "new.png", 9)
    code, _, err = vgg("similar", "update", "photos")
    assert code == 0, err
    after = load_file("similar.safetensors")
    assert all(np.array_equal(vectors, after[layer][:5]) for layer, vectors in before.items() if vectors.ndim == 2)
    ((nearest,),) = [
        one["matches"] for one in json.loads(vgg("similar", "query", "photos/new.png", "--top", 1, "--json")[1])
    ]
    assert nearest["image"].endswith("new.png")


def test_weights_as_people_have_them(vgg, tmp_path):
    """Symptom: "the tensors do not fit" for a checkpoint of a well-known repository: a dict with `net`, names with
    `module.`, and one linear layer. Oracle: PyTorch's layers. Another head is named, and the rest can be taken."""
    torch.manual_seed(0)
    features = make_layers(cfgs["A"]).eval()
    linear = nn.Linear(512, 10)
    state = {f"module.features.{name}": tensor for name, tensor in features.state_dict().items()}
    head = {f"module.classifier.{name}": tensor for name, tensor in linear.state_dict().items()}
    torch.save({"net": state | head, "acc": 93.1, "epoch": 7}, "ckpt.pth")
    code, _, err = vgg("weights", "convert", "ckpt.pth", "ours.safetensors")
    assert code == 0, err
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            vggnet.load("ours.safetensors")(images), linear(features(images).flatten(1)), rtol=1e-4, atol=1e-5
        )
    foreign = {"module.classifier.0.weight": torch.zeros(7, 512 * 49), "module.classifier.3.weight": torch.zeros(3, 7)}
    torch.save({"state_dict": state | foreign}, "foreign.ckpt")
    one_line(vgg("weights", "convert", "foreign.ckpt", "rest.safetensors"), "its head is", "--features-only")
    code, _, err = vgg("weights", "convert", "foreign.ckpt", "rest.safetensors", "--features-only")
    assert code == 0, err
    with torch.no_grad():
        torch.testing.assert_close(vggnet.load("rest.safetensors")(images), features(images), rtol=1e-4, atol=1e-5)


# --- Numbers that users expect from a test ---


def test_the_scores_of_each_class(vgg, network, tmp_path):
    """Symptom: accuracy only. Oracle: the probabilities that `vggnet.predict` gives, counted by hand; a ROC AUC is the
    share of pairs in the right order."""
    weights, classes = network("cat", "dog", "fox", seed=3), ("cat", "dog", "fox")
    sizes = dict(zip(classes, (3, 5, 8), strict=True))
    for label, (name, count) in enumerate(sizes.items()):
        for number in range(count):
            file = noise(tmp_path / "photos" / "test" / name / f"{number}.png", [label, number])
            pixels = np.asarray(Image.open(file)) // 4 + np.uint8(60 * label)
            Image.fromarray(pixels).save(file)
    code, out, err = vgg("test", weights, "--data", "photos", "--out", "tested", "--json")
    assert code == 0, err
    result, found = json.loads(out), vggnet.predict(weights, "photos", top=3)
    true = [Path(one.name).parent.name for one in found]
    scores = {}
    for name in classes:
        hits = sum(one.classes[0] == name == label for one, label in zip(found, true, strict=True))
        said = sum(one.classes[0] == name for one in found)
        chances = [one.probabilities[one.classes.index(name)] for one in found]
        inside = [chance for chance, label in zip(chances, true, strict=True) if label == name]
        outside = [chance for chance, label in zip(chances, true, strict=True) if label != name]
        pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
        precision, recall = hits / said if said else 0.0, hits / sizes[name]
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        scores[name] = {"precision": precision, "recall": recall, "f1": f1, "roc_auc": np.mean(pairs)}
    for name in classes:
        assert {key: result["scores"][name][key] or 0.0 for key in scores[name]} == pytest.approx(
            scores[name], abs=1e-6
        )
    for key in ("recall", "f1", "roc_auc"):
        values = [scores[name][key] for name in classes]
        assert result["macro"][key] == pytest.approx(np.mean(values))
        assert result["weighted"][key] == pytest.approx(np.average(values, weights=list(sizes.values())))
    assert vgg("test", weights, "--data", "photos", "--out", "tested", "--table", "table.csv")[0] == 0
    table = pa.csv.read_csv("table.csv").to_pylist()
    assert {Path(row["image"]).resolve(): row["predicted"] for row in table} == {
        Path(one.name).resolve(): one.classes[0] for one in found
    }


def test_weights_of_classes(vgg, tmp_path):
    """Symptom: the small class is never predicted, and nothing helps. Oracle: by hand, the mean of the losses times
    n / (K n_c) of the training images, and the plain mean beside it."""
    for split, counts in (("train", (12, 4)), ("val", (2, 6))):
        for label, (name, count) in enumerate(zip(("cat", "dog"), counts, strict=True)):
            for number in range(count):
                noise(tmp_path / "photos" / split / name / f"{number}.png", [label, number, len(split)])
    options = [*TINY, "--class-weights", "balanced", "--sampling", "balanced"]
    code, _, err = vgg("train", "--data", "photos", *options, "--out", "run")
    assert code == 0, err
    (row,) = map(json.loads, Path("run/history.jsonl").read_text(encoding="utf-8").splitlines())
    losses, weights = [], []
    for one in vggnet.predict("run", "photos/val"):
        name = Path(one.name).parent.name
        losses.append(-math.log(one.probabilities[one.classes.index(name)]))
        weights.append(16 / (2 * {"cat": 12, "dog": 4}[name]))
    assert row["val_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
    assert row["val_weighted_loss"] == pytest.approx(np.mean(np.multiply(losses, weights)), rel=1e-3)
