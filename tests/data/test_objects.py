"""Objects: read from VOC's XML and COCO's JSON, checked against their images, found by their layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggnet.data.inspection import inspect
from vggnet.data.sources.opening import count_images, open_source, source_splits
from vggnet.data.sources.source import Columns, Subset
from vggnet.errors import DataError, ImageError

BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


def save_image(file, color=200, size=(20, 10)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color, 10, 10)).save(file)


def save_xml(file, *objects):
    """Objects as (name, xmin, ymin, xmax, ymax), as VOC counts."""
    names = ("xmin", "ymin", "xmax", "ymax")
    items = [
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(names, box, strict=True))
        + "</bndbox></object>"
        for name, *box in objects
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"<annotation>{''.join(items)}</annotation>")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for split, count in (("train", 3), ("valid", 2)):
        for number in range(count):
            save_image(folder / split / f"{number}.jpg", 50 * number)
            save_xml(folder / split / f"{number}.xml", ("elk", 1, 1, 5, 4), *[("cat", 3, 2, 20, 10)] * number)
    return folder


def coco(images, annotations, names=("things", "elk", "cat")):
    return json.dumps(
        {
            "images": [{"id": 10 + i, "file_name": name, "width": 20, "height": 10} for i, name in enumerate(images)],
            "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
            "annotations": [
                {"image_id": 10 + image, "category_id": label, "bbox": box, **more}
                for image, label, box, more in annotations
            ],
        }
    )


def test_xml_beside_images(data):
    """Oracle: by hand: VOC counts pixels from 1 and includes the last one; classes are sorted, those of all splits."""
    save_xml(data / "valid" / "1.xml", ("ant", 1, 1, 2, 2))
    assert source_splits(data) == ("train", "val")
    assert count_images(data, "val") == 2
    source = open_source(data, "train")
    assert (source.annotation, source.classes, len(source)) == ("objects", ("ant", "cat", "elk"), 3)
    found = source.objects(1)
    assert found.boxes.tolist() == [[0, 0, 5, 4], [2, 1, 20, 10]]
    assert found.labels.tolist() == [2, 1]
    part = Subset(source, np.array([1]))
    assert part.annotation == "objects"
    assert part.objects(0).labels.tolist() == [2, 1]
    with pytest.raises(DataError, match=r"no objects; expected <split>/NAME\.jpg with <split>/NAME\.xml"):
        open_source("digits", "test").objects(0)
    with pytest.raises(DataError, match="is no table"):
        open_source(data, "train", columns=Columns(label="x"))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([("cat", 4, 4, 4, 4)], r"0\.jpg: the box of cat \(left, top, right, bottom\) = \(4, 4, 4, 4\) has no area"),
        ([("cat", 4, 4, 3, 9)], "has no area; its right and lower edge must lie beyond"),
        ([("cat", 1, 1, 21, 10)], r"\(0, 0, 21, 10\) reaches outside the image; expected edges within 20 x 10"),
        ([], r"0\.xml: no object; expected <annotation>"),
        (None, r"0\.xml: does not exist, so its image has no box"),
    ],
)
def test_objects_that_do_not_fit_are_named(data, objects, message):
    """Oracle: what was broken, by hand; `vgg data` goes on, and names it."""
    file = data / "train" / "0.xml"
    file.unlink() if objects is None else save_xml(file, *objects)
    source = open_source(data, "train")
    with pytest.raises(ImageError, match=message):
        source.objects(0)
    assert len(source.objects(1).labels) == 2
    train, val = inspect(data).splits
    assert (len(train.unreadable), len(val.unreadable)) == (1, 0)


def test_classes_have_names(data):
    """Oracle: the file; an object of another class is an error that names the image."""
    (data / "classes.txt").write_text("elk\nfox\n", encoding="utf-8")
    source = open_source(data, "train")
    assert source.classes == ("elk", "fox")
    assert source.objects(0).labels.tolist() == [0]
    with pytest.raises(ImageError, match=r"1\.jpg: an object of the class 'cat'; expected one of elk, fox"):
        source.objects(1)


def test_objects_are_counted(data):
    """Oracle: by hand: each class by its objects, and by the images that it is in."""
    train, val = inspect(data).splits
    assert train.objects_per_class == {"cat": 3, "elk": 3}
    assert train.images_per_class == {"cat": 2, "elk": 3}
    assert val.objects_per_class == {"cat": 1, "elk": 2}
    assert "objects  train  val\ncat      3      1\nelk      3      2" in inspect(data).as_table()


@pytest.mark.parametrize("layout", ["beside", "instances"])
def test_coco(tmp_path, layout):
    """Oracle: by hand. Classes are in the order of their ids; what rounding leaves beyond the edge is cut."""
    boxes = [(0, 2, [1, 2, 3, 4], {}), (0, 1, [10, 0, 10.4, 10], {"iscrowd": 1})]
    for split, file in (("train", "train2017"), ("val", "val2017")):
        place = tmp_path / (file if layout == "instances" else split)
        for name in ("a.jpg", "b.jpg"):
            save_image(place / name)
        target = place / "_annotations.coco.json"
        if layout == "instances":
            target = tmp_path / "annotations" / f"instances_{file}.json"
            target.parent.mkdir(exist_ok=True)
        target.write_text(coco(["a.jpg", "b.jpg"], boxes if split == "train" else boxes[:1]))
    assert source_splits(tmp_path) == ("train", "val")
    source = open_source(tmp_path, "train")
    assert source.classes == ("elk", "cat")
    first, second = source.objects(0), source.objects(1)
    assert first.boxes.tolist() == [[1, 2, 4, 6], [10, 0, 20, 10]]
    assert (first.labels.tolist(), first.crowd.tolist()) == ([1, 0], [False, True])
    assert second.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"images": []}', "no 'categories'"),
        (coco(["../a.jpg"], []), "not below the folder of the images"),
        (coco(["a.jpg"], [(5, 1, [0, 0, 1, 1], {})]), "no 15"),
        (coco(["a.jpg"], [(0, 1, [0, 0, 1], {})]), "cannot be read"),
        (coco(["a.jpg"], []), "no objects, so there are no classes"),
    ],
)
def test_files_of_coco_that_cannot_be_used(tmp_path, content, message):
    """Oracle: what was broken, by hand."""
    save_image(tmp_path / "train" / "a.jpg")
    (tmp_path / "train" / "_annotations.coco.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path, "train")


def test_voc_folders(tmp_path):
    """Oracle: the lists; those of single classes are no splits."""
    for name in ("a", "b", "c"):
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg")
        save_xml(tmp_path / "Annotations" / f"{name}.xml", ("cat", 1, 1, 9, 9))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, text in (("train", "c\na\n"), ("val", "b\n"), ("trainval", "a\nb\nc\n"), ("cat_train", "a -1\n")):
        (lists / f"{name}.txt").write_text(text)
    assert source_splits(tmp_path) == ("train", "val", "trainval")
    source = open_source(tmp_path, "train")
    assert [source.describe(index)[-5:] for index in range(2)] == ["c.jpg", "a.jpg"]
    assert source.objects(0).boxes.tolist() == [[0, 0, 9, 9]]
    for file in lists.glob("*.txt"):
        file.unlink()
    with pytest.raises(DataError, match=r"no ImageSets/Main/train\.txt"):
        open_source(tmp_path, "train")


def test_a_folder_without_splits_is_divided(tmp_path):
    """Oracle: the whole; no image is in both parts, and each keeps its own objects."""
    for number in range(12):
        save_image(tmp_path / f"{number}.png", 20 * number)
        save_xml(tmp_path / f"{number}.xml", ("cat", 1, 1, 2 + number, 9))
    assert source_splits(tmp_path) == ("train", "test", "all")
    train, test, whole = (open_source(tmp_path, split) for split in ("train", "test", "all"))
    names = [{source.describe(index) for index in range(len(source))} for source in (train, test, whole)]
    assert names[0] | names[1] == names[2]
    assert not names[0] & names[1]
    assert min(map(len, names)) > 0
    number = int(Path(test.describe(0)).stem)
    assert test.objects(0).boxes.tolist() == [[0, 0, 2 + number, 9]]


def test_a_changed_box_changes_the_data(data):
    """Oracle: the contract of a source: a run does not resume on other boxes."""
    before = open_source(data, "train")
    kept = before.pixels_key, before.fingerprint
    assert open_source(data, "train").pixels_key == kept[0]
    save_xml(data / "train" / "0.xml", ("elk", 1, 1, 5, 10))
    after = open_source(data, "train")
    assert after.pixels_key != kept[0]
    assert after.fingerprint != kept[1]


def test_what_is_not_taken_for_an_image_is_named(data):
    """Oracle: by hand."""
    save_xml(data / "train" / "9.xml", ("elk", 1, 1, 5, 10))
    (data / "train" / "notes.txt").touch()
    found = [Path(file).name for file in open_source(data, "train").ignored()]
    assert found == ["9.xml", "notes.txt"]


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs ../shared/data/bccd")
def test_blood_cells():
    """Oracle: its README: 205 and 87 images, and two boxes without area."""
    bad = []
    for split, count in (("train", 205), ("val", 87)):
        source = open_source(BCCD, split)
        assert (source.classes, len(source)) == (("Platelets", "RBC", "WBC"), count)
        for index in range(count):
            try:
                assert len(source.objects(index).labels)
            except ImageError as error:
                bad.append(str(error))
    assert len(bad) == 2
    assert all("has no area" in error for error in bad)
