"""Which files are images: formats allow-listed, their suffixes, and what is found in folders."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageFile

from vggnet.data.walking import data_files
from vggnet.errors import DataError, require

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
}
IMAGE_SUFFIXES = (*(suffix for of in SUFFIXES.values() for suffix in of), ".heic", ".heif")
EXPECTED = "expected a JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF or HEIC image"
START = 16  # bytes, which tell the format
SHOWN = 5  # files that are named of those left out

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def image_files(paths: Iterable[Path | str]) -> list[Path]:
    """Files as given; each folder replaced by the image files below it (IMAGE_SUFFIXES), sorted.

    Hidden files and folders, `__MACOSX` and run folders are no data (`data_files`). `~` is the home folder.

    Raises: DataError if a path does not exist or a folder has no images.
    """
    files: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            found = [file for file in visible_files(path) if is_image_name(file)]
            if not found:
                raise DataError(
                    f"{path}: no images in this folder; expected files named *{', *'.join(IMAGE_SUFFIXES)}."
                )
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path}: does not exist; expected an image file or a folder of images.")
    return files


def left_out(paths: Iterable[Path | str]) -> list[str]:
    """The files below folders that `image_files` does not take for images, for they are not named so."""
    folders = [path for path in (Path(path).expanduser() for path in paths) if path.is_dir()]
    return [str(file) for folder in folders for file in visible_files(folder) if not is_image_name(file)]


def left_out_text(files: Sequence[str]) -> str:
    """How many files are left out, and the first of them.

    Example:
        >>> left_out_text(["a.txt", "b.psd"])
        '2 files are left out, as they are not named as images are or lie elsewhere: a.txt, b.psd'
    """
    more = f", ... {len(files) - SHOWN:,} more" if len(files) > SHOWN else ""
    count = "1 file is left out, as it is" if len(files) == 1 else f"{len(files):,} files are left out, as they are"
    lie = "lies" if len(files) == 1 else "lie"
    return f"{count} not named as images are or {lie} elsewhere: {', '.join(files[:SHOWN])}{more}"


def is_image_name(file: Path) -> bool:
    """Whether it is named as an image is (IMAGE_SUFFIXES)."""
    return file.suffix.lower() in IMAGE_SUFFIXES


def visible_files(folder: Path) -> list[Path]:
    """The files of `data_files`, sorted, as far as they exist."""
    return sorted(file for file in data_files(folder) if file.is_file())


def first_bytes(file: Path | bytes) -> bytes:
    """Up to START bytes.  Raises: OSError."""
    if isinstance(file, bytes):
        return file[:START]
    with file.open("rb") as stream:
        return stream.read(START)


def is_heic(file: Path | bytes) -> bool:
    """Whether the file starts as HEIC does. Some AVIF files start so as well."""
    start = first_bytes(file)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS


def open_heic(file: Path | bytes) -> ImageFile.ImageFile:
    """Open an image with pillow-heif.  Raises: MissingDependencyError; whatever the reader runs into."""
    require("pillow_heif", "heic").register_heif_opener()
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=("HEIF",))


def open_large(file: Path | bytes) -> ImageFile.ImageFile:
    """Open an image without Pillow's own limit of pixels.  Raises: SyntaxError; whatever the reader runs into."""
    start = first_bytes(file)
    accepting = (Image.OPEN[name] for name in SUFFIXES)
    factory = next(factory for factory, accepts in accepting if accepts is None or accepts(start) is True)
    if isinstance(file, bytes):
        return factory(io.BytesIO(file), "")
    return factory(file, str(file))  # type: ignore[arg-type]  # as for a stream, but it closes the file
