"""Parquet files and WebDataset tars as streams: the right images with the right labels, or one clear line."""

import io
import subprocess
import sys
import tarfile
from functools import partial

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.stream import Stream
from vggnet.errors import DataError, ImageError

NAMED = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])})


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def encoded(value, kind="PNG"):
    data = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 255 - value)).save(data, kind)
    return data.getvalue()


def values(source):
    return [source.read(index).getpixel((0, 0))[0] for index in range(len(source))]


def make_parquet(file, numbers, labels, *, group=3, features=None, label="label"):
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": None if value is None else encoded(value), "path": None} for value in numbers]
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(images, type=image_type), label: pyarrow.array(labels)})
    table = table.cast(features.arrow_schema) if features else table
    pyarrow.parquet.write_table(table, file, row_group_size=group)


def make_tar(file, members, mode="w"):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def sample(key, value, label, suffix="png"):
    return {f"{key}.{suffix}": encoded(value), f"{key}.cls": str(label).encode()}


@pytest.mark.parametrize("features", [None, NAMED], ids=["plain", "named"])
def test_parquet_as_the_other_way_of_reading_it(tmp_path, features):
    """Oracle: the library `datasets`, by which the same folder is opened without stream:."""
    for number, count in enumerate((7, 3, 2)):
        numbers = range(10 * number, 10 * number + count)
        labels = [value % 3 for value in numbers]
        make_parquet(tmp_path / "data" / f"train-0000{number}-of-00003.parquet", numbers, labels, features=features)
    make_parquet(tmp_path / "data" / "test.parquet", [200, 201], [0, 1], features=features)
    streamed, other = open_source(f"stream:{tmp_path}", "train"), open_source(tmp_path, "train")
    assert isinstance(streamed, Stream)
    assert streamed.classes == other.classes
    np.testing.assert_array_equal(streamed.labels, other.labels)
    assert values(streamed) == values(other) == [*range(7), 10, 11, 12, 20, 21]
    assert streamed.groups_of(np.arange(12)).tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4]
    assert streamed.describe(8) == f"{tmp_path}/data/train-00001-of-00003.parquet, row 1"
    assert source_splits(f"stream:{tmp_path}") == ("train", "test")
    assert streamed.name == str(tmp_path)


def test_names_of_data_sets_are_streamed_from_the_same_folder(tmp_path, monkeypatch):
    """Oracle: the rows that were written."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path))
    make_parquet(tmp_path / "data" / "cifar10" / "train.parquet", range(8), ["b", "a"] * 4)
    source = open_source("stream:cifar10", "train")
    assert (source.classes, source.labels.tolist(), values(source)) == (("a", "b"), [1, 0] * 4, list(range(8)))


def test_tar_files(tmp_path):
    """Oracle: the members; classes are sorted as numbers, other members are left alone."""
    first = {**sample("./a/0", 0, 10, "jpg"), "./a/0.json": b"{}", **sample("./a/1", 1, 9), "README": b"none"}
    second = {f"x.{kind}": content for kind, content in (("cls", b" 2\n"), ("seg.png", encoded(2)), ("txt", b"a"))}
    make_tar(tmp_path / "set-train-000000.tar", first)
    make_tar(tmp_path / "set-train-000001.tar", {**second, **sample("y", 3, 9)})
    make_tar(tmp_path / "set-validation-000000.tar", {**sample("z", 4, 2), **sample("zz", 5, 9)})
    source = open_source(f"stream:{tmp_path}", "train")
    assert source.classes == ("2", "9", "10")
    assert source.labels.tolist() == [2, 1, 0, 1]
    assert values(source) == pytest.approx([0, 1, 2, 3], abs=2)  # the first is a JPEG
    assert [source.describe(index) for index in (0, 3)] == [
        f"{tmp_path}/set-train-000000.tar, ./a/0.jpg",
        f"{tmp_path}/set-train-000001.tar, y.png",
    ]
    assert source_splits(f"stream:{tmp_path}") == ("train", "validation")


def test_tar_files_as_another_library_reads_them(tmp_path):
    """Oracle: the library `datasets`, which reads WebDataset tars from start to end."""
    for number in range(2):
        members = [sample(f"{value:03}", value, value % 4) for value in range(20 * number, 20 * number + 20)]
        make_tar(
            tmp_path / f"train-{number}.tar", {name: content for each in members for name, content in each.items()}
        )
    files = [str(tmp_path / f"train-{number}.tar") for number in range(2)]
    rows = list(datasets.load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True))
    source = open_source(f"stream:{tmp_path}", "train")
    assert source.labels.tolist() == [row["cls"] for row in rows]
    assert values(source) == [row["png"].getpixel((0, 0))[0] for row in rows]


def test_classes_in_words_and_many_images_in_a_tar(tmp_path):
    """Oracle: the members; 600 images are three groups."""
    members = {}
    for value in range(600):
        members |= sample(f"{value:04}", value % 256, ("dog", "cat")[value % 2])
    make_tar(tmp_path / "train.tar", members)
    source = open_source(f"stream:{tmp_path}", "train")
    assert source.classes == ("cat", "dog")
    assert np.bincount(source.groups_of(np.arange(600))).tolist() == [256, 256, 88]
    assert values(source) == [value % 256 for value in range(600)]


def test_an_image_that_is_missing_is_named(tmp_path):
    """Oracle: the contract."""
    make_parquet(tmp_path / "train.parquet", [0, 1, None, 3], [0, 1, 0, 1])
    with pytest.raises(ImageError, match=r"train\.parquet, row 2: the file is empty"):
        open_source(f"stream:{tmp_path}", "train").read(2)


def test_fingerprints(tmp_path):
    """Oracle: the same files give the same; another image, label or name another."""
    file = tmp_path / "train.parquet"
    seen = []
    for numbers, labels in (([0, 1], [0, 1]), ([0, 1], [1, 0]), ([0, 2, 3], [0, 1, 1])):
        make_parquet(file, numbers, labels)
        seen.append(open_source(f"stream:{tmp_path}", "train").fingerprint)
        assert open_source(f"stream:{tmp_path}", "train").fingerprint == seen[-1]
    file.rename(tmp_path / "train-00000-of-00001.parquet")
    seen.append(open_source(f"stream:{tmp_path}", "train").fingerprint)
    assert len(set(seen)) == 4
    assert {len(fingerprint) for fingerprint in seen} == {16}


def damaged(path):
    make_parquet(path / "train.parquet", range(6), [0, 1] * 3)
    content = (path / "train.parquet").read_bytes()
    (path / "train.parquet").write_bytes(content[: len(content) // 2])


def cut_tar(path, end):
    """Four members of 1024 bytes, each with its header, of which something is left."""
    make_tar(path / "train.tar", sample(1, 1, 1) | sample(2, 2, 2))
    content = (path / "train.tar").read_bytes()
    (path / "train.tar").write_bytes(content[:end])


def spoil_tar(path):
    """The header of the third member is none."""
    make_tar(path / "train.tar", sample(1, 1, 1) | sample(2, 2, 2))
    content = (path / "train.tar").read_bytes()
    (path / "train.tar").write_bytes(content[:2048] + b"x" * 512 + content[2560:])


@pytest.mark.parametrize(
    ("make", "split", "message"),
    [
        (lambda path: None, "train", "nothing to stream; expected train-"),
        (lambda path: make_parquet(path / "train.parquet", [0, 1], [0, 1]), "val", "no split 'val'; expected .* train"),
        (lambda path: make_parquet(path / "train-00001-of-00002.parquet", [0], [0]), "train", "1 of 2 files missing"),
        (lambda path: make_parquet(path / "train.parquet", [0, 1], [1, 1]), "train", "column 'label' has 1 class"),
        (lambda path: make_parquet(path / "train.parquet", [0, 1], [0, None]), "train", "row 1 has no label"),
        (lambda path: make_parquet(path / "train.parquet", [0, 1], [0, 1], label="x"), "train", "no label column"),
        (lambda path: make_parquet(path / "train.parquet", [], pyarrow.array([], "int64")), "train", "no rows"),
        (lambda path: make_parquet(path / "train.parquet", [0], [-1], features=NAMED), "train", "every label is -1"),
        (damaged, "train", r"train\.parquet: cannot be read as parquet"),
        *(
            (partial(cut_tar, end=end), "train", r"train\.tar: not a whole tar")
            for end in (100, 600, 1024, 2048, 2300, 2600, 3600)
        ),
        (spoil_tar, "train", r"train\.tar: not a whole tar"),
        (lambda path: make_tar(path / "train.tar", sample(1, 1, 1), "w:gz"), "train", "without compression"),
        (lambda path: make_tar(path / "train.tar", {"a": b"", ".b.png": b""}), "train", "has no images"),
        (lambda path: make_tar(path / "train.tar", {**sample(1, 1, 1), "2.png": b""}), "train", "2 lacks its image"),
        (lambda path: make_tar(path / "train.tar", sample(1, 1, 1)), "train", r"the files \*\.cls has 1 class"),
    ],
)
def test_what_cannot_be_streamed(tmp_path, make, split, message):
    """Oracle: the contract: one line that names the file or the folder."""
    make(tmp_path)
    with pytest.raises(DataError, match=message) as raised:
        open_source(f"stream:{tmp_path}", split)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_a_file_that_goes_away(tmp_path):
    """Oracle: the contract."""
    make_parquet(tmp_path / "train.parquet", range(6), [0, 1] * 3)
    make_tar(tmp_path / "tars" / "train.tar", {**sample(1, 1, 1), **sample(2, 2, 2)})
    for folder, file in ((tmp_path, tmp_path / "train.parquet"), (tmp_path / "tars", tmp_path / "tars" / "train.tar")):
        source = open_source(f"stream:{folder}", "train")
        file.unlink()
        with pytest.raises(DataError, match=f"{file}: cannot be read"):
            source.read(0)


THREADS = """
import os, sys
import pyarrow.parquet
from vggnet.data.sources.opening import open_source
before = len(os.listdir("/proc/self/task"))
open_source(sys.argv[1], "test").read(3)
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_a_parquet_file_is_read_without_threads_of_arrow(tmp_path):
    """They are kept once started. One of them that released a Python file at exit ended the process by SIGABRT."""
    make_parquet(tmp_path / "test.parquet", [0, 1, 2, 3], [0, 1, 0, 1])
    command = [sys.executable, "-c", THREADS, f"stream:{tmp_path}"]
    assert subprocess.check_output(command, text=True, timeout=100) == "0\n"


def test_what_is_no_data_set(tmp_path):
    """Oracle: the contract."""
    with pytest.raises(DataError, match="no such folder"):
        open_source(f"stream:{tmp_path / 'nothing'}", "train")
