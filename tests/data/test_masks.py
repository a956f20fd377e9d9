"""Masks: read as they are stored, checked against their images, found by their layouts."""

import numpy as np
import pytest
from PIL import Image

from vggnet.data.inspection import inspect
from vggnet.data.masks import IGNORED, decode_mask
from vggnet.data.sources.opening import count_images, open_source, source_splits
from vggnet.data.sources.source import Columns, Subset
from vggnet.errors import DataError, ImageError


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


def save(file, array, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(file, **options)


def add(folder, name, indices, size=None):
    """An image, and its mask beside it."""
    height, width = np.shape(indices)
    save(folder / "images" / f"{name}.jpg", np.full((*(size or (height, width)), 3), 200))
    save(folder / "masks" / f"{name}.png", indices)


@pytest.fixture
def data(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            indices = np.zeros((6, 9))
            indices[0], indices[1, :number] = 7, 1
            add(tmp_path / "data" / split, number, indices)
    return tmp_path / "data"


def test_an_index_is_ignored(data):
    """Oracle: NumPy on the same arrays; classes are counted up to the largest index that is not ignored."""
    assert source_splits(data) == ("train", "val")
    assert count_images(data, "val") == 2
    assert open_source(data, "train").classes == tuple(f"class {index}" for index in range(8))
    source = open_source(data, "validation", columns=Columns(ignore_index=7))
    assert (source.annotation, source.classes, len(source)) == ("mask", ("class 0", "class 1"), 2)
    expected = np.zeros((6, 9))
    expected[0], expected[1, :1] = IGNORED, 1
    np.testing.assert_array_equal(np.array(source.mask(1)), expected)
    np.testing.assert_array_equal(np.array(Subset(source, np.array([1])).mask(0)), expected)
    assert Subset(source, np.array([1])).annotation == "mask"
    with pytest.raises(DataError, match="no masks; expected <split>/images/NAME.jpg"):
        open_source("digits", "test").mask(0)


def test_classes_have_names(data):
    """Oracle: the file; an index without a name is an error that names the mask."""
    (data / "classes.txt").write_text("road\n\ncar\n", encoding="utf-8")
    source = open_source(data, "train")
    assert source.classes == ("road", "car")
    with pytest.raises(ImageError, match=r"masks/0\.png: the mask has the class index 7; expected 0 to 1, or 255"):
        source.mask(0)
    assert open_source(data, "train", columns=Columns(ignore_index=7)).mask(0).size == (9, 6)
    (data / "classes.txt").write_text("road", encoding="utf-8")
    with pytest.raises(DataError, match="classes.txt: 1 classes; expected 2 to 255"):
        open_source(data, "train")


def test_masks_that_do_not_fit_are_named(data):
    """Oracle: what was broken, by hand."""
    add(data / "train", 3, np.zeros((6, 9)), size=(6, 10))
    (data / "train" / "masks" / "0.png").unlink()
    save(data / "train" / "masks" / "1.png", np.zeros((6, 9, 3)))
    save(data / "train" / "masks" / "9.png", np.zeros((6, 9)))
    source = open_source(data, "train")
    for index, message in (
        (0, r"images/0\.jpg: has no mask: .*masks/0\.png does not exist"),
        (1, r"masks/1\.png: is no mask, but PNG of mode RGB; expected PNG with one channel"),
        (3, r"masks/3\.png: the mask has 9 x 6 pixels, but its image 10 x 6"),
    ):
        with pytest.raises(ImageError, match=message):
            source.mask(index)
    assert source.ignored() == [str(data / "train" / "masks" / "9.png")]
    found = inspect(data)
    assert len(found.splits[0].unreadable) == 3
    assert "has no mask" in found.as_table()


def test_pixels_are_counted(data):
    """Oracle: by hand: each class by its pixels, and by the images that it occurs in."""
    (split, _) = inspect(data, columns=Columns(ignore_index=7)).splits
    assert split.pixels_per_class == {"class 0": 3 * 45 - 3, "class 1": 3}
    assert split.images_per_class == {"class 0": 3, "class 1": 2}
    assert split.ignored_pixels == 3 * 9
    table = inspect(data, columns=Columns(ignore_index=7)).as_table()
    assert "97.78 %" in table
    assert "27" in table


def test_a_palette_holds_indices(tmp_path):
    """Oracle: NumPy. VOC's masks have a palette; its lists say which images a split has."""
    indices = np.array([[0, 1, 255], [2, 1, 0]], np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(bytes(range(256)) * 3)
    for name in ("a", "b", "c"):
        save(tmp_path / "JPEGImages" / f"{name}.jpg", np.zeros((2, 3, 3)))
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        picture.save(tmp_path / "SegmentationClass" / f"{name}.png")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("c\na\n")
    (lists / "val.txt").write_text("b\n")
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    np.testing.assert_array_equal(decode_mask(tmp_path / "SegmentationClass" / "a.png"), indices)
    assert source_splits(tmp_path) == ("train", "val", "trainval")
    source = open_source(tmp_path, "train")
    assert [source.describe(index)[-5:] for index in range(2)] == ["c.jpg", "a.jpg"]
    np.testing.assert_array_equal(np.array(source.mask(0)), indices)
    assert source.classes == ("class 0", "class 1", "class 2")


def test_a_folder_without_splits_is_divided(tmp_path):
    """Oracle: the whole; no image is in both parts, and none is lost."""
    for number in range(12):
        add(tmp_path, number, np.full((4, 5), number % 3))
        save(tmp_path / "images" / f"{number}.jpg", np.full((4, 5, 3), 20 * number))
    assert source_splits(tmp_path) == ("train", "test", "all")
    train, test, whole = (open_source(tmp_path, split) for split in ("train", "test", "all"))
    names = [{source.describe(index) for index in range(len(source))} for source in (train, test, whole)]
    assert names[0] | names[1] == names[2]
    assert not names[0] & names[1]
    assert min(map(len, names)) > 0
    index = next(iter(range(len(test))))
    number = int(test.describe(index).rsplit("/")[-1][:-4])
    assert set(np.array(test.mask(index)).ravel().tolist()) == {number % 3}


def test_a_changed_mask_changes_the_data(data):
    """Oracle: the contract of a source: a run does not resume on other masks."""
    before = open_source(data, "train")
    kept = before.pixels_key, before.fingerprint
    assert open_source(data, "train").pixels_key == kept[0]
    assert open_source(data, "train", columns=Columns(ignore_index=7)).pixels_key != kept[0]
    save(data / "train" / "masks" / "0.png", np.full((6, 9), 3))
    after = open_source(data, "train")
    assert (after.pixels_key, after.fingerprint) != kept
    assert after.pixels_key != kept[0]


def test_what_has_no_masks_has_no_index_to_ignore(tmp_path):
    """Oracle: the contract: an option that cannot act is refused."""
    for name in ("cat", "dog"):
        save(tmp_path / name / "1.png", np.zeros((4, 4)))
    with pytest.raises(DataError, match="has no masks, so there is no index to ignore; leave out --ignore-index"):
        open_source(tmp_path, "all", columns=Columns(ignore_index=3))
    add(tmp_path / "masked", "1", np.array([[0, 1]]))
    with pytest.raises(DataError, match="is no table"):
        open_source(tmp_path / "masked", "all", columns=Columns(label="x"))
