"""Which files are taken for images, and that each format is read."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggnet.data.decoding import decode_image
from vggnet.data.formats import IMAGE_SUFFIXES, image_files, left_out
from vggnet.errors import DataError, ImageError


def test_image_files(tmp_path):
    """Oracle: the listing by hand."""
    for name in ("b.PNG", "a.jpeg", "notes.txt", "deep/c.webp", "deep/folder.png/d.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = ["a.jpeg", "b.PNG", "deep/c.webp", "deep/folder.png/d.gif"]
    assert [str(file.relative_to(tmp_path)) for file in image_files([tmp_path])] == expected
    assert image_files([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]
    assert all(suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)


def test_what_is_hidden_is_no_data_and_the_rest_is_named(tmp_path):
    """Oracle: the listing by hand."""
    names = ("a.png", ".a.png", ".git/b.png", "__MACOSX/c.png", "d/__MACOSX/._e.png", "d/f.txt", "d/.g", "h", "i.PSD")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert image_files([tmp_path]) == [tmp_path / "a.png"]
    assert left_out([tmp_path]) == [str(tmp_path / name) for name in ("d/f.txt", "h", "i.PSD")]
    assert left_out([tmp_path / "d/f.txt"]) == []  # what is named by the user is read


def test_paths_of_every_kind(tmp_path, monkeypatch):
    """Oracle: the same folder by its full path."""
    (tmp_path / "a.png").touch()
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path.parent)
    for path in (str(tmp_path), f"~/{tmp_path.name}", Path("~") / tmp_path.name, tmp_path.name, f"./{tmp_path.name}/"):
        assert [file.absolute() for file in image_files([path])] == [tmp_path / "a.png"]


def test_image_files_refuses_nothing_to_read(tmp_path):
    """Oracle: the contract."""
    with pytest.raises(DataError, match="no images in this folder"):
        image_files([tmp_path])
    with pytest.raises(DataError, match="nowhere: does not exist"):
        image_files([Path("nowhere")])


FLAT = Image.new("RGB", (20, 12), (200, 60, 60))


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_read(tmp_path, suffix):
    """Oracle: the flat color put in."""
    file = tmp_path / f"photo{suffix.upper()}"
    if suffix in (".heic", ".heif"):
        pytest.importorskip("pillow_heif").from_pillow(FLAT).save(file, quality=100)
    else:
        kinds = {".jpe": "JPEG", ".jfif": "JPEG", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM"}
        modes = {".pgm": "L", ".pbm": "1"}
        FLAT.convert(modes.get(suffix, "RGB")).save(file, kinds.get(suffix))
    image = decode_image(file)
    assert image.mode == "RGB"
    expected = np.asarray(FLAT.convert("L" if suffix == ".pgm" else "RGB").convert("RGB")).astype(int)
    if suffix not in (".pbm", ".gif"):
        assert abs(np.asarray(image) - expected).max() <= 4
    assert image_files([tmp_path]) == [file]


def test_heic_without_its_library_says_what_to_install(monkeypatch):
    """Oracle: the contract. The bytes are the start of a HEIC file (ISO/IEC 23008-12)."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    start = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with pytest.raises(ImageError, match=r"photo: is a HEIC image: .*pip install 'vggnet\[heic\]'"):
        decode_image(start, name="photo")


def test_damaged_heic_is_one_line():
    """Oracle: the contract."""
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    heif.from_pillow(FLAT).save(stream)
    whole = stream.getvalue()
    for damaged in (whole[:60], whole[: len(whole) // 2], whole[:-8]):
        with pytest.raises(ImageError, match=r"^photo: .*"):
            decode_image(damaged, name="photo")


def test_only_the_first_page_of_a_scan():
    """Oracle: the color of the first page."""
    stream = io.BytesIO()
    FLAT.save(stream, "TIFF", save_all=True, append_images=[Image.new("RGB", (5, 5))])
    assert np.unique(np.asarray(decode_image(stream.getvalue())).reshape(-1, 3), axis=0).tolist() == [[200, 60, 60]]
