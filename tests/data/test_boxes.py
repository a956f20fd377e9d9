"""Boxes: read from parquet and VOC files, checked against their images, followed through the preprocessing."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vggnet.data.boxes import Boxes, read_boxes, read_voc, resize_factors, to_crop
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.errors import DataError

TINY = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet-boxes"


def png(width, height, tmp_path):
    file = tmp_path / "one.png"
    Image.new("RGB", (width, height)).save(file)
    return file.read_bytes()


def value(dtype):
    return {"dtype": dtype, "_type": "Value"}


def listed(feature):
    return {"_type": "Sequence", "feature": feature}


LIST = listed(value("float64"))
NAMES = ("xmin", "ymin", "xmax", "ymax")
STRUCT = {name: value("int64") for name in NAMES}


def parquet(folder, tmp_path, boxes, sizes, kind=LIST):
    """A data set of two classes whose images have these boxes; kind: what the column holds."""
    rows = {
        "image": [{"bytes": png(*size, tmp_path), "path": None} for size in sizes],
        "label": [index % 2 for index in range(len(sizes))],
        "box": boxes,
    }
    if boxes is None:
        del rows["box"]
    folder.mkdir()
    table = pyarrow.table(rows)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    if boxes is not None:
        features["box"] = kind
    described = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(described, folder / "train-00000-of-00001.parquet")
    return open_source(folder, "train")


def voc(*objects):
    """XML of objects (name, xmin, ymin, xmax, ymax)."""
    boxes = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for name, a, b, c, d in objects
    )
    return f"<annotation><size><width>40</width></size>{boxes}</annotation>"


@pytest.fixture
def photos(tmp_path):
    """Two photos of 40 x 30 pixels, each with its VOC file."""
    for name, box in (("cat", (1, 1, 40, 30)), ("dog", (5, 7, 20, 21))):
        file = tmp_path / "photos" / "train" / name / "1.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(file)
        file.with_suffix(".xml").write_text(voc((name, *box)))
    return tmp_path / "photos"


def test_a_parquet_column_counts_from_0_and_includes_the_last(tmp_path):
    """Oracle: by hand. The box of one pixel has an area."""
    source = parquet(tmp_path / "data", tmp_path, [[0.0, 0, 39, 29], [3, 4, 3, 4]], [(40, 30), (20, 10)])
    boxes = read_boxes(source)
    assert boxes.edges.tolist() == [[0, 0, 40, 30], [3, 4, 4, 5]]
    assert boxes.sizes.tolist() == [[40, 30], [20, 10]]


def test_a_parquet_column_of_structs(tmp_path):
    """Oracle: by hand. The names count, not their order."""
    boxes = [{"ymax": 29, "xmax": 39, "ymin": 0, "xmin": 0}, {"ymax": 7, "xmax": 6, "ymin": 4, "xmin": 3}]
    kind = {name: value("int64") for name in ("ymax", "xmax", "ymin", "xmin")}
    source = parquet(tmp_path / "data", tmp_path, boxes, [(40, 30), (20, 10)], kind)
    assert read_boxes(source).edges.tolist() == [[0, 0, 40, 30], [3, 4, 7, 8]]


@pytest.mark.parametrize(
    ("kind", "good", "bad", "found"),
    [
        (STRUCT, dict.fromkeys(NAMES, 5), {**dict.fromkeys(NAMES, 5), "ymax": None}, "'ymax': None"),
        (STRUCT, dict.fromkeys(NAMES, 5), None, "None"),
        (listed(LIST), None, [[0.0, 0.0, 9.0, 9.0]], r"\[\[0\.0, 0\.0, 9\.0, 9\.0\]\]"),
        (listed(LIST), None, [[0.0, 0.0], [9.0, 9.0], [1.0], [2.0]], r"\[\[0\.0, 0\.0\]"),
        ({name: value("int64") for name in "xywh"}, None, dict.fromkeys("xywh", 5), "'h': 5"),
        (value("string"), None, "a\nbc", r"'a\\nbc'"),
        (value("int64"), None, 7, "7"),
        (listed(value("bool")), None, [False, False, True, True], "False, False"),
    ],
)
def test_columns_that_are_not_four_numbers(tmp_path, kind, good, bad, found):
    """Oracle: by hand: one line that names the first such row, what is in it, and what is expected."""
    boxes = [good or bad, bad]
    source = parquet(tmp_path / "data", tmp_path, boxes, [(40, 30)] * 2, kind)
    row = 1 if good else 0
    with pytest.raises(DataError, match=rf"row {row}: the box is .*{found}.*; expected four numbers, xmin") as raised:
        read_boxes(source)
    assert "\n" not in str(raised.value)


def test_voc_files_count_from_1_and_include_the_last(photos):
    """Oracle: by hand. They are no strange files among the images."""
    source = open_source(photos, "train")
    assert read_boxes(source).edges.tolist() == [[0, 0, 40, 30], [4, 6, 20, 21]]
    assert source.ignored() == []


def test_the_real_boxes():
    """Oracle: the facts told of the data set: 6,000 boxes, 64 pixels, about one in twenty spans the whole image."""
    if not TINY.is_dir():
        pytest.skip("needs ../shared/data/tiny-imagenet-boxes")
    boxes = read_boxes(open_source(TINY, "validation"))
    assert boxes.edges.shape == (1000, 4)
    assert np.all(boxes.sizes == 64)
    whole = np.all(boxes.edges == (0, 0, 64, 64), axis=1).mean()
    assert 0.03 < whole < 0.08


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([("dog", 1, 1, 9, 9), ("cat", 2, 3, 4, 5)], (1, 2, 4, 5)),
        ([("cat", 2, 3, 4, 5), ("cat", 2, 3, 6, 5), ("dog", 1, 1, 40, 30)], (1, 2, 6, 5)),
        ([("dog", 2, 3, 4, 5), ("elk", 2, 3, 4, 6)], (1, 2, 4, 6)),
        ([("cat", 0, 0, 4.5, 5)], (0, 0, 4.5, 5)),
    ],
)
def test_the_largest_object_of_the_class(tmp_path, objects, expected):
    """Oracle: by hand."""
    file = tmp_path / "1.xml"
    file.write_text(voc(*objects))
    assert read_voc(file, "cat") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (voc(), "no object, so its image has no box"),
        ("<annotation><object>", "cannot be read"),
        ("<annotation><object><name>cat</name></object></annotation>", "cannot be read"),
        (voc(("cat", 1, 2, "x", 4)), "cannot be read"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "EntitiesForbidden"),
        (" " * (1 << 20) + voc(("cat", 1, 2, 3, 4)), "more than 1,048,576 bytes"),
        (None, "does not exist, so its image has no box"),
    ],
)
def test_voc_files_that_cannot_be_used(photos, text, message):
    """Oracle: the name of the file."""
    file = photos / "train" / "dog" / "1.xml"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(DataError, match=rf"dog/1\.xml: .*{message}"):
        read_boxes(open_source(photos, "train"))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0.0, 0, 9, 9], [0, 0, 40, 9]], r"row 1: .*\(0, 0, 41, 10\) reaches outside .*within 40 x 30"),
        ([[-1.0, 0, 9, 9], [-2, 0, 9, 9]], r"row 0: .*reaches outside.*So do 1 more"),
        ([[0.0, 0, 9, 9], [5, 0, 4, 9]], r"row 1: .*has no area"),
        ([[0.0, 0, 9, 9], [5, float("nan"), 7, 9]], r"row 1: .*has no area"),
        ([[0.0, 0, 9, 9], None], r"row 1: the box is None; expected four numbers"),
        ([[0.0, 0, 9, 9], [1.0, 2, 3]], r"row 1: the box is \[1.0, 2.0, 3.0\]; expected four numbers"),
        (None, "no boxes; expected a parquet column box"),
    ],
)
def test_boxes_that_cannot_be(tmp_path, boxes, message):
    """Oracle: the name of the first image, and what is wrong with its box."""
    source = parquet(tmp_path / "data", tmp_path, boxes, [(40, 30), (40, 30)])
    with pytest.raises(DataError, match=message):
        read_boxes(source)


def test_a_folder_without_boxes(photos):
    """Oracle: the contract."""
    for file in photos.rglob("*.xml"):
        file.unlink()
    with pytest.raises(DataError, match="no boxes; expected"):
        read_boxes(open_source(photos, "train"))


@given(st.integers(20, 90), st.integers(20, 90), st.integers(16, 48), st.integers(0, 20))
@settings(max_examples=50)
@example(75, 85, 17, 10)  # (30 - 17) / 2 is rounded to 6; 85 * (30 / 85) is a little more than 30
def test_a_box_moves_with_its_pixels(width, height, crop, more):
    """Oracle: the preprocessing itself, on an image that is white in its box: it stays so where the box has gone."""
    preprocess = Preprocess(resize=crop + more, crop=crop, mean=(0.5,), std=(0.5,))
    box = np.array([width // 4, height // 3, width // 4 + width // 2, height // 3 + height // 2])
    pixels = np.zeros((height, width), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    seen = preprocess.pixels(Image.fromarray(pixels))[0].numpy()
    sizes = np.array([[width, height]], float)
    left, top, right, bottom = to_crop(Boxes(box[None].astype(float), sizes), preprocess)[0]
    rows, columns = np.arange(crop) + 0.5, np.arange(crop) + 0.5
    # A pixel of the result is made of those around it, as far as the scale reaches.
    blur = 1 + 1.5 * resize_factors(sizes, preprocess.resize).max()
    inner = (rows > top + blur) & (rows < bottom - blur), (columns > left + blur) & (columns < right - blur)
    outer = (rows < top - blur) | (rows > bottom + blur), (columns < left - blur) | (columns > right + blur)
    assert (seen[np.ix_(*inner)] == 255).all()
    assert (seen[outer[0]] == 0).all()
    assert (seen[:, outer[1]] == 0).all()


def test_factors_are_those_of_torchvision():
    """Oracle: the size of the image that comes out."""
    for size in ((500, 333), (333, 500), (64, 64), (101, 100), (37, 301)):
        whole = Preprocess(resize=230).whole(Image.new("RGB", size))
        factors = resize_factors(np.array([size], float), 230)[0]
        assert np.allclose(np.array(size) * factors, [whole.shape[2], whole.shape[1]])


def test_checking_shows_nothing_unless_asked(tmp_path, capfd, monkeypatch):
    """Oracle: the contract: nothing is shown with False, also on a terminal, and a callable hears of every image."""
    boxes = [[0.0, 0, 9, 9], [1.0, 1, 8, 8]]
    sources = [parquet(tmp_path / name, tmp_path, boxes, [(40, 30), (40, 30)]) for name in "ab"]
    capfd.readouterr()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    heard = []
    read_boxes(sources[0])
    read_boxes(sources[1], progress=lambda done, total: heard.append((done, total)))
    assert capfd.readouterr() == ("", "")
    assert heard == [(1, 2), (2, 2)]
