"""File and class names of any bytes and any Unicode form, through every command, on any encoding of the output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors import safe_open

from vggnet.cli.main import main
from vggnet.data.preprocess import Preprocess
from vggnet.files import escaped, write_text
from vggnet.models.vgg import build
from vggnet.weights.checkpoint import save

CLASSES = [b"caf\xe9", "cafe\u0301".encode(), "\u732b".encode(), b"$a_{ <b>&\n\"'", "\U0001f600 e".encode()]
FILES = [b"plain.png", b"\xff\xfe.png", "\u732b\u0301.png".encode(), b"new\nline $x$.png", b"-o.png", b"%s {} <i>.png"]
TINY = ["--model", "vgg11_bn", "--width", "0.05", "--epochs", "1", "--batch-size", "16", "--head", "gap"]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Class folders with six images each, as bytes of the file system."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "names"
    for split in (b"train", b"test"):
        for label, name in enumerate(CLASSES):
            folder = root / os.fsdecode(split) / os.fsdecode(name)
            folder.mkdir(parents=True)
            for number, file in enumerate(FILES):
                pixels = np.full((32, 32, 3), 40 * label + number, np.uint8)
                pixels[0, 0] = len(split)
                with (folder / os.fsdecode(file)).open("wb") as stream:
                    Image.fromarray(pixels).save(stream, "PNG")
    return root


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return out


def test_every_command_takes_every_name(names, tmp_path, capsys):
    """Oracle: the names that were written, as Python has them (PEP 383)."""
    classes = sorted(map(os.fsdecode, CLASSES))
    (split, _) = json.loads(run(capsys, "data", names, "--json"))["splits"]
    assert sorted(split["images_per_class"]) == classes
    run(capsys, "data", names)
    run(capsys, "train", "--data", names, *TINY, "--preset", "quick", "--workers", 0, "--out", "runs/a")
    tested = json.loads(run(capsys, "test", "runs/a", "--json"))
    assert tested["classes"] == classes
    assert json.loads(Path("runs/a/test.json").read_text(encoding="utf-8"))["classes"] == classes
    assert json.loads(Path("runs/a/config.json").read_text(encoding="utf-8"))["classes"] == classes
    run(capsys, "test", "runs/a")
    run(capsys, "report", "runs/a")
    html = Path("runs/a/report.html").read_text(encoding="utf-8")
    assert "\u732b" in html
    assert "caf\\udce9" in html
    folder = names / "test" / os.fsdecode(CLASSES[0])
    files = sorted(str(folder / os.fsdecode(file)) for file in FILES)
    predicted = json.loads(run(capsys, "predict", "runs/a", folder, "--json"))
    assert sorted(one["name"] for one in predicted) == files
    assert {name for one in predicted for name in one["classes"]} == set(classes)
    run(capsys, "predict", "runs/a", folder)
    run(capsys, "explain", "runs/a", folder / os.fsdecode(FILES[1]), "-o", "why.png")
    for suffix in (".npy", ".safetensors", ".parquet"):
        run(
            capsys,
            "features",
            folder,
            "--model",
            "runs/a",
            "--layers",
            "relu2_1",
            "--pooling",
            "mean",
            "-o",
            f"f{suffix}",
        )
    with safe_open("f.safetensors", framework="np") as file:
        assert sorted(json.loads(file.metadata()["images"])) == files
    assert sorted(json.loads(Path("f.npy.images.json").read_text(encoding="utf-8"))) == files
    assert sorted(pq.read_table("f.parquet")["image"].to_pylist()) == sorted(map(escaped, files))
    run(capsys, "similar", "index", folder, "--weights", "runs/a")
    found = json.loads(run(capsys, "similar", "query", folder, "--top", 1, "--json"))
    assert sorted(one["image"] for one in found) == files
    assert {one["matches"][0]["image"] for one in found} <= set(files)
    run(capsys, "similar", "query", folder)


@pytest.mark.parametrize(("encoding", "options"), [
    ("ascii", ["--json"]), ("ascii", []), ("gbk", []),
    *(pytest.param(*case, marks=pytest.mark.slow)
      for case in (("cp1252", ["--json"]), ("utf-8", ["--json"]), ("gbk", ["--json"]), ("cp1252", []), ("utf-8", []))),
])  # fmt: skip
def test_every_encoding_of_the_output(names, tmp_path, encoding, options):
    """Oracle: JSON reads back the names; the table is printed, escaped where the encoding lacks a character."""
    model = build("vgg11_bn", num_classes=5, head="gap", width=0.05)
    classes = sorted(map(os.fsdecode, CLASSES))
    save(model, tmp_path / "w.safetensors", classes=classes, preprocess=Preprocess(resize=32, crop=32))
    folder = names / "test" / os.fsdecode(CLASSES[2])
    done = subprocess.run(
        [sys.executable, "-m", "vggnet", "predict", tmp_path / "w.safetensors", folder, *options],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode(encoding)
    if options:
        assert {name for one in json.loads(out) for name in one["classes"]} == set(classes)
        expected = sorted(str(folder / os.fsdecode(file)) for file in FILES)
        assert sorted(one["name"] for one in json.loads(out)) == expected
    else:
        assert escaped("\u732b", encoding) in out
        assert "caf\\udce9" in out


def test_escapes_are_those_of_json(tmp_path):
    """Oracle: the JSON parser."""
    for text in ("caf\udce9", "\u732b", "\U0001f600\ud800", "plain"):
        for encoding in ("ascii", "latin-1", "utf-8", "gb18030"):
            assert json.loads(f'"{escaped(text, encoding)}"') == text
    write_text(tmp_path / "a.json", '"caf\udce9 \u732b"')
    assert (tmp_path / "a.json").read_bytes() == '"caf\\udce9 \u732b"'.encode()
