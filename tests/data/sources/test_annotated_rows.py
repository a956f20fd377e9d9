"""Parquet files with masks and objects: the same as the folders that they were made of."""

import json
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import vggnet
from vggnet.data.masks import IGNORED
from vggnet.data.sources.opening import open_source
from vggnet.errors import DataError, ImageError
from vggnet.tasks import suggest_task

SIZE = (40, 32)
BOXES = [[[2.0, 3.0, 10.0, 12.0]], [[0.0, 0.0, 40.0, 32.0], [5.0, 6.0, 7.0, 8.0]], []]  # left, top, width, height
NAMES = [["cell"], ["plate", "cell"], []]


def png(array):
    file = BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def images(count=3):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*SIZE[::-1], 3), np.uint8) for _ in range(count)]


def masks(count=3):
    random = np.random.default_rng(1)
    found = [random.integers(0, 4, SIZE[::-1]).astype(np.uint8) for _ in range(count)]
    found[0][:4] = 11
    return found


def write(folder, columns, split="train"):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("column", ["mask", "annotation", "label"])
def test_masks_of_a_column(column, tmp_path):
    """Oracle: the arrays that were written; plain bytes, or Hugging Face's struct."""
    encoded = [png(mask) for mask in masks()]
    values = [{"bytes": one, "path": None} for one in encoded] if column == "label" else encoded
    folder = write(tmp_path / "data", {"image": [png(one) for one in images()], column: values})
    source = open_source(folder, "train", columns=vggnet.data.sources.source.Columns(ignore_index=11))
    assert (source.annotation, suggest_task(source)) == ("mask", "segment")
    assert source.classes == ("class 0", "class 1", "class 2", "class 3")
    for index, (image, mask) in enumerate(zip(images(), masks(), strict=True)):
        np.testing.assert_array_equal(np.array(source.read(index)), image)
        np.testing.assert_array_equal(np.array(source.mask(index)), np.where(mask == 11, IGNORED, mask))
    other = open_source(folder, "train")
    assert len(other.classes) == 12
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in other.classes))
    named = open_source(folder, "train", columns=vggnet.data.sources.source.Columns(ignore_index=11))
    assert named.classes == other.classes
    assert len({source.fingerprint, other.fingerprint, named.fingerprint}) == 3


def test_what_is_wrong_with_a_mask_is_named(tmp_path):
    """Oracle: the messages; a mask of another size, a row without one, an index that `classes.txt` does not name."""
    values = [png(np.zeros((5, 5), np.uint8)), None, png(masks()[1])]
    folder = write(tmp_path / "data", {"image": [png(one) for one in images()], "mask": values})
    (folder / "classes.txt").write_text("sky\nroad\n")
    source = open_source(folder, "train")
    for index, message in enumerate(("5 x 5 pixels", "has no mask in this row", "class index 3")):
        with pytest.raises(ImageError, match=message) as error:
            source.mask(index)
        assert f"row {index}, column mask" in str(error.value)


@pytest.mark.parametrize("labels", ["names", "indices"])
def test_objects_of_a_column(labels, tmp_path):
    """Oracle: boxes and names as they were written; indices have their names in Hugging Face's metadata."""
    order = ["cell", "plate"]
    category = NAMES if labels == "names" else [[order.index(name) for name in row] for row in NAMES]
    objects = [{"bbox": boxes, "category": row} for boxes, row in zip(BOXES, category, strict=True)]
    table = pa.table({"image": [png(one) for one in images()], "objects": objects})
    if labels == "indices":
        features = {"objects": {"feature": {"category": {"_type": "ClassLabel", "names": order}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data/train.parquet")
    source = open_source(tmp_path / "data", "train")
    assert (source.annotation, suggest_task(source), source.classes) == ("objects", "detect", ("cell", "plate"))
    for index, (boxes, names) in enumerate(zip(BOXES, NAMES, strict=True)):
        found = source.objects(index)
        expected = [[left, top, left + width, top + height] for left, top, width, height in boxes]
        np.testing.assert_array_equal(found.boxes, np.array(expected, np.float32).reshape(-1, 4))
        assert [source.classes[label] for label in found.labels] == names


def test_what_is_wrong_with_objects_is_named(tmp_path):
    """Oracle: the messages; a box outside, lists of different lengths, a class of another split alone."""
    objects = [
        {"bbox": [[30.0, 0.0, 20.0, 5.0]], "category": ["cell"]},
        {"bbox": [[0.0, 0.0, 5.0, 5.0]], "category": ["cell", "cell"]},
        {"bbox": [[0.0, 0.0, 5.0]], "category": ["cell"]},
    ]
    folder = write(tmp_path / "data", {"image": [png(one) for one in images()], "objects": objects})
    write(
        folder,
        {"image": [png(images()[0])], "objects": [{"bbox": [[0.0, 0.0, 5.0, 5.0]], "category": ["rare"]}]},
        "test",
    )
    source = open_source(folder, "train")
    assert source.classes == open_source(folder, "test").classes == ("cell", "rare")
    for index, message in enumerate(("reaches outside", "cannot be read", "cannot be read")):
        with pytest.raises(ImageError, match=message) as error:
            source.objects(index)
        assert f"row {index}, column objects" in str(error.value)


def test_labels_come_first(tmp_path):
    """Oracle: a table with both is one of labels; --label-column asks for the masks. One class is too few."""
    columns = {"image": [png(one) for one in images()], "label": [0, 1, 0], "mask": [png(one) for one in masks()]}
    folder = write(tmp_path / "data", columns)
    assert open_source(folder, "train").annotation == "label"
    asked = vggnet.data.sources.source.Columns(label="mask")
    assert open_source(folder, "train", columns=asked).annotation == "mask"
    empty = write(tmp_path / "empty", {**columns, "mask": [png(np.zeros(SIZE[::-1], np.uint8))] * 3})
    with pytest.raises(DataError, match=r"column 'mask' has 1 classes; expected 2 at least"):
        open_source(empty, "train", columns=asked)


@pytest.mark.parametrize("kind", ["masks", "objects"])
def test_a_training_on_a_table(kind, tmp_path):
    """Oracle: it ends with the metrics of its task; loader workers open the table themselves."""
    count = 6
    columns = {"image": [png(one) for one in images(count)]}
    if kind == "masks":
        columns["mask"] = [png(one % 4) for one in masks(count)]
        options = {"crop": 32, "resize": 32, "max_resize": 40, "workers": 1}
    else:
        columns["objects"] = [{"bbox": BOXES[1], "category": NAMES[1]}] * count
        options = {"head": "ssd300", "workers": 0}
    preset = vggnet.preset("segment" if kind == "masks" else "detect")
    config = preset.override(model="vgg11", width=0.05, epochs=1, batch_size=2, freeze=0, val_fraction=0.5, **options)
    run = vggnet.train(write(tmp_path / "data", columns), config, out=tmp_path / "run", progress=False)
    assert ("val_mean_iou" if kind == "masks" else "val_map_50") in run.history[-1]
