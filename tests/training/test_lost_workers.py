"""Trainings by the command whose loader processes are killed, or have little or no shared memory."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

VGG = Path(sys.executable).with_name("vgg")
TINY = ["--preset", "photos", "--model", "vgg11_bn", "--width", "0.05", "--head", "gap", "--workers", "2"]
EPOCH = re.compile(r"^epoch (\d+)/", re.MULTILINE)


@pytest.fixture
def photos(tmp_path):
    """Sixteen photos of each of two classes."""
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(16):
            pixels = np.random.default_rng([number, len(label)]).integers(0, 256, (90, 100, 3), dtype=np.uint8)
            pixels[..., label == "cat"] //= 2
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.jpg")
    return tmp_path / "photos"


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "VGGNET_CACHE": str(tmp_path / "cache")}


def start(*arguments, environment):
    """The command, and the numbers of the first epoch that it tells."""
    process = subprocess.Popen(
        [VGG, "train", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    for line in process.stderr:
        if told := EPOCH.match(line):
            return process, int(told[1])
    raise AssertionError("it told no epoch")


def children(process):
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(number) for task in tasks for number in (task / "children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is of Linux")
def test_a_killed_worker_ends_the_training_which_can_be_resumed(photos, tmp_path, environment):
    """Oracle: the system has none of its children any more; the resumed run goes on behind the history."""
    run = tmp_path / "run"
    options = ["--epochs", 1000, "--batch-size", 8, "--resize", "80", "--crop", "72"]
    process, _ = start("--data", photos, "--out", run, *TINY, *options, environment=environment)
    workers = children(process)
    assert len(workers) >= 2  # those for training, and those for validation
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    line = err.splitlines()[-1]
    assert process.returncode == 2
    assert out == ""
    assert "Traceback" not in err
    assert line.startswith("vgg: a loader process has ended ")
    assert "--resume" in line
    assert "--workers" in line
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    saved = len((run / "history.jsonl").read_text().splitlines())
    assert saved >= 1

    resumed, first = start("--resume", run, environment=environment)
    workers = children(resumed)
    resumed.send_signal(signal.SIGTERM)
    _, err = resumed.communicate(timeout=120)
    assert first == saved + 1
    assert resumed.returncode == 130
    assert "stopped and saved" in err
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def in_shared_memory_of(size, *arguments, environment):
    """The command where /dev/shm has so many bytes; skips the test where that cannot be made."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    enter = ["unshare", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*enter, mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    command = [*enter, f'{mount} && exec "$0" "$@"', VGG, "train", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.slow  # test_field_reports has 1 MB
def test_a_small_shared_memory_is_enough(photos, tmp_path, environment):
    """Oracle: by hand: one batch of 16 images takes 2.4 MB, and 2 MB are there; the epoch is done all the same."""
    options = ["--epochs", 1, "--batch-size", 16, "--resize", 232, "--crop", 224]
    found = in_shared_memory_of(
        "2m", "--data", photos, "--out", tmp_path / "run", *TINY, *options, environment=environment
    )
    assert (found.returncode, "Traceback" in found.stderr) == (0, False), found.stderr
    assert len(EPOCH.findall(found.stderr)) == 1
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 1


def test_no_shared_memory_is_one_line(photos, tmp_path, environment):
    """Oracle: the contract: one line that names the option, exit code 2, and no run folder."""
    options = ["--epochs", 1, "--batch-size", 16, "--resize", 80, "--crop", 72]
    found = in_shared_memory_of(
        "4k", "--data", photos, "--out", tmp_path / "run", *TINY, *options, environment=environment
    )
    assert (found.returncode, found.stdout) == (2, "")
    overview, line = found.stderr.splitlines()
    assert overview.startswith("preset ")
    assert line.startswith("vgg: loader processes cannot be started (")
    assert "--workers 0" in line
    assert not (tmp_path / "run").exists()
