"""Digits, folders of images and folders of parquet files: the right images with the right labels, or one clear line."""

import io
import logging
import os
import pickle
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import pairwise_distances_argmin
from sklearn.model_selection import train_test_split

from vggnet.data.formats import image_files
from vggnet.data.sources.digits import open_digits
from vggnet.data.sources.image_folder import open_folder
from vggnet.data.sources.opening import count_images, open_source, source_splits
from vggnet.data.sources.parquet import open_parquet, parquet_files
from vggnet.data.sources.source import BY_NAME, Columns
from vggnet.errors import DataError, ImageError

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
needs_cifar10 = pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"needs CIFAR-10 as parquet files in {CIFAR10}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def encoded(value):
    """A flat PNG whose color tells which image it is."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 255 - value)).save(stream, "PNG")
    return stream.getvalue()


def color(image):
    assert image.mode == "RGB"
    return image.getpixel((0, 0))[0]


def make_folder(root, counts):
    """One class folder a key, with so many images."""
    value = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(encoded(value))
            value += 1


def make_parquet(file, values, labels, *, image="image", label="label", features=None):
    """The columns of the Hugging Face image layout; with `features` the metadata as well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(value), "path": None} for value in values]
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({image: pyarrow.array(images, type=image_type), label: pyarrow.array(labels)})
    if features:
        table = table.cast(features.arrow_schema)
    pyarrow.parquet.write_table(table, file)


NAMED = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})


# digits


def test_digits_are_those_of_scikit_learn():
    """Oracle: load_digits, enlarged by torch's bilinear interpolation; the two splits are every digit once."""
    digits, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(digits).view(-1, 1, 8, 8) * 255 / 16
    expected = torch.nn.functional.interpolate(small, size=32, mode="bilinear", align_corners=False).numpy()
    expected = expected.repeat(3, axis=1).transpose(0, 2, 3, 1)
    sources = [open_digits("train"), open_digits("test")]
    assert [len(source) for source in sources] == [1437, 360]
    pixels = np.stack([source.read(i) for source in sources for i in range(len(source))])
    which = pairwise_distances_argmin(pixels.reshape(1797, -1), expected.reshape(1797, -1))
    assert sorted(which) == list(range(1797))
    assert abs(pixels - expected[which]).max() <= 1.5
    np.testing.assert_array_equal(np.concatenate([source.labels for source in sources]), labels[which])


def test_digits_are_stratified_and_fixed():
    """Oracle: a fifth of each class, up to one image; the same again."""
    _, labels = load_digits(return_X_y=True)
    source = open_digits("test")
    assert abs(np.bincount(source.labels) - np.bincount(labels) / 5).max() <= 1
    assert open_digits("test").fingerprint == source.fingerprint != open_digits("train").fingerprint
    assert source.classes == tuple("0123456789")
    assert source.describe(7) == "digits, split test, row 7"


def test_digits_have_no_validation_split():
    """Oracle: the contract."""
    with pytest.raises(DataError, match=r"^digits: no split 'val'; expected one of train, test\.$"):
        open_digits("val")


# folders


def test_folder_with_splits(tmp_path):
    """Oracle: the files, numbered by their color in the order of the classes."""
    make_folder(tmp_path / "train", {"cat": 3, "dog": 2})
    make_folder(tmp_path / "test", {"cat": 1, "dog": 1})
    source = open_folder(tmp_path, "train")
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 0, 1, 1]
    assert source.labels.dtype == np.int64
    assert [color(source.read(i)) for i in range(len(source))] == [0, 1, 2, 3, 4]
    assert source.describe(3) == str(tmp_path / "train" / "dog" / "0.png")
    assert source_splits(tmp_path) == ("train", "test")


def test_folder_without_splits_is_divided(tmp_path):
    """Oracle: some of each class to test, about a fifth of all, nothing twice, nothing lost, the same again."""
    make_folder(tmp_path, {"cat": 10, "dog": 20})
    train, test = open_folder(tmp_path, "train"), open_folder(tmp_path, "test")
    assert set(train.labels) == set(test.labels) == {0, 1}
    assert 2 <= len(test) <= 13  # 6 +/- 2.2
    colors = [color(source.read(i)) for source in (train, test) for i in range(len(source))]
    assert sorted(colors) == list(range(30))
    again = open_folder(tmp_path, "test")
    assert [again.describe(i) for i in range(len(again))] == [test.describe(i) for i in range(len(test))]


@pytest.mark.parametrize("number", range(5))
def test_a_folder_that_changes_leaves_the_other_pictures_where_they_are(tmp_path, number):
    """Oracle: the parts before; one picture more, one less, one renamed, and a copy in the other class."""
    make_folder(tmp_path, {"cat": 30, "dog": 30})

    def parts():
        sources = {split: open_folder(tmp_path, split) for split in ("train", "test")}
        return {
            source.open(i).array().tobytes(): split for split, source in sources.items() for i in range(len(source))
        }

    before = parts()
    (tmp_path / "cat" / f"new{number}.png").write_bytes(encoded(100 + number))
    (tmp_path / "dog" / f"{number}.png").unlink()
    (tmp_path / "dog" / "9.png").rename(tmp_path / "dog" / f"{number}-renamed.png")
    (tmp_path / "dog" / "copy.png").write_bytes((tmp_path / "cat" / f"{number}.png").read_bytes())
    after = parts()
    assert len(before.keys() & after.keys()) == 59
    assert {picture: after[picture] for picture in before.keys() & after.keys()} == {
        picture: before[picture] for picture in before.keys() & after.keys()
    }
    files = [open_folder(tmp_path, split) for split in ("train", "test")]
    sides = [{source.describe(i) for i in range(len(source))} for source in files]
    assert any({str(tmp_path / "dog" / "copy.png"), str(tmp_path / "cat" / f"{number}.png")} <= side for side in sides)


def test_the_division_of_earlier_versions_can_be_had(tmp_path):
    """Oracle: scikit-learn's stratified split of the sorted files, with the seed of that version."""
    make_folder(tmp_path, {"cat": 10, "dog": 20})
    labels = np.repeat([0, 1], [10, 20])
    expected = train_test_split(np.arange(30), test_size=0.2, random_state=0, stratify=labels)
    everything = open_folder(tmp_path, "all")
    for split, indices in zip(("train", "test"), expected, strict=True):
        source = open_source(tmp_path, split, rule="stratified")
        assert [source.describe(i) for i in range(len(source))] == [everything.describe(i) for i in sorted(indices)]


@pytest.mark.parametrize("below", [("Train", "Test"), ("training", "Testing"), ("TRAIN", "test")])
def test_split_folders_of_other_names(tmp_path, below):
    """Oracle: the folders; each split also by its usual name."""
    make_folder(tmp_path, {f"{split}/{name}": 2 for split in (*below, "valid") for name in ("cat", "dog")})
    assert source_splits(tmp_path) == ("train", "val", "test")
    for split, folder in (("train", below[0]), ("test", below[1]), ("val", "valid"), ("dev", "valid")):
        source = open_source(tmp_path, split)
        assert Path(source.describe(0)).parents[1].name == folder
        assert source.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"Train": 3, "Test": 3}, "Train and Test are named like splits, but without class folders"),
        ({"train": 3, "test": 3, "cat": 3}, "train and test are named like splits"),
        ({"training": 3}, "training is named like a split"),
        ({"train/cat": 2, "train/dog": 2, "Training/cat": 2, "Training/dog": 2}, "Training and train are both"),
        ({"cat/train": 2, "cat/test": 2, "dog/train": 2, "dog/test": 2}, "cat and dog has the same folders test"),
        ({"cat/train": 2, "dog/train": 2}, "each of cat and dog has the same folders train"),
        ({"day/cat": 2, "day/dog": 2, "night/cat": 2, "night/dog": 2}, "day and night has the same folders cat"),
        ({"pets/cat": 2, "pets/dog": 2}, r"1 class folder \(pets\).* pets may be what you mean"),
    ],
)  # fmt: skip
def test_layouts_that_can_be_read_in_two_ways_are_refused(tmp_path, counts, message):
    """Oracle: the contract."""
    make_folder(tmp_path, counts)
    with pytest.raises(
        DataError, match=message.replace(" pets may", rf" {re.escape(str(tmp_path))}/pets may")
    ) as caught:
        open_folder(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_a_class_may_have_folders(tmp_path):
    """Oracle: the pictures; a single folder of the same name in each class, as Tiny ImageNet has it, tells nothing."""
    make_folder(tmp_path, {"train/cat/images": 2, "train/dog/images": 3})
    assert open_folder(tmp_path, "train").labels.tolist() == [0, 0, 1, 1, 1]


def test_what_is_no_data_is_no_class(tmp_path):
    """Oracle: the pictures before hidden files, leftovers of archives, runs, and a link that leads back were added."""
    make_folder(tmp_path, {"cat": 4, "dog": 4, "cat/.ipynb_checkpoints": 1, "__MACOSX/cat": 1, ".git/a": 1})
    (tmp_path / "cat" / "._0.png").write_bytes(b"none")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    (tmp_path / "cat" / "itself").symlink_to("itself")
    for run in ("runs/first", "runs/second", "mine", "dog/tried"):
        (tmp_path / run / "state").mkdir(parents=True)
        (tmp_path / run / "config.json").write_text("{}")
        (tmp_path / run / "results.png").write_bytes(encoded(0))
    (tmp_path / "runs" / "notes.txt").write_text("none")
    source = open_folder(tmp_path, "all")
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0] * 4 + [1] * 4
    assert len(image_files([tmp_path])) == 8


def test_a_split_without_labels_leaves_the_others(tmp_path):
    """Oracle: the contract."""
    make_folder(tmp_path, {"train/cat": 2, "train/dog": 2, "test": 3, "scans": 1})
    assert source_splits(tmp_path) == ("train",)
    assert len(open_folder(tmp_path, "train").ignored()) == 4
    with pytest.raises(DataError, match=r"test: no class folders, so its images have no labels.*vgg predict MODEL"):
        open_folder(tmp_path, "test")


def test_a_class_may_be_called_train(tmp_path):
    """Oracle: the class folders; beside others, `train` with pictures in it is one of them."""
    make_folder(tmp_path, {"car": 5, "train": 5})
    assert open_folder(tmp_path, "train").classes == ("car", "train")
    assert source_splits(tmp_path) == ("train", "test", "all")


def test_all_of_a_divided_folder(tmp_path):
    """Oracle: train and test together are every picture, each once."""
    make_folder(tmp_path, {"cat": 10, "dog": 15})
    parts = [open_folder(tmp_path, split) for split in ("train", "test", "all")]
    files = [[source.describe(index) for index in range(len(source))] for source in parts]
    assert len(files[2]) == 25
    assert sorted(files[0] + files[1]) == sorted(files[2])


def test_hidden_folders_and_other_files_are_no_data(tmp_path):
    """Oracle: what was put in besides them."""
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1, ".ipynb_checkpoints": 0})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("none")
    assert len(open_folder(tmp_path, "train")) == 2


def test_folder_fingerprint(tmp_path):
    """Oracle: it changes with a file's time, size or name, and not otherwise."""
    make_folder(tmp_path / "train", {"cat": 2, "dog": 2})
    file = tmp_path / "train" / "cat" / "0.png"
    seen = [open_folder(tmp_path, "train").fingerprint]
    assert open_folder(tmp_path, "train").fingerprint == seen[0]
    assert len(seen[0]) == 16
    os.utime(file, ns=(0, 1))
    seen.append(open_folder(tmp_path, "train").fingerprint)
    file.write_bytes(file.read_bytes() + b"\0")
    os.utime(file, ns=(0, 1))
    seen.append(open_folder(tmp_path, "train").fingerprint)
    file.rename(file.with_name("00.png"))  # in the same place of the order
    seen.append(open_folder(tmp_path, "train").fingerprint)
    assert len(set(seen)) == 4


def test_broken_image_in_a_folder_is_named(tmp_path):
    """Oracle: the contract."""
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    (tmp_path / "train" / "dog" / "0.png").write_bytes(encoded(0)[:50])
    with pytest.raises(ImageError, match=r"dog/0\.png: "):
        open_folder(tmp_path, "train").read(1)


@pytest.mark.parametrize(
    ("counts", "split", "message"),
    [
        ({}, "train", "no folders in it"),
        ({"train/cat": 2}, "train", "train: 1 class folder"),
        ({"train/cat": 2, "train/dog": 0}, "train", r"dog: no images of this class"),
        ({"train/cat": 2, "train/dog": 2, "val/cat": 1}, "test", r"no split 'test'; expected one of train, val\."),
        ({"cat": 9, "dog": 9}, "val", r"no split 'val'; expected one of train, test, all\."),
        ({"cat": 9, "dog": 1}, "test", "too few images to divide"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, counts, split, message):
    """Oracle: the contract."""
    make_folder(tmp_path, counts)
    with pytest.raises(DataError, match=message) as caught:
        open_folder(tmp_path, split)
    assert "\n" not in str(caught.value)


# parquet files


def test_parquet_shards_in_order(tmp_path):
    """Oracle: the rows that were written; the other split's files are not needed, `data/` is looked into."""
    make_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [1, 2], [0, 1], features=NAMED)
    make_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [3], [1], features=NAMED)
    source = open_parquet(tmp_path, "train")
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0, 1, 1]
    assert [color(source.read(i)) for i in range(3)] == [1, 2, 3]
    assert source.describe(2) == f"{tmp_path}, split train, row 2"


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [([7, 3, 7], ("3", "7"), [1, 0, 1]), (["owl", "cat", "owl"], ("cat", "owl"), [1, 0, 1])],
)
def test_parquet_without_class_names(tmp_path, labels, classes, indices):
    """Oracle: the sorted values, by hand. No metadata: a plain struct of bytes and path."""
    make_parquet(tmp_path / "test.parquet", [1, 2, 3], labels, image="picture")
    source = open_parquet(tmp_path, "test")
    assert source.classes == classes
    assert source.labels.tolist() == indices
    assert color(source.read(2)) == 3


def test_fine_labels_are_preferred(tmp_path):
    """Oracle: CIFAR-100's layout, where the twenty coarse labels stand beside the hundred."""
    make_parquet(tmp_path / "test.parquet", [1, 2], [5, 6], label="fine_label")
    table = pyarrow.parquet.read_table(tmp_path / "test.parquet").append_column("coarse_label", [[0, 1]])
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet")
    assert open_parquet(tmp_path, "test").classes == ("5", "6")


def test_parquet_fingerprint_is_of_the_contents(tmp_path):
    """Oracle: it changes with an image, a label or a class name, and not with the files' names or their number."""
    cases = {"a": ([1, 2], [0, 1]), "b": ([1, 3], [0, 1]), "c": ([1, 2], [1, 0])}
    for name, (values, labels) in cases.items():
        make_parquet(tmp_path / name / "test.parquet", values, labels, features=NAMED)
    make_parquet(tmp_path / "d" / "test.parquet", [1, 2], [0, 1])
    make_parquet(tmp_path / "same" / "test-00000-of-00002.parquet", [1], [0], features=NAMED)
    make_parquet(tmp_path / "same" / "test-00001-of-00002.parquet", [2], [1], features=NAMED)
    prints = {name: open_parquet(tmp_path / name, "test").fingerprint for name in (*cases, "d", "same")}
    assert len({prints[name] for name in "abcd"}) == 4
    assert prints["same"] == prints["a"]
    assert len(prints["a"]) == 16


def test_a_changed_file_is_read_anew(tmp_path):
    """Oracle: the new rows, although the cache holds the old ones."""
    for values in ([1, 2], [8, 9, 10]):
        make_parquet(tmp_path / "test.parquet", values, [i % 2 for i in range(len(values))], features=NAMED)
        source = open_parquet(tmp_path, "test")
        assert [color(source.read(i)) for i in range(len(source))] == values


def test_names_with_wildcards_are_names(tmp_path):
    """Oracle: the rows that were written."""
    make_parquet(tmp_path / "a[b]*c" / "test.parquet", [1, 2], [0, 1], features=NAMED)
    assert len(open_parquet(tmp_path / "a[b]*c", "test")) == 2


def test_no_place_for_a_cache(tmp_path, monkeypatch):
    """Oracle: the rows that were written. A file where the cache's folder should be."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    make_parquet(tmp_path / "test.parquet", [1, 2], [0, 1], features=NAMED)
    assert color(open_parquet(tmp_path, "test").read(1)) == 2


def test_loading_is_silent_and_leaves_the_library_as_it_was(tmp_path, capfd, monkeypatch):
    """Oracle: the settings before, and what the library's own logger and progress bars would write."""
    logged = []
    handler = logging.Handler()
    handler.emit = logged.append
    monkeypatch.setattr(logging.getLogger("datasets"), "handlers", [handler])
    before = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    assert before == (logging.WARNING, False)
    make_parquet(tmp_path / "test.parquet", [1, 2], [0, 1], features=NAMED)
    open_parquet(tmp_path, "test")
    whole = (tmp_path / "test.parquet").read_bytes()
    for damaged in (b"PAR1", whole[:-20], b"PAR1" + b"\xff" * 60 + whole[64:]):
        (tmp_path / "test.parquet").write_bytes(damaged)
        with pytest.raises(DataError):
            open_parquet(tmp_path, "test")
    assert logged == []
    assert capfd.readouterr() == ("", "")
    assert (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == before


def test_damaged_parquet_file_is_named(tmp_path):
    """Oracle: the contract: cut short, and with its first pages overwritten."""
    first, second = (tmp_path / f"test-0000{i}-of-00002.parquet" for i in range(2))
    make_parquet(first, [1, 2], [0, 1], features=NAMED)
    make_parquet(second, [1, 2], [0, 1], features=NAMED)
    whole = second.read_bytes()
    for damaged in (whole[:-20], b"PAR1" + b"\xff" * 60 + whole[64:], b""):
        second.write_bytes(damaged)
        with pytest.raises(DataError, match=r"test-00001-of-00002\.parquet: not a whole parquet file") as caught:
            open_parquet(tmp_path, "test")
        assert "\n" not in str(caught.value)


def test_missing_splits_and_files(tmp_path):
    """Oracle: the contract."""
    with pytest.raises(DataError, match="no parquet files"):
        open_parquet(tmp_path, "train")
    for name in ("validation", "train-00000-of-00003", "train-00002-of-00003"):
        make_parquet(tmp_path / f"{name}.parquet", [1, 2], [0, 1], features=NAMED)
    assert list(parquet_files(tmp_path)) == ["train", "validation"]
    with pytest.raises(DataError, match=r"no split 'test'; expected one of train, validation\."):
        open_parquet(tmp_path, "test")
    with pytest.raises(DataError, match=r"1 of 3 files missing; expected train-00001-of-00003\.parquet"):
        open_parquet(tmp_path, "train")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1]}, "no image column among label"),
        ({"image": [{"bytes": b""}] * 2, "name": ["a", "b"]}, "no label column among image, name"),
        ({"image": [{"bytes": b""}] * 2, "label": [1, 1]}, r"column 'label' has 1 class \(1\); expected at least 2"),
        (
            {"image": [{"bytes": b""}] * 2, "label": [1, None]},
            "column 'label': row 1 has no label; expected one label in every row",
        ),
        ({"image": [{"bytes": b""}][:0], "label": [1][:0]}, "no rows"),
    ],
)
def test_tables_that_are_no_data_set(tmp_path, columns, message):
    """Oracle: the contract."""
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=message) as caught:
        open_parquet(tmp_path, "test")
    assert "\n" not in str(caught.value)


def test_unlabeled_split_is_refused(tmp_path):
    """Oracle: the hub's convention for hidden labels, -1."""
    make_parquet(tmp_path / "test.parquet", [1, 2], [-1, -1], features=NAMED)
    with pytest.raises(DataError, match=r"every label is -1, which stands for none; .* `vgg predict` needs none\."):
        open_parquet(tmp_path, "test")
    make_parquet(tmp_path / "test.parquet", [1, 2, 3], [0, 1, -1], features=NAMED)
    with pytest.raises(DataError, match="row 2 has the label -1, which is outside its 2 classes"):
        open_parquet(tmp_path, "test")


def test_a_row_never_reads_another_file(tmp_path):
    """Oracle: the contract. A row with a path and no bytes is refused, though the file it points to exists."""
    (tmp_path / "secret.png").write_bytes(encoded(1))
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}, None]
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(rows, type=image_type), "label": [0, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet")
    source = open_parquet(tmp_path, "test")
    for index in range(2):
        with pytest.raises(ImageError, match=f"row {index}: no image bytes in this row"):
            source.read(index)
    assert len(source.fingerprint) == 16


# any source


def test_sources_travel_to_other_processes(tmp_path):
    """Oracle: the source itself. Only what a worker needs is sent."""
    make_folder(tmp_path / "folder" / "train", {"cat": 1, "dog": 1})
    make_parquet(tmp_path / "parquet" / "train.parquet", [1, 2], [0, 1], features=NAMED)
    for spec in ("digits", tmp_path / "folder", tmp_path / "parquet"):
        source = open_source(spec, "train")
        sent = pickle.dumps(source)
        received = pickle.loads(sent)
        assert received.read(1).tobytes() == source.read(1).tobytes()
        assert received.fingerprint == source.fingerprint
        assert len(sent) < 200_000


@pytest.mark.parametrize(
    "file", ["plain_text/train-00000-of-00001.parquet", "default/train/0000.parquet", "train/0000.parquet"]
)
def test_parquet_files_below_as_the_hub_lays_them_out(tmp_path, file):
    """Oracle: the rows; a run and a table beside the pictures of a class are no data sets."""
    make_parquet(tmp_path / "set" / file, [1, 2, 3], [0, 1, 0], features=NAMED)
    make_parquet(tmp_path / "set" / "runs" / "mine" / "predictions.parquet", [1], [0])
    (tmp_path / "set" / "runs" / "mine" / "config.json").write_text("{}")
    (tmp_path / "set" / "runs" / "mine" / "state").mkdir()
    (tmp_path / "set" / ".cache").mkdir()
    assert source_splits(tmp_path / "set") == ("train",)
    assert open_source(tmp_path / "set", "train").labels.tolist() == [0, 1, 0]
    make_folder(tmp_path / "pictures", {"cat": 5, "dog": 5})
    make_parquet(tmp_path / "pictures" / "cat" / "features.parquet", [1], [0])
    assert source_splits(tmp_path / "pictures") == ("train", "test", "all")


def test_several_sets_of_parquet_files_below(tmp_path):
    """Oracle: the contract."""
    for name in ("en", "fr"):
        make_parquet(tmp_path / name / "train.parquet", [1, 2], [0, 1], features=NAMED)
    with pytest.raises(DataError, match=r"2 data sets of parquet files in it \(en, fr\)\. Give one: .*en\.$"):
        open_source(tmp_path, "train")


def test_parquet_files_by_other_names_of_a_split(tmp_path):
    """Oracle: the rows of the file."""
    make_parquet(tmp_path / "validation.parquet", [1, 2, 3], [0, 1, 0], features=NAMED)
    assert [len(open_source(tmp_path, split)) for split in ("val", "dev", "validation")] == [3, 3, 3]


def test_what_can_be_opened(tmp_path, monkeypatch):
    """Oracle: the contract, one case a kind."""
    make_folder(tmp_path / "folder" / "train", {"cat": 1, "dog": 1})
    make_parquet(tmp_path / "data" / "cifar10" / "train.parquet", [1, 2], [0, 1], features=NAMED)
    make_parquet(tmp_path / "inner" / "data" / "test.parquet", [1, 2], [0, 1], features=NAMED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VGGNET_CACHE", "~")
    for spec, splits in {
        "digits": ("train", "test"),
        "folder": ("train",),
        "./folder": ("train",),
        "~/folder": ("train",),
        "inner": ("test",),
        "cifar10": ("train",),
        str(tmp_path / "data" / "cifar10"): ("train",),
    }.items():
        assert source_splits(spec) == splits, spec
        assert len(open_source(spec, splits[0])) >= 2


def test_images_are_counted_without_reading_them(tmp_path):
    """Oracle: the images put in; None where there is no such split, or none can be told."""
    make_folder(tmp_path / "divided", {"cat": 10, "dog": 10})
    make_folder(tmp_path / "split", {"train/cat": 1, "train/dog": 2, "Testing/cat": 3, "Testing/dog": 4})
    make_parquet(tmp_path / "rows" / "train.parquet", range(5), [0, 1, 0, 1, 0], features=NAMED)
    sizes = [len(open_folder(tmp_path / "divided", split)) for split in ("train", "test")]
    assert [count_images(tmp_path / "divided", split) for split in ("train", "test", "val")] == [*sizes, None]
    assert [count_images(tmp_path / "split", split) for split in ("train", "test", "val")] == [3, 7, None]
    assert [count_images(tmp_path / "rows", split) for split in ("train", "test")] == [5, None]
    assert [count_images(spec, "test") for spec in ("digits", "stream:rows")] == [360, None]


@pytest.mark.parametrize("header", ["file_name,label", "file_name,kind"])
def test_images_of_listings_are_counted(header, tmp_path):
    """Oracle: the rows written; for a listing without splits, what opening it gives."""
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(20)]
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    columns = Columns(label="kind") if "kind" in header else BY_NAME
    sizes = [len(open_source(tmp_path, split, columns=columns)) for split in ("train", "test")]
    assert sum(sizes) == 20
    assert [count_images(tmp_path, split, columns) for split in ("train", "test", "val")] == [*sizes, None]
    splits = ["train"] * 13 + ["valid"] * 3 + ["test"] * 4
    (tmp_path / "labels.csv").write_text(
        "\n".join([f"{header},split", *(f"{row},{split}" for row, split in zip(rows, splits, strict=True))])
    )
    assert [count_images(tmp_path, split, columns) for split in ("train", "val", "test")] == [13, 3, 4]


def test_data_sets_with_names_are_found_where_version_0_1_kept_them(tmp_path, monkeypatch):
    """Oracle: the folder's own rows: in the cache first, then in ~/.cache/vggnet/data; VGGNET_DATA goes before both."""
    home, cache, given = (tmp_path / name for name in ("home", "cache", "given"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("VGGNET_CACHE", str(cache))
    monkeypatch.delenv("VGGNET_DATA", raising=False)
    for number, folder in enumerate([home / ".cache" / "vggnet" / "data", cache / "data", given], start=2):
        make_parquet(folder / "cifar10" / "train.parquet", range(number), [0, 1, 0, 1][:number], features=NAMED)
        if folder == given:
            monkeypatch.setenv("VGGNET_DATA", str(given))
            with pytest.warns(DeprecationWarning, match="set VGGNET_CACHE"):
                assert len(open_source("cifar10", "train")) == number
        else:
            assert len(open_source("cifar10", "train")) == number


@pytest.mark.parametrize("spec", ["nope", "./no/pe", "~/nope", "/no/pe", "a/b/c", "../nope", Path("no/pe"), "a b/c"])
def test_what_cannot_be_opened_is_not_looked_up(spec, monkeypatch):
    """Oracle: the contract; asking the hub would fail the test."""
    monkeypatch.setattr("vggnet.data.sources.huggingface.HfApi", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(DataError, match="no such folder; expected digits, cifar10, ") as caught:
        open_source(spec, "train")
    assert "\n" not in str(caught.value)


def test_a_file_is_no_data_set(tmp_path):
    """Oracle: the contract."""
    (tmp_path / "data.zip").touch()
    with pytest.raises(DataError, match=r"data\.zip: not a folder; expected digits"):
        open_source(tmp_path / "data.zip", "train")


@needs_cifar10
def test_cifar10_test_split():
    """Oracle: the published classes, 32 x 32 pixels, and equally many images of each class."""
    source = open_source(CIFAR10, "test")
    assert source.classes == CIFAR10_CLASSES
    assert len(set(np.bincount(source.labels).tolist())) == 1
    assert {source.read(i).size for i in range(0, len(source), 101)} == {(32, 32)}
