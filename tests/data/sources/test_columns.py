"""Which columns of a table are taken for images and labels."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vggnet.cli.main import main
from vggnet.data.sources.columns import find_columns
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.parquet import open_parquet
from vggnet.data.sources.source import Columns
from vggnet.errors import DataError
from vggnet.training import run as run_module

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("schema", "given", "expected"),
    [
        ({"image": STRUCT, "label": pa.int64()}, Columns(), ("image", "label")),
        ({"image": pa.binary(), "label": pa.int64()}, Columns(), ("image", "label")),
        ({"picture": pa.large_binary(), "label": pa.int64()}, Columns(), ("picture", "label")),
        ({"mask": pa.binary(), "img": pa.binary(), "label": pa.int64()}, Columns(), ("img", "label")),
        ({"thumb": STRUCT, "image": STRUCT, "label": pa.int64()}, Columns(image="image"), ("image", "label")),
        ({"image": STRUCT, "target": pa.int64()}, Columns(label="target"), ("image", "target")),
        ({"image": STRUCT, "label": pa.int64(), "fine": pa.string()}, Columns(label="fine"), ("image", "fine")),
        ({"image": pa.binary(), "label": pa.binary()}, Columns(), ("image", "label")),
    ],
)
def test_columns(schema, given, expected):
    """Oracle: by hand."""
    assert find_columns(pa.schema(schema), "t", given) == expected


@pytest.mark.parametrize(
    ("schema", "given", "message"),
    [
        ({"a": pa.binary(), "b": pa.binary(), "label": pa.int8()}, Columns(), "one of a, b with --image-column"),
        ({"image": STRUCT, "target": pa.int64()}, Columns(), "Name another with --label-column"),
        ({"image": STRUCT, "label": pa.int64()}, Columns(label="kind"), r"no column 'kind' \(--label-column\)"),
        ({"image": STRUCT, "label": pa.int64()}, Columns(image="x"), r"no column 'x' \(--image-column\)"),
        ({"image": STRUCT, "label": pa.int64()}, Columns(image="label"), "'label' holds int64; expected encoded"),
        ({"image": STRUCT}, Columns(image="image", label="image"), "cannot be both"),
    ],
)
def test_columns_that_cannot_be(schema, given, message):
    """Oracle: the contract."""
    with pytest.raises(DataError, match=message):
        find_columns(pa.schema(schema), "t", given)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("prefix", ["", "stream:"])
def test_plain_bytes_are_images(tmp_path, monkeypatch, kind, prefix):
    """Oracle: the colors that were written."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    images = []
    for color in (10, 20, 30):
        stream = io.BytesIO()
        Image.new("RGB", (4, 4), (color, 0, 0)).save(stream, "PNG")
        images.append(stream.getvalue())
    columns = {"scan": pa.array(images, kind), "y": ["b", "a", "b"], "label": [0, 1, 0]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    source = open_source(f"{prefix}{tmp_path}", "train", columns=Columns(label="y"))
    assert (source.classes, source.labels.tolist()) == (("a", "b"), [1, 0, 1])
    assert [np.asarray(source.read(index))[0, 0, 0] for index in range(3)] == [10, 20, 30]


def test_a_test_may_lack_classes(tmp_path, monkeypatch):
    """Oracle: by hand; a set to train on may not."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    for split, labels in (("train", ["a", "b"]), ("test", ["b", "b"])):
        pq.write_table(pa.table({"image": [b"1", b"2"], "label": labels}), tmp_path / f"{split}.parquet")
    assert open_parquet(tmp_path, "test").classes == ("b",)
    pq.write_table(pa.table({"image": [b"1", b"2"], "label": ["b", "b"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="1 class"):
        open_parquet(tmp_path, "train")


def test_the_columns_of_a_run_are_those_of_its_test_and_its_report(tmp_path, monkeypatch, capsys):
    """Oracle: the classes of the column that was asked for; the one called label has others."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for number, split in enumerate(("train", "test")):
        images = []
        for color in range(12):
            stream = io.BytesIO()
            Image.new("RGB", (32, 32), (color, 0, number)).save(stream, "PNG")
            images.append(stream.getvalue())
        labels = {"label": [0, 1, 2] * 4, "target": ["ant", "bee"] * 6, "other": [b"none"] * 12}
        pq.write_table(pa.table({"photo": images, **labels}), tmp_path / f"{split}.parquet")
    columns = ["--label-column", "target", "--image-column", "photo"]
    tiny = ["--model", "vgg11_bn", "--width", "0.05", "--epochs", "1", "--batch-size", "12", "--head", "gap"]
    commands = [
        (0, ["data", ".", *columns, "--json"]),
        (0, ["train", "--data", ".", *columns, *tiny, "--preset", "quick", "--workers", "0", "--out", "runs/a"]),
        (0, ["test", "runs/a", "--json"]),
        (0, ["test", "runs/a", "--data", ".", *columns, "--json"]),
        (2, ["test", "runs/a", "--data", ".", "--json"]),
        (2, ["data", "digits", "--label-column", "target"]),
    ]
    for code, arguments in commands:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        if arguments[0] == "test" and code == 0:
            assert json.loads(out)["classes"] == ["ant", "bee"]
            assert "No pictures" not in (tmp_path / "runs" / "a" / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "runs" / "a" / "config.json").read_text())["classes"] == ["ant", "bee"]
    assert run_module.Run.open("runs/a").config.data.label_column == "target"
