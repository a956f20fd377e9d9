"""Images in every form that a caller has them: the same pixels, with a name for messages."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from vggnet.data.images import named_pictures, read_picture, read_pixels
from vggnet.data.preprocess import Preprocess
from vggnet.errors import DataError, ImageError, InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
PREPROCESS = Preprocess(resize=9, crop=9)


@pytest.fixture
def file(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_every_form_gives_the_same_picture(file):
    """Oracle: the array that was written."""
    forms = [
        file,
        str(file),
        file.read_bytes(),
        io.BytesIO(file.read_bytes()),
        Image.fromarray(PIXELS),
        PIXELS,
        torch.from_numpy(PIXELS).permute(2, 0, 1),
    ]
    named = list(named_pictures(forms))
    assert [name for name, _ in named] == [str(file), str(file), *(f"image {number}" for number in range(3, 8))]
    for each in named:
        assert np.array_equal(np.asarray(read_picture(*each)), PIXELS)
        assert torch.equal(read_pixels(each, PREPROCESS), torch.from_numpy(PIXELS[:, 2:11]).permute(2, 0, 1))


@pytest.mark.parametrize("form", [lambda file: file, str, lambda file: file.read_bytes(), lambda file: file.open("rb")])
def test_one_is_a_list_of_one(file, form):
    """Oracle: the file itself."""
    given = form(file)
    ((_, image),) = named_pictures(given)
    if hasattr(given, "close"):
        given.close()
    assert np.array_equal(np.asarray(read_picture("one", image)), PIXELS)


def test_a_batch_is_a_list_of_its_images():
    """Oracle: the arrays."""
    batch = np.stack([PIXELS, PIXELS[::-1]])
    for given in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
        named = list(named_pictures(given))
        assert [name for name, _ in named] == ["image 1", "image 2"]
        assert [np.asarray(image).tolist() for _, image in named] == batch.tolist()


def test_a_folder_stands_for_its_images(file, tmp_path, monkeypatch):
    """Oracle: the files that were written; `~` is the home folder."""
    (tmp_path / "deeper").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "deeper" / "a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = [str(tmp_path / "deeper" / "a.jpg"), str(file)]
    for given in (tmp_path, str(tmp_path), "~"):
        assert [name for name, _ in named_pictures(given)] == expected
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in this folder"):
        list(named_pictures(tmp_path / "empty"))


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), np.zeros((4, 4, 2), np.uint8)])
def test_arrays_that_are_no_images(image):
    """Oracle: the contract."""
    with pytest.raises(InputError, match="expected a PIL image"):
        list(named_pictures(image))


class Failing(io.BytesIO):
    def read(self, *_):
        raise OSError("the drive is gone")


def test_one_of_several_that_cannot_be_read_is_an_error_of_its_own(file):
    """Oracle: the good picture among them is read as alone."""
    cut = Image.open(io.BytesIO(file.read_bytes()[:200]))
    closed = Image.open(file)
    closed.close()
    ended = io.BytesIO(file.read_bytes())
    ended.close()
    bad = [
        np.zeros((4, 4, 3)),
        torch.zeros(3, 4, 4),
        np.zeros((0, 4, 3), np.uint8),
        b"none",
        Failing(),
        ended,
        io.StringIO("text"),
        cut,
        closed,
        Image.new("RGB", (0, 5)),
        Image.fromarray(np.full((4, 4), np.nan, np.float32)),
        None,
        7,
        "x" * 5000,
        "a\0b.png",
        file.parent / "missing.png",
    ]
    named = list(named_pictures([*bad, file]))
    assert len(named) == len(bad) + 1
    *errors, last = (read_pixels(each, PREPROCESS) for each in named)
    assert torch.equal(last, torch.from_numpy(PIXELS[:, 2:11]).permute(2, 0, 1))
    for (name, _), error, given in zip(named, errors, bad, strict=False):
        assert isinstance(error, ImageError), given
        assert str(error).startswith(f"{name}: ")
        assert "\n" not in str(error)
        with pytest.raises(ImageError):
            read_picture(name, dict(named)[name])


@pytest.mark.parametrize("image", [None, 7, io.StringIO("text")])
def test_a_single_thing_that_is_no_image(image):
    """Oracle: the contract."""
    with pytest.raises(InputError, match="expected a path, the bytes"):
        list(named_pictures(image))


def test_errors_carry_the_name_of_their_image(tmp_path):
    """Oracle: the name, once, whoever found the mistake; also after the way from another process."""
    long = Image.new("RGB", (60_000, 2))
    cases = [
        ("image 1", b"none", "unknown format"),
        (str(tmp_path / "missing.png"), tmp_path / "missing.png", "does not exist"),
        ("image 2", long, "too elongated"),
    ]
    for name, image, reason in cases:
        error = read_pixels((name, image), Preprocess())
        assert isinstance(error, ImageError)
        for found in (error, error.named("another"), pickle.loads(pickle.dumps(error))):
            assert found.name == name
            assert str(found).startswith(f"{name}: ")
            assert str(found).count(name) == 1
            assert reason in found.reason
    assert (ImageError("bad").name, str(ImageError("bad"))) == (None, "bad")
