"""The array of small images: every image once, kept on the disk, with the errors of those that cannot be read."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from vggnet.data import decoded as arrays
from vggnet.data.decoded import decode_all, decoded, forget_decoded, recall
from vggnet.data.decoding import StoredImage
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.image_folder import open_folder
from vggnet.data.sources.source import Source
from vggnet.errors import DataError, ImageError

PREPROCESS = Preprocess(resize=8, crop=8)


class Flat(Source):
    """Flat images whose gray value is their index; those in `bad` cannot be read."""

    def __init__(self, count, bad=(), place="here", away=()):
        super().__init__(name="flat", split="train", classes=("a", "b"), labels=np.arange(count) % 2)
        self.bad, self.place, self.opened, self.away = set(bad), place, [], set(away)

    def open(self, index):
        self.opened.append(index)
        if index in self.bad:
            raise ImageError("broken")
        if index in self.away:
            raise ImageError("away", may_pass=True)
        return StoredImage(Image.new("RGB", (10, 12), (index,) * 3), self.describe(index))

    def describe(self, index):
        return f"{self.place}, image {index}"

    @property
    def fingerprint(self):
        return f"{len(self)}-{sorted(self.bad)}"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    forget_decoded()
    yield tmp_path / "cache" / "decoded"
    forget_decoded()


def test_every_image_is_decoded_once(cache):
    """Oracle: the indices; the second time nothing is opened, whether the process is another one or not."""
    source = Flat(5)
    pixels = decoded(source, PREPROCESS)
    assert pixels.shape == (5, 3, 8, 8)
    assert pixels[:, 0, 3, 3].tolist() == [0, 1, 2, 3, 4]
    assert sorted(source.opened) == [0, 1, 2, 3, 4]
    assert decoded(source, PREPROCESS) is pixels
    forget_decoded()
    assert torch.equal(decoded(source, PREPROCESS), pixels)
    assert len(source.opened) == 5
    assert len(list(cache.iterdir())) == 1


def test_another_preprocessing_is_another_array(cache):
    """Oracle: the number of files; statistics make no difference to pixels."""
    source = Flat(2)
    for fields in ({}, {"mean": (0.1, 0.1, 0.1)}, {"resize": 9}, {"crop": 7}, {"interpolation": "bicubic"}):
        decode_all(source, Preprocess(**{"resize": 8, "crop": 8} | fields))
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", ["cut", "other", "json"])
def test_a_damaged_cache_is_made_again(cache, damage):
    """Oracle: the pixels before."""
    expected = decoded(Flat(3), PREPROCESS).clone()
    forget_decoded()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[:-40], "other": b"none", "json": whole + b"{"}[damage])
    assert torch.equal(decoded(Flat(3), PREPROCESS), expected)


def test_errors_are_kept_and_name_the_place_of_today(cache):
    """Oracle: the reasons; the data set has been moved since, and no image is opened again."""
    source, moved = Flat(4, bad={1, 3}), Flat(4, bad={1, 3}, place="there")
    found = decode_all(source, PREPROCESS)
    assert {index: str(error) for index, error in found.bad.items()} == {
        1: "here, image 1: broken",
        3: "here, image 3: broken",
    }
    again = decode_all(moved, PREPROCESS)
    assert [str(again.bad[index]) for index in (1, 3)] == ["there, image 1: broken", "there, image 3: broken"]
    assert again.pixels[3].sum() == 0
    assert moved.opened == []
    with pytest.raises(ImageError, match="^there, image 1: broken$"):
        decoded(moved, PREPROCESS)


def test_an_error_that_passes_is_not_kept(cache):
    """Oracle: the images: those that could not be reached are opened again, and no others; then all are there."""
    found = decode_all(Flat(5, bad={1}, away={2, 3}), PREPROCESS)
    assert {index: error.reason for index, error in found.bad.items()} == {1: "broken", 2: "away", 3: "away"}
    for away, opened in (({3}, [2, 3]), (set(), [3]), (set(), [])):
        forget_decoded()
        source = Flat(5, bad={1}, away=away)
        found = decode_all(source, PREPROCESS)
        assert sorted(source.opened) == opened
        assert found.bad.keys() == {1} | away
        assert found.pixels[:, 0, 0, 0].tolist() == [0, 0, 2, 0 if away else 3, 4]
    assert len(list(cache.iterdir())) == 1


def test_nothing_can_be_reached_now(cache):
    """Oracle: the contract: one line now, and all images later."""
    with pytest.raises(DataError, match="none of its 2 images can be read"):
        decode_all(Flat(2, away={0, 1}), PREPROCESS)
    assert decoded(Flat(2), PREPROCESS)[:, 0, 0, 0].tolist() == [0, 1]


@pytest.mark.parametrize("change", ["size and time", "permission"])
def test_folders_that_look_the_same_are_told_apart(cache, tmp_path, change):
    """Oracle: the pixels of the files: other ones of the same names, sizes and times; one that could not be read."""
    for place, gray in (("first", 10), ("second", 20)):
        for name in ("cat", "dog"):
            file = tmp_path / place / "train" / name / "0.bmp"
            file.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (gray, gray, gray)).save(file)
            os.utime(file, ns=(0, 10**18))
    if change == "permission":
        away = tmp_path / "second" / "train" / "cat" / "0.bmp"
        away.rename(away.with_suffix(".away"))
        away.symlink_to("0.missing.bmp")
        assert decode_all(open_folder(tmp_path / "second", "train"), PREPROCESS).bad.keys() == {0}
        away.unlink()
        away.with_suffix(".away").rename(away)
    for place, gray in (("first", 10), ("second", 20)):
        assert decoded(open_folder(tmp_path / place, "train"), PREPROCESS).unique().tolist() == [gray]


def test_the_cache_of_version_0_1(cache):
    """Oracle: the file as that version wrote it, with errors (read anew) and without (kept)."""
    array = np.full((2, 3, 8, 8), 7, np.uint8)
    for count, stored, expected in ((2, {}, 7), (2, {"1": "/old/place, image 1: broken"}, 0)):
        source = Flat(count, bad={int(index) for index in stored})
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{arrays._key(source, PREPROCESS)}.npy").open("wb") as file:
            np.save(file, array)
            file.write(json.dumps(stored).encode())
        found = decode_all(source, PREPROCESS)
        assert found.pixels[0].unique().tolist() == [expected]
        assert [str(error) for error in found.bad.values()] == ["here, image 1: broken"] * len(stored)


def test_no_image_can_be_read():
    """Oracle: the contract."""
    with pytest.raises(DataError, match=r"none of its 2 images can be read\. The first is here, image 0: broken"):
        decode_all(Flat(2, bad={0, 1}), PREPROCESS)


def test_without_a_place_for_a_cache(tmp_path, monkeypatch):
    """Oracle: the pixels; a file where the folder should be."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "file"))
    assert decoded(Flat(3), PREPROCESS)[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_progress(capfd, monkeypatch):
    """Oracle: the contract: nothing is shown with False, also on a terminal, and a callable hears of every image."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    heard = []
    decode_all(Flat(3), PREPROCESS, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(1, 3), (2, 3), (3, 3)]
    decode_all(Flat(4), PREPROCESS)
    decode_all(Flat(5), PREPROCESS, progress=False)
    assert capfd.readouterr() == ("", "")


def test_the_two_used_last_are_kept():
    """Oracle: by hand."""
    made, kept = [], {}
    for key in "abacab":
        assert recall(kept, key, lambda key=key: made.append(key) or key.upper()) == key.upper()
    assert made == ["a", "b", "c", "b"]
