"""The README is short, and its code runs in an empty folder, offline."""

import ast
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggnet.cli import main as cli
from vggnet.weights.registry import PUBLISHED

README = Path(__file__).parents[2] / "README.md"
TINY = {"override(epochs=10)": "override(epochs=1, width=0.125)"}


@pytest.fixture
def folder(tmp_path, monkeypatch, own_cache):
    """An empty working directory with `photo.jpg`."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    return work


def downloads(statement):
    """Whether a statement names weights that are downloaded."""
    return any(isinstance(node, ast.Constant) and node.value in PUBLISHED for node in ast.walk(statement))


def test_the_readme_has_at_most_120_lines():
    """Oracle: the project's limit for a first page."""
    assert README.read_text(encoding="utf-8").count("\n") <= 120


def test_the_python_blocks_run(folder, code_blocks, capsys):
    """Oracle: what the comments of the block say: an accuracy in 0..1, layers by their names."""
    names = {}
    for block in code_blocks(README, "python"):
        for found, tiny in TINY.items():
            assert found in block
            block = block.replace(found, tiny)
        tree = ast.parse(block)
        tree.body = [statement for statement in tree.body if not downloads(statement)]
        exec(compile(tree, str(README), "exec"), names)
    predicted, accuracy = capsys.readouterr().out.splitlines()
    assert predicted.startswith("photo.jpg ")
    assert 0 <= float(accuracy) <= 1
    assert list(names["features"].channels) == ["relu3_2", "relu4_2"]
    assert (folder / "runs" / "python" / "weights.safetensors").is_file()


def test_the_commands_run(folder, code_blocks, capsys):
    """Oracle: the exit code, and the files that the comments promise."""
    lines = [line for block in code_blocks(README, "sh") for line in block.splitlines()]
    commands = [words[1:] for words in (shlex.split(line, comments=True) for line in lines) if words[0] == "vgg"]
    assert [words[0] for words in commands] == ["predict", "train", "test", "explain", "features", "shrink", "serve"]
    short = {"train": ["--epochs", "1", "--width", "0.125"], "shrink": ["--epochs", "1"]}
    for words in commands[:-1]:  # a server answers until it is stopped; tests/serving has one
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *short.get(words[0], [])])
        assert not ended.value.code, (words, capsys.readouterr().err)
    assert np.load("features.npy").shape[0] == 1
    written = {path.name for path in (folder / "runs" / "digits").iterdir()}
    assert {"weights.safetensors", "results.png", "predictions.png", "confusion.png", "report.html"} <= written
