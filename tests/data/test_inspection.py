"""The report on a data set: counts, sizes, statistics, unreadable images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggnet.data.inspection import inspect
from vggnet.errors import DataError

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


@pytest.fixture
def pictures(tmp_path):
    """Two splits, three sizes; one image is cut short. Returns the folder and the readable pixels of train."""
    rng = np.random.default_rng(0)
    readable = []
    for split, name, height, width in [
        ("train", "cat", 4, 6),
        ("train", "cat", 8, 3),
        ("train", "dog", 5, 12),
        ("test", "cat", 2, 2),
        ("test", "dog", 2, 2),
    ]:
        folder = tmp_path / split / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{height}x{width}.png")
        if split == "train":
            readable.append(pixels.reshape(-1, 3))
    (tmp_path / "train" / "dog" / "cut.png").write_bytes((tmp_path / "train" / "dog" / "5x12.png").read_bytes()[:60])
    return tmp_path, np.concatenate(readable) / 255


def test_report(pictures):
    """Oracle: what was written, and NumPy over all pixels at once."""
    folder, pixels = pictures
    calls = []
    report = inspect(folder, progress=lambda done, total: calls.append((done, total)))
    train, test = report.splits
    assert (train.split, train.num_images, train.images_per_class) == ("train", 4, {"cat": 2, "dog": 2})
    assert (train.min_size, train.median_size, train.max_size) == ((3, 4), (6, 5), (12, 8))
    np.testing.assert_allclose(train.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(train.std, pixels.std(axis=0), rtol=1e-12)
    assert len(train.unreadable) == 1
    assert train.unreadable[0].startswith(
        f"{folder / 'train' / 'dog' / 'cut.png'}: the PNG data is damaged or truncated"
    )
    assert (test.split, test.num_images, test.unreadable) == ("test", 2, ())
    assert calls == [(done, 6) for done in range(1, 7)]


def test_files_that_are_not_taken_are_listed(pictures):
    """Oracle: what was put among the images: a format that is not read, a picture beside the class folders."""
    folder, _ = pictures
    assert inspect(folder).ignored == ()
    names = ["train/cat/photo.psd", "train/stray.png", "test/dog/notes.txt", "train/cat/.hidden"]
    for name in names:
        (folder / name).write_bytes(b"none")
    report = inspect(folder)
    assert set(report.ignored) == {str(folder / name) for name in names[:3]}
    assert report.as_table().splitlines()[-1] in report.ignored
    assert report.as_dict()["ignored"] == report.ignored


def test_what_decoding_leaves_out_is_said(pictures, monkeypatch):
    """Oracle: what was put there: 12 bits in a file of 16, and a JPEG above the limit."""
    folder, _ = pictures
    twelve = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(twelve).save(folder / "train" / "cat" / "twelve.png")
    Image.new("RGB", (64, 65)).save(folder / "train" / "cat" / "large.jpg")
    monkeypatch.setenv("VGGNET_MAX_PIXELS", "4096")
    report = inspect(folder)
    train, test = report.splits
    assert (train.bits, train.reduced, train.max_size) == ({12: 1}, 1, (64, 64))
    assert (test.bits, test.reduced) == ({}, 0)
    assert "train: 1 images use 12 bits a channel; their 8 highest are seen" in report.as_table()
    assert "train: 1 JPEGs have more than 4,096 pixels; they are seen reduced" in report.as_table()
    assert json.loads(json.dumps(report.as_dict()))["splits"][0]["bits"] == {"12": 1}


def test_report_for_machines_and_for_people(pictures):
    """Oracle: JSON keeps every value; the table shows each split, class and unreadable image."""
    folder, _ = pictures
    report = inspect(folder)
    values = json.loads(json.dumps(report.as_dict()))
    assert values["data"] == str(folder)
    assert values["splits"][0]["images_per_class"] == {"cat": 2, "dog": 2}
    assert values["splits"][0]["max_size"] == [12, 8]
    lines = report.as_table().splitlines()
    assert lines[3].split()[:6] == ["train", "4", "1", "3x4", "6x5", "12x8"]
    assert lines[4].split()[:6] == ["test", "2", "0", "2x2", "2x2", "2x2"]
    assert [line.split() for line in lines[6:9]] == [["class", "train", "test"], ["cat", "2", "1"], ["dog", "2", "1"]]
    assert lines[-1] == report.splits[0].unreadable[0]


def test_nothing_readable(tmp_path):
    """Oracle: the contract: a report, not an error, and no statistics of nothing."""
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "a.jpg").touch()
    (split,) = inspect(tmp_path).splits
    assert (split.num_images, len(split.unreadable)) == (2, 2)
    assert split.min_size is split.median_size is split.max_size is split.mean is split.std is None
    assert "the file is empty" in inspect(tmp_path).as_table()


def test_other_splits_are_not_read(tmp_path):
    """Oracle: the contract."""
    (tmp_path / "dump-00000-of-00001.parquet").touch()
    with pytest.raises(DataError, match="the splits are dump; expected at least one of train, val, validation, test"):
        inspect(tmp_path)


def test_digits():
    """Oracle: scikit-learn's description: 1,797 images."""
    report = inspect("digits")
    assert sum(split.num_images for split in report.splits) == 1797
    assert {split.min_size for split in report.splits} | {split.max_size for split in report.splits} == {(32, 32)}


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"needs CIFAR-10 as parquet files in {CIFAR10}")
def test_cifar10_statistics():
    """Oracle: the published mean and standard deviation of the training set."""
    train = inspect(CIFAR10).splits[0]
    assert (train.num_images, train.unreadable) == (50_000, ())
    np.testing.assert_allclose(train.mean, (0.4914, 0.4822, 0.4465), atol=5e-5)
    np.testing.assert_allclose(train.std, (0.2470, 0.2435, 0.2616), atol=5e-5)
