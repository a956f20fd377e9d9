"""A kill loses nothing and a resumed run is the uninterrupted one, with real processes."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from killable import Training
from PIL import Image
from safetensors.torch import load_file

SMALL = {"preset": "digits", "model": "vgg11_bn", "width": 0.05, "epochs": 2, "batch_size": 256}
EVERY_STEP = {"checkpoint_minutes": 0.0}
AVERAGED = {"ema": 0.9, "accumulate": 2, "jitter": 0.2, "cutout": 8, "optimizer": "muon"}
DROPOUT = {**AVERAGED, "head": "folded", "model": "vgg11_lrn", "optimizer": "sgd", "lr": 0.01}
WORKERS = {"augment": "torchvision", "workers": 2}
BFLOAT16 = {"precision": "bfloat16", "width": 0.25, "model": "vgg13_bn"}  # 16 to 128 channels: in part on the unit
BRANCHES = {"branches": "repvgg", "ema": 0.9, "optimizer": "muon"}  # the folded average is what is kept


def start(folder, fields, kill_at=0, pause_at=""):
    return Training(folder, SMALL | fields, kill_at, pause_at)


def result(folder):
    """Everything that must be equal: weights, the last checkpoint's tensors, history without its clock."""
    index = json.loads((folder / "state" / "checkpoints.json").read_text())
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return (
        load_file(folder / "weights.safetensors"),
        load_file(folder / "state" / index[0]["file"]),
        [{name: value for name, value in row.items() if name != "seconds"} for row in rows],
    )


def assert_equal(folder, reference):
    for found, expected in zip(result(folder)[:2], reference[:2], strict=True):
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name].numpy().tobytes() == expected[name].numpy().tobytes(), name
    assert result(folder)[2] == reference[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The same training without any kill, and how many file operations its saving takes."""
    results = {}

    def run(fields):
        key = json.dumps(fields)
        if key not in results:
            folder = tmp_path_factory.mktemp("reference") / "run"
            training = start(folder, fields)
            assert training.finish() == 0
            results[key] = result(folder), training.result["calls"]
        return results[key]

    return run


@pytest.mark.parametrize("before_end", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (6, 10, 15))])
def test_kill_at_the_end_of_the_last_epoch(tmp_path, uninterrupted, before_end):
    """Oracle: the uninterrupted run, stopped early. Killed while weights, checkpoint, index or history are written."""
    still = {
        "epochs": 5,
        "patience": 1,
        "optimizer": "sgd",
        "lr": 1e-6,
    }  # nothing improves: the second epoch is the last
    fields = AVERAGED | still
    reference, calls = uninterrupted(fields)
    assert len(reference[2]) == 2
    assert start(tmp_path / "run", fields, calls - before_end).finish() == -signal.SIGKILL
    training = start(tmp_path / "run", fields)
    assert training.finish() == 0
    assert training.result["finished"]
    assert_equal(tmp_path / "run", reference)


@pytest.mark.parametrize("part", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)])
def test_kill_inside_saving(tmp_path, uninterrupted, part):
    """Oracle: the uninterrupted run. Killed at consecutive file operations of saving, it always goes on."""
    reference, calls = uninterrupted(AVERAGED | EVERY_STEP)
    assert calls > 60
    kills = 0
    # Its first checkpoint; the end of its first epoch (file operations 54 to 72); somewhere between.
    for kill_at in ((3, 1, 2, 5), (58, 4, 6), (64, 7, 9))[part]:
        kills += start(tmp_path / "run", AVERAGED | EVERY_STEP, kill_at).finish() == -signal.SIGKILL
    assert kills == (4, 3, 3)[part]
    training = start(tmp_path / "run", AVERAGED | EVERY_STEP)
    assert training.finish() == 0
    assert training.result["finished"]
    assert_equal(tmp_path / "run", reference)


@pytest.mark.parametrize("fields", [
    pytest.param(DROPOUT, id="in-memory"), pytest.param(BFLOAT16, id="bfloat16"),
    pytest.param(BRANCHES, id="branches", marks=pytest.mark.slow),  # test_branches has a short one
    pytest.param(WORKERS | EVERY_STEP, id="two-workers", marks=pytest.mark.slow),  # a stream has two, below
])  # fmt: skip
def test_kill_at_any_step(tmp_path, uninterrupted, fields):
    """Oracle: the uninterrupted run. Killed by another process within an epoch, twice."""
    reference, _ = uninterrupted(fields)
    for step in ("0:2", "1:3"):
        training = start(tmp_path / "run", fields, pause_at=step)
        training.wait_for(step)
        training.signal(signal.SIGKILL)
        assert training.finish() == -signal.SIGKILL
    assert start(tmp_path / "run", fields).finish() == 0
    assert_equal(tmp_path / "run", reference)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four parquet files of 45 noisy images in row groups of ten; one image is broken."""
    folder, random = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    for number in range(4):
        images = [{"bytes": png(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))} for _ in range(45)]
        images[7]["bytes"] = images[7]["bytes"][: 100 if number == 2 else None]
        table = pyarrow.table({"image": images, "label": random.permutation(np.arange(45) % 3)})
        pyarrow.parquet.write_table(table, folder / f"train-{number:05}-of-00004.parquet", row_group_size=10)
    return folder


def png(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_kill_within_a_stream(tmp_path, uninterrupted, shards, workers):
    """Oracle: the uninterrupted run, with another number of workers. Killed within each epoch."""
    fields = {"data": f"stream:{shards}", "batch_size": 40, "val_fraction": 0.2, "on_bad_image": "skip", **EVERY_STEP}
    reference, _ = uninterrupted(fields | {"workers": 2 - workers})
    assert [row["skipped"] for row in reference[2]] == [1, 1]
    for step in ("0:2", "1:3"):
        training = start(tmp_path / "run", fields | {"workers": workers}, pause_at=step)
        training.wait_for(step)
        training.signal(signal.SIGKILL)
        assert training.finish() == -signal.SIGKILL
    assert start(tmp_path / "run", fields | {"workers": workers}).finish() == 0
    assert_equal(tmp_path / "run", reference)


@pytest.mark.parametrize("number", [
    pytest.param(signal.SIGINT, marks=pytest.mark.slow),  # below by the command
    pytest.param(signal.SIGHUP, marks=pytest.mark.slow),  # in test_field_reports by the command
    signal.SIGTERM,
])  # fmt: skip
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, uninterrupted, number):
    """Oracle: the uninterrupted run; Ctrl-C, a closed terminal or SIGTERM ends with a checkpoint at the
    step, so nothing is repeated."""
    reference, _ = uninterrupted(DROPOUT)
    training = start(tmp_path / "run", DROPOUT, pause_at="1:2")
    training.wait_for("1:2")
    training.signal(number)  # waits for the end of the pause
    assert training.finish() == 0
    assert not training.result["finished"]
    training = start(tmp_path / "run", DROPOUT)
    assert training.finish() == 0
    assert "1:2" not in training.steps
    assert_equal(tmp_path / "run", reference)


def test_the_command_stops_with_130_and_resumes(tmp_path):
    """Oracle: the documented exit codes and the line that names the next command."""
    vgg = Path(sys.executable).with_name("vgg")
    options = ["--data", "digits", "--width", "0.05", "--epochs", "3", "--out", str(tmp_path / "run")]
    process = subprocess.Popen([vgg, "train", *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 1/3"):
            process.send_signal(signal.SIGINT)
            break
    _, notes = process.communicate(timeout=300)
    assert process.returncode == 130
    assert f"vgg train --resume {tmp_path / 'run'}" in notes
    again = subprocess.run([vgg, "train", "--resume", tmp_path / "run"], capture_output=True, text=True, check=True)
    assert "epoch 3/3" in again.stderr
    assert "epoch 1/3" not in again.stderr
    assert (tmp_path / "run" / "results.png").stat().st_size > 10_000
