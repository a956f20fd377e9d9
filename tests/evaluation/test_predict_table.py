"""Tables of predictions: equal to `predict`, and the same after an interruption."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from PIL import Image

import vggnet
from vggnet.cli.main import main
from vggnet.data import blocks
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError
from vggnet.evaluation.predict_table import predict_table
from vggnet.models.vgg import build
from vggnet.weights.checkpoint import save

CLASSES = ["cat", "dog", "owl"]


def png(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FILES = [b"no image" if number == 5 else png(number) for number in range(11)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "weights.safetensors"
    torch.manual_seed(0)
    network = build("vgg11_bn", num_classes=3, head="gap", width=0.05)
    save(network, path, classes=CLASSES, preprocess=Preprocess(resize=40, crop=32))
    return path


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A parquet file of eleven images, the sixth of which is none; in blocks of four."""
    monkeypatch.setattr(blocks, "BLOCK", 4)
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"img": FILES, "label": [0] * len(FILES)}), path, row_group_size=3)
    return path


def test_rows_are_those_of_predict(model, images, tmp_path):
    """Oracle: `vggnet.predict` on the same batches, bit for bit."""
    table = predict_table(model, [images], tmp_path / "out.parquet", top=2, batch_size=4)
    assert (table.images, table.unreadable) == (11, 1)
    rows = pq.read_table(table.path).to_pylist()
    expected = vggnet.predict(model, FILES, top=2, batch_size=4)
    assert [(row["image"], row["row"]) for row in rows] == [(str(images), row) for row in range(11)]
    assert [tuple(row["classes"]) for row in rows] == [one.classes for one in expected]
    assert [tuple(row["probabilities"]) for row in rows] == [one.probabilities for one in expected]
    assert [row["error"] is None for row in rows] == [one.error is None for one in expected]
    assert "unknown format" in rows[5]["error"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.parquet", "out.parquet"]


def test_an_interrupted_run_goes_on(model, images, tmp_path):
    """Oracle: the table of a run that was not interrupted; what is computed again, by the reported counts."""
    whole = pq.read_table(predict_table(model, [images], tmp_path / "whole.parquet").path)
    out = tmp_path / "out.parquet"

    def stop(done, total):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            predict_table(model, [images], out, progress=stop)
        assert not out.exists()
    with pytest.raises(ConfigError, match=r"other predictions \(top changed\). Remove it"):
        predict_table(model, [images], out, top=1)
    with FileLock(tmp_path / "out.parquet.parts" / "lock"), pytest.raises(ConfigError, match="another process writes"):
        predict_table(model, [images], out)
    reported = []
    predict_table(model, [images], out, progress=lambda *counts: reported.append(counts))
    assert reported == [(11, 11)]
    assert pq.read_table(out).equals(whole)


def test_a_changed_file_is_not_mixed_with_old_rows(model, images, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_table(model, [images], tmp_path / "out.parquet", progress=stop)
    pq.write_table(pa.table({"img": FILES[::-1], "label": [0] * len(FILES)}), images)
    with pytest.raises(ConfigError, match=r"\(files changed\)"):
        predict_table(model, [images], tmp_path / "out.parquet")


def test_the_command(model, images, tmp_path, capsys, monkeypatch):
    """A folder without a model stands for images; an unreadable image gives exit code 2."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.png").write_bytes(png(1))
    for arguments, code, words in (
        ([model, images], 2, "11 images, 1 of them unreadable"),
        ([photos], 0, "1 images, 0 of them unreadable"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["predict", *map(str, arguments), "--out", str(tmp_path / "out.parquet")])
        assert ended.value.code == code
        assert words in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out.parquet").column("image").to_pylist() == [str(photos / "1.png")]
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    for arguments, words in (
        (["--out", "out.png"], "give a name that ends in .parquet"),
        (["--engine", "ray"], "name it, such as --out found.parquet"),
        (["--out", "o.parquet", "--json"], "leave out --json"),
        (["--out", str(tmp_path / "o.parquet"), "--engine", "ray"], "ray is not installed; pip install 'vggnet[ray]'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(model), str(images), *arguments])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
