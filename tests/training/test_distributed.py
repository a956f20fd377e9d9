"""Processes that train one network together, started by torchrun: as one process does, to the end or not at all."""

import json
import os
import re
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from trainings import train

from vggnet.accel.autotuning import autotuner
from vggnet.cli.main import main
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, ImageError
from vggnet.models.vgg import build
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.distributed import Ranks, join
from vggnet.training.learner import build_model, make_learner
from vggnet.training.loop import Position
from vggnet.training.presets import preset
from vggnet.weights.checkpoint import save

DIGITS = preset("digits")

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
VGG = Path(sys.executable).with_name("vgg")
SCRIPT = Path(__file__).with_name("ranked.py")
PROCESSES = 3

SUMMED = {
    "data": "digits", "preset": "digits", "model": "vgg11", "width": 0.05, "batch_size": 250, "lr": 0.02, "epochs": 2,
    "jitter": 0.2, "accumulate": 2, "ema": 0.5, "precision": "float32",  # as other sums round otherwise in bfloat16
}  # fmt: skip
FROZEN = SUMMED | {"freeze": 2, "schedule": "plateau", "plateau_epochs": 1}
BOXES = {
    "preset": "fast", "task": "localize", "model": "vgg11", "width": 0.1, "head": "gap", "epochs": 2, "batch_size": 16,
    "val_fraction": 0.01, "optimizer": "sgd", "lr": 0.01, "init": "he", "precision": "float32",
}  # fmt: skip
EXACT = {
    "preset": "digits", "model": "vgg11_bn", "width": 0.25, "head": "folded", "optimizer": "muon", "batch_size": 10,
    "epochs": 2, "ema": 0.9, "checkpoint_minutes": 0.0, "augment": "torchvision", "workers": 1,
}  # fmt: skip
# Without batch norm, whose statistics are of the images of a process, and without dropout.
MASKS = {
    "preset": "segment", "model": "vgg11", "head": "fcn8", "width": 0.05, "dropout": 0.0, "freeze": 0, "resize": 40,
    "crop": 32, "max_resize": 48, "epochs": 2, "batch_size": 5, "workers": 0, "precision": "float32",
}  # fmt: skip
OBJECTS = {
    "preset": "detect", "model": "vgg11", "width": 0.05, "freeze": 0, "epochs": 2, "batch_size": 3, "workers": 0,
    "precision": "float32", "val_fraction": 0.3,
}  # fmt: skip
SECOND = {"rank": 1, "step": "1:2"}  # the process that a signal befalls, and when
PHOTOS = {
    "preset": "photos", "model": "vgg11_bn", "width": 0.05, "resize": 80, "crop": 72, "epochs": 1, "batch_size": 4,
    "workers": 1,
}  # fmt: skip


def start(processes, *command, **environment):
    return subprocess.Popen(
        [*LAUNCHER, f"--nproc_per_node={processes}", *map(str, command)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def hear(process):
    """What a launcher and its processes say until their end; they are ended if they wait for each other for ever."""
    try:
        return process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise


def finish(folder, jobs, processes=PROCESSES):
    """How each job ended, by name and rank, and what else was said; the jobs follow each other in each process."""
    file = folder / "jobs.json"
    file.write_text(json.dumps([{"out": folder / name, **job} for name, job in jobs.items()], default=str))
    process = start(processes, SCRIPT, file, VGGNET_CACHE=str(folder / "cache"), VGGNET_CONV="winograd4")
    said, notes = hear(process)
    ends = [json.loads(line) for line in said.splitlines()]
    by_rank = [[end for by, end in ends if by == rank] for rank in range(processes)]
    return dict(zip(jobs, zip(*by_rank, strict=False), strict=False)), notes


def rows(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def newest(folder):
    return json.loads((folder / "state" / "checkpoints.json").read_text())[0]["file"]


def tensors(folder):
    files = folder / "weights.safetensors", folder / "state" / newest(folder)
    return [{name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()} for file in files]


def write_boxes(folder):
    """Thirty noisy images of 32 pixels with boxes: 28 to train on and one of each class to validate on."""
    random = np.random.default_rng(0)
    for number in range(30):
        file = folder / "train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
        left, top = random.integers(1, 12, 2)
        bounds = {"xmin": left, "ymin": top, "xmax": left + 12, "ymax": top + 15}
        box = "".join(f"<{name}>{value}</{name}>" for name, value in bounds.items())
        file.with_suffix(".xml").write_text(f"<annotation><object><bndbox>{box}</bndbox></object></annotation>")


def write_tables(folder):
    """Parquet files of ten noisy images with masks and of seven with objects, most of which are noise as well."""
    random = np.random.default_rng(0)

    def png(*shape, classes=256):
        file = BytesIO()
        Image.fromarray(random.integers(0, classes, shape, dtype=np.uint8)).save(file, "PNG")
        return file.getvalue()

    tables = {
        "masks": {"image": [png(40, 52, 3) for _ in range(10)], "mask": [png(40, 52, classes=3) for _ in range(10)]}
    }
    objects = [
        {"bbox": [[float(edge) for edge in random.integers(1, 20, 4)] for _ in range(1 + number % 3)],
         "category": ["a", "b", "a"][: 1 + number % 3]}
        for number in range(7)
    ]  # fmt: skip
    tables["objects"] = {"image": [png(40, 52, 3) for _ in range(7)], "objects": objects}
    for name, columns in tables.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / name / "train.parquet")


def write_photos(folder):
    """Twelve photos, of which the file of one has lost its end."""
    random = np.random.default_rng(0)
    for number in range(12):
        file = folder / "train" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (90, 110, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:-4000])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    write_boxes(folder / "data" / "boxes")
    write_photos(folder / "data" / "photos")
    save(
        build("vgg11", num_classes=10, head="cifar", width=0.05),
        folder / "given.safetensors",
        preprocess=Preprocess.cifar10(),
    )
    return folder


@pytest.fixture(scope="module")
def done(folder):
    """Every job of this file but two, in one launch, as most of its time goes into imports."""
    boxes, photos = {"data": folder / "data" / "boxes"}, {"data": folder / "data" / "photos"}
    jobs = {
        "summed": SUMMED,
        "frozen": FROZEN | {"init_from": folder / "given.safetensors"},
        "lopsided": SUMMED | {"lopsided": True},
        "localized": BOXES | boxes,
        "poisoned": SUMMED | {"fault": {"rank": 1, "step": "0:3"}},
        "unread": PHOTOS | photos,
        "skipping": PHOTOS | photos | {"on_bad_image": "skip"},
        "refused": EXACT | boxes | {"batch_size": 2},
        "whole": EXACT | boxes,
        "stopped": EXACT | boxes | {"fault": SECOND | {"signal": "SIGTERM"}},
        "resumed": {"out": folder / "stopped"},
    }
    ends, notes = finish(folder, jobs)
    assert set(ends) == {*jobs}, notes
    return ends


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("size", range(1, 6))
def test_shares_are_a_partition(size):
    """Oracle: the whole, from end to end."""
    for count in range(8):
        shares = [Ranks(rank, size).share(torch.arange(count)).tolist() for rank in range(size)]
        assert [index for share in shares for index in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("name", "job"), [("summed", SUMMED), ("frozen", FROZEN), ("lopsided", SUMMED), ("localized", BOXES)]
)
def test_processes_train_as_one(done, folder, tmp_path, name, job):
    """Oracle: one process. No number here is a multiple of three; boxes are validated on two images; lopsided
    shares are all and nothing."""
    assert done[name] == ("finished",) * PROCESSES
    given = {"init_from": folder / "given.safetensors"} if name == "frozen" else {}
    one = train(**{"data": folder / "data" / "boxes"} | job, **given, out=tmp_path / "run")
    assert rows(folder / name) == [pytest.approx(row, rel=1e-5) for row in rows(one.folder)]
    assert len(list((folder / name / "tensorboard").iterdir())) == 1  # the first process logs


@pytest.mark.slow
def test_two_processes_train_masks_and_objects_as_one(tmp_path):
    """Oracle: one process, on batches that cannot be halved; metrics are of all images."""
    write_tables(tmp_path / "data")
    jobs = {
        "masks": MASKS | {"data": tmp_path / "data/masks"},
        "objects": OBJECTS | {"data": tmp_path / "data/objects"},
    }
    ends, notes = finish(tmp_path, jobs, processes=2)
    assert ends == dict.fromkeys(jobs, ("finished", "finished")), notes
    for name, job in jobs.items():
        one = train(**job, out=tmp_path / "one" / name)
        assert rows(tmp_path / name) == [pytest.approx(row, rel=1e-4, abs=1e-6) for row in rows(one.folder)]


def test_a_loss_that_is_not_finite_in_one_process_ends_all(done, folder):
    """Oracle: the step that was poisoned; nothing is left of the run."""
    for end in done["poisoned"]:
        assert end.startswith("NonFiniteError: the loss became nan at step 3 of epoch 1")
    assert not (folder / "poisoned").exists()


def test_an_image_that_one_process_cannot_read_ends_all(done, folder, tmp_path):
    """Oracle: the error of a training in one process; nothing is left of the run."""
    with pytest.raises(ImageError) as expected:
        train(folder / "data" / "photos", out=tmp_path / "run", **PHOTOS)
    assert done["unread"] == (f"ImageError: {expected.value}",) * PROCESSES
    assert not (folder / "unread").exists()


def test_an_image_that_one_process_cannot_read_is_skipped_by_all(done, folder, tmp_path):
    """Oracle: what a training in one process says of it."""
    assert done["skipping"] == ("finished",) * PROCESSES
    alone = train(folder / "data" / "photos", out=tmp_path / "run", **PHOTOS | {"on_bad_image": "skip"})
    assert (folder / "skipping" / "skipped.json").read_text() == (alone.folder / "skipped.json").read_text()
    assert [row["skipped"] for row in rows(folder / "skipping")] == [1]


def test_batches_that_are_too_small_are_refused(done, folder):
    """Oracle: two images for three processes, found before there is a folder."""
    for end in done["refused"]:
        assert re.match(
            r"ConfigError: 3 processes share each batch, but with batch_size 2 the smallest one has [12] ", end
        )
    assert not (folder / "refused").exists()


def test_a_stopped_training_goes_on_exactly(done, folder):
    """Oracle: as many processes without interruption, bit for bit; one alone was told to stop, and its loader."""
    assert done["stopped"] == ("stopped",) * PROCESSES
    assert done["resumed"] == done["whole"] == ("finished",) * PROCESSES
    assert tensors(folder / "stopped") == tensors(folder / "whole")
    assert rows(folder / "stopped") == rows(folder / "whole")


@pytest.mark.slow  # a stopped one goes on, above; a kill of one process is in test_resume
def test_a_killed_training_goes_on_exactly(done, folder):
    """Oracle: as many processes without interruption, bit for bit; one of them was killed before the step was saved."""
    fatal = EXACT | {"data": folder / "data" / "boxes", "fault": SECOND | {"signal": "SIGKILL"}}
    ends, notes = finish(folder, {"killed": fatal})
    assert not ends, notes
    assert newest(folder / "killed") == "epoch-0001-step-000001.safetensors"
    ends, notes = finish(folder, {"killed": {}})
    assert ends == {"killed": ("finished",) * PROCESSES}, notes
    assert tensors(folder / "killed") == tensors(folder / "whole")
    assert rows(folder / "killed") == rows(folder / "whole")


@pytest.mark.slow
def test_the_command_stops_as_one(tmp_path):
    """Oracle: what the command says in one process, said once; the checkpoint that it goes on from."""
    options = ["--data", "digits", "--width", "0.05", "--epochs", "3", "--out", tmp_path / "run"]
    process = start(2, "--no-python", VGG, "train", *options)
    heard = []
    for line in process.stderr:
        heard.append(line)
        if line.startswith("epoch 1/3"):
            process.send_signal(signal.SIGINT)
            break
    _, rest = hear(process)
    notes = "".join(heard) + rest
    assert notes.count(f"go on with: vgg train --resume {tmp_path / 'run'}\n") == 1, notes
    assert notes.count("epoch 1/3 |") == 1
    assert (tmp_path / "run" / "state" / "checkpoints.json").is_file()
    assert "epoch 3/3" not in notes


def test_each_process_goes_on_with_its_convolutions(tmp_path, own_cache):
    """Oracle: what each process had used, typed by hand; the second resumes."""

    class Second(Ranks):
        """Of two processes, of which the first does nothing here but write."""

        def texts(self, text):
            return [json.dumps({"key": {"algorithm": name, "ms": {}}}) for name in ("dense", "winograd4")]

        def first(self, work, *arguments):
            return work(*arguments)

        in_turn = first

    learner = make_learner(DIGITS, build_model(DIGITS, 10))
    object.__setattr__(learner, "ranks", Second(1, 2))
    Checkpoints(tmp_path).save(learner, Position(step=1))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore(learner)
    with autotuner().fixed(checkpoints.choices):
        assert autotuner().chosen()["key"]["algorithm"] == "winograd4"


def test_a_process_without_the_others_is_told(monkeypatch):
    """Oracle: torchrun's variables, of which one is missing."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="MASTER_ADDR.*torchrun"):
        join()


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_mistakes_are_told_once(monkeypatch, capsys, rank, lines):
    """Oracle: the exit code of a mistake, and the line of the first process alone."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    for arguments, word in ((["test", "runs/mine"], "Leave torchrun out"), (["train", "--widht", "2"], "widht")):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert capsys.readouterr().err.count(word) == lines
