"""Files and folders that the user may not read, enter or write: one line, exit code 2, and no traceback.

A process without the rights of an administrator tries all of them.
"""

import ctypes
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SMALL = ["--preset", "photos", "--model", "vgg11_bn", "--width", "0.05", "--head", "gap"]
SMALL += ["--epochs", "1", "--batch-size", "8", "--workers", "0"]
TRAIN = ["train", "--data", "photos", "--out", "new", *SMALL, "--resize", "72", "--crop", "72"]
DECODED = ["train", "--data", "photos", "--out", "decoded", *SMALL, "--resize", "32", "--crop", "32"]
FEATURES = ["features", "photos", "--model", "run", "--layers", "pool5", "--out", "features.npy"]
INDEX = ["similar", "index", "photos", "--weights", "run", "--layers", "pool5", "--out"]
QUERY = ["similar", "query", "photos/cat/1.jpg", "--index", "index.safetensors"]
TEST = ["test", "run", "--data", "photos", "--out", "tested"]
EXPLAIN = ["explain", "run", "photos/cat/1.jpg", "--methods", "gradcam", "--out"]
UPDATE = ["similar", "update", "photos", "--index", "index.safetensors"]
STEPS = [  # what is made before: command and its options
    ["train", "--data", "photos", "--out", "run", *TRAIN[5:]],
    [*INDEX, "index.safetensors"],
]
# What is taken away, the mode that is left, and the command, whose line names what was taken away.
CASES = [
    *((folder, mode, command) for folder in ("photos", "photos/cat") for mode in (0o000, 0o444) for command in (
        TRAIN, FEATURES, ["data", "photos"], ["predict", "run", "photos"], UPDATE,
    )),
    *((folder, 0o111, command) for folder in ("photos", "photos/cat") for command in (
        TEST, ["data", "photos"], ["predict", "run", "photos"], [*INDEX, "other.safetensors"],
    )),
    *(("photos/cat/1.jpg", 0o000, command) for command in (
        TRAIN, FEATURES, ["predict", "run", "photos"], QUERY, [*EXPLAIN, "out.png"],
    )),
    *(("run/weights.safetensors", 0o000, command) for command in (
        TEST, FEATURES, ["predict", "run", "photos"], QUERY, [*EXPLAIN, "out.png"], ["show", "run"],
        ["weights", "verify", "run"], ["weights", "verify", "run/weights.safetensors"],
        ["weights", "convert", "run/weights.safetensors", "out.safetensors"], [*TRAIN, "--init-from", "run"],
    )),
    *(("run", mode, command) for mode in (0o000, 0o444) for command in (
        TEST, ["predict", "run", "photos"], ["show", "run"], ["weights", "verify", "run"], ["report", "run"],
        ["train", "--resume", "run"], [*TRAIN, "--init-from", "run/weights.safetensors"],
    )),
    *(("run/config.json", 0o000, command) for command in (TEST[:-2], ["report", "run"], ["train", "--resume", "run"])),
    ("run/trained_on.npz", 0o000, TEST),
    ("run/history.jsonl", 0o000, ["report", "run"]),
    ("run/state", 0o000, ["train", "--resume", "run", "--epochs", "3"]),
    ("run/state/checkpoints.json", 0o000, ["train", "--resume", "run", "--epochs", "4"]),
    ("run/state/epoch-0001-step-000000.safetensors", 0o000, ["train", "--resume", "run", "--epochs", "5"]),
    ("index.safetensors", 0o000, QUERY),
    ("index.safetensors", 0o000, UPDATE),
    *(("closed", mode, command) for mode in (0o000, 0o555) for command in (
        [*TRAIN[:4], "closed/run", *TRAIN[5:]], [*TEST[:-1], "closed/tested"], [*FEATURES[:-1], "closed/out.npy"],
        [*EXPLAIN, "closed/out.png"], [*INDEX, "closed/out.safetensors"], ["report", "run", "--out", "closed/out.html"],
        ["show", "run", "--html", "closed/out.html"], [*QUERY, "--out", "closed/out.png"],
    )),
    ("run", 0o555, ["test", "run", "--data", "photos"]),
    ("cache", 0o000, ["weights", "list"]),
    ("cache", 0o000, ["predict", "vgg16:features", "photos"]),
    ("cache", 0o555, ["weights", "fetch", "vgg16:features"]),
]  # fmt: skip
# Without a cache everything is done, and nothing is kept.
CACHELESS = [
    ("cache", 0o000, DECODED),
    ("cache", 0o555, DECODED),
    ("cache", 0o000, ["data", "photos"]),
    ("cache", 0o000, TEST),
    ("cache", 0o000, ["data", "photos", "--clear-cache"]),
    ("cache/decoded", 0o000, DECODED),
    ("cache/hashes", 0o000, ["data", "photos"]),
]

CHILD = """
import io, json, shutil, sys, traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from vggnet.cli.main import main

steps, cases = json.load(sys.stdin)

def answer(arguments):
    code, out, err = 0, io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
    return code, out.getvalue(), err.getvalue()

def without(path, mode, arguments):
    before = Path(path).stat().st_mode
    Path(path).chmod(mode)
    try:
        return answer(arguments)
    finally:
        Path(path).chmod(before)
        for made in ("new", "decoded", "features.npy.partial", "other.safetensors.partial"):
            shutil.rmtree(made, ignore_errors=True)

for step in steps:
    code, out, err = answer(step)
    assert code == 0, err
for folder in ("closed", "cache", "cache/decoded", "cache/hashes"):
    Path(folder).mkdir(exist_ok=True)
Path("closed").chmod(0)
with suppress(PermissionError):
    list(Path("closed").iterdir())
    sys.exit("this user may read everything")
Path("closed").chmod(0o755)
json.dump([without(*case) for case in cases], sys.stdout)
"""


def give_up_privileges():
    """Permissions bind the program that is started next, although the administrator starts it (Linux)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def answers(folder):
    """Exit code, stdout and stderr of each case."""
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng([number, len(label[0])]).integers(0, 256, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number}.jpg")
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([STEPS, CASES + CACHELESS]),
        cwd=folder,
        env={**os.environ, "VGGNET_CACHE": str(folder / "cache")},
        preexec_fn=give_up_privileges,
        capture_output=True,
        text=True,
    )
    if "may read everything" in child.stderr:
        pytest.skip("permissions do not bind this user")
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_what_may_not_be_used_is_one_line_and_a_cache_stops_nothing(tmp_path, subtests):
    """Oracle: the contract: exit code 2; the last line, the only one that complains, names what was taken away.

    Without a cache the exit code is 0. One process tries all cases, so this is one test.
    """
    found = answers(tmp_path)
    for (path, mode, command), (code, out, err) in zip(CASES, found[: len(CASES)], strict=True):
        with subtests.test(path=path, mode=oct(mode), command=command):
            *before, line = err.splitlines()
            assert code == 2, (out, err)
            assert line.startswith("vgg: ")
            assert f"{path}: " in line or f"{path}/" in line
            assert "ermission denied" in line or "Errno 13" in line
            assert line.endswith((".", "again."))
            assert all(text.startswith("preset ") for text in before)
            assert any(
                advice in line
                for advice in ("access", "readable", "permissions", "choose another", "make room", "VGGNET_CACHE")
            )
            assert "damaged" not in line
            assert "truncated" not in line
    for (path, mode, command), (code, out, err) in zip(CACHELESS, found[len(CASES) :], strict=True):
        with subtests.test(path=path, mode=oct(mode), command=command):
            assert code == 0, (out, err)
