"""Labels from a CSV file beside the images: a row for each image, with its file name and its label."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from vggnet.data.formats import is_image_name
from vggnet.data.sources.image_folder import FolderSource, Samples, divide_folder
from vggnet.data.sources.labels import Labels, Locate, class_labels, one_hot, read_labels
from vggnet.data.sources.layout import DIVIDED, Layout
from vggnet.data.sources.source import BY_NAME, Columns, Source, same_split, split_rank, usual_split
from vggnet.data.splits import Indices, Rule
from vggnet.data.walking import data_files, data_folders
from vggnet.errors import DataError

FIRST_CHOICES = ("metadata.csv", "labels.csv", "annotations.csv")
FILES = ("file_name", "filename", "file", "path", "image", "image_path", "filepath", "image_id", "img", "id", "name")
LABELS = ("label", "labels", "class", "class_name", "category", "target")
SPLIT = "split"
MISSING = ("", "nan")  # what stands for no label, in lower case


class Listing(NamedTuple):
    """The rows of a CSV file."""

    file: Path
    header: list[str]
    rows: list[list[str]]  # as long as the header
    first_line: int  # of the rows, in the file
    split: str | None = None  # only rows with this in the column SPLIT

    def column(self, name: str) -> list[str]:
        """The values of a column, without space around them."""
        place = self.header.index(name)
        return [row[place].strip() for row in self.rows]

    def file_column(self, columns: Columns) -> str | None:
        """The column of file names, if there is one."""
        return _chosen_column(self.header, columns.image, FILES)

    def label_column(self, columns: Columns) -> str | None:
        """The column of labels, if there is one."""
        return _chosen_column(self.header, columns.label, LABELS)


def find_listings(folder: Path) -> dict[str, Listing]:
    """Split -> the file that lists its images; the splits are `DIVIDED` if one file lists them all.

    A split has a file in its own folder, or one of its name, or rows with its name in a column `split`. Of several
    files, one called metadata, labels or annotations is meant.

    Args:
        folder: an existing folder.

    Returns:
        No split if there is no such file, or it has no column of file names.

    Raises:
        DataError: a file cannot be read.
    """
    folders = {split: folder / name for name in data_folders(folder) if (split := usual_split(name))}
    files = {split: file for split, below in folders.items() if (file := _chosen_file(_tables(below)))}
    files = files or {split: file for file in _tables(folder) if (split := usual_split(file.stem))}
    found = {split: _read(file) for split, file in files.items()}
    if not found and (file := _chosen_file(_tables(folder))):
        listing = _read(file)
        names = sorted(set(listing.column(SPLIT)) - {""}, key=split_rank) if SPLIT in listing.header else []
        found = {name: listing._replace(split=name) for name in names} or dict.fromkeys(DIVIDED, listing)
    return {split: found[split] for split in sorted(found, key=split_rank) if found[split].file_column(BY_NAME)}


def open_listing(folder: Path, split: str, *, columns: Columns = BY_NAME, rule: Rule = "content") -> Source:
    """One split of a folder whose images are labeled by a CSV file.

    Args:
        folder: an existing folder, as `find_listings` takes it.
        split: the name of the split.
        columns: of file names (image) and labels (label), where their names do not tell.
        rule: as `open_folder`.

    Raises:
        DataError: there is no such split; a row names no image, one that another row names, or no label.
    """
    listings = find_listings(folder)
    found = same_split(split, listings)
    if found is None:
        raise DataError(f"{folder}: no split {split!r}; expected one of {', '.join(listings)}.")
    is_divided = tuple(listings) == DIVIDED
    source = _open(folder, found, listings[found], columns, least=2 if is_divided or found == "train" else 1)
    if not is_divided or found == "all":
        return source
    part = divide_folder(source, rule)[DIVIDED.index(found)]
    return source.part(part)


class _Listed(FolderSource):
    """Images of a listing."""

    def __init__(self, listing: Listing, path: Path, split: str, classes: Sequence[str], samples: Samples) -> None:
        super().__init__(path, listing.file.parent, split, classes, samples, Layout({}, {}, ()))
        self._listing = listing
        self._listed = {file for file, _ in samples}

    def ignored(self) -> list[str]:
        below = data_files(self._listing.file.parent)
        return [str(file) for file in below if file not in self._listed and file != self._listing.file]

    def part(self, indices: Indices) -> "_Listed":
        """Some of the images; those that are left out are not ignored."""
        samples = [(Path(self._files[index]), int(self.labels[index])) for index in indices]
        part = _Listed(self._listing, self._path, self.split, self.classes, samples)
        part._listed = self._listed
        part.image_hashes = self.image_hashes[indices]  # not read twice
        return part


def _open(folder: Path, split: str, listing: Listing, columns: Columns, *, least: int) -> _Listed:
    where = str(listing.file)
    name = listing.file_column(columns)
    if name is None:
        raise DataError(f"{where}: no column of file names among {', '.join(listing.header)} (--image-column).")
    wanted = [not listing.split or row == listing.split for row in _splits(listing)]
    lines = [listing.first_line + place for place, is_wanted in enumerate(wanted) if is_wanted]
    names = [value for value, is_wanted in zip(listing.column(name), wanted, strict=True) if is_wanted]

    def locate(row: int) -> str:
        return f"line {lines[row]}"

    labels, told = _labels(listing, columns, name, wanted, locate)
    classes, numbers = class_labels(labels, None, told, locate, least=least)
    files = _files(listing.file.parent, names, where, locate)
    return _Listed(listing, folder, split, classes, list(zip(files, numbers.tolist(), strict=True)))


def _splits(listing: Listing) -> list[str]:
    return listing.column(SPLIT) if listing.split else [""] * len(listing.rows)


def _labels(
    listing: Listing, columns: Columns, file_column: str, wanted: Sequence[bool], locate: Locate
) -> tuple[Labels, str]:
    """The labels, and where they are from, for messages.  Raises: DataError."""
    chosen = listing.label_column(columns)
    if chosen is not None:
        told = f"{listing.file}: column {chosen!r}"
        values = [value for value, keep in zip(listing.column(chosen), wanted, strict=True) if keep]
        texts = pa.array([None if value.lower() in MISSING else value for value in values], pa.string())
        labels = read_labels(pa.chunked_array([texts]), told, locate)
        numeric = len(values) and np.char.isdecimal(labels.values).all()
        return (Labels(labels.values.astype(np.int64)) if numeric else labels), told
    others = [name for name in listing.header if name not in (file_column, SPLIT)]
    rows = [row for row, keep in zip(zip(*map(listing.column, others), strict=True), wanted, strict=True) if keep]
    places = one_hot(rows) if len(others) > 1 and rows else None
    if places is None:
        raise DataError(
            f"{listing.file}: no label column among {', '.join(listing.header)}; expected one named label. Name "
            "another with --label-column."
        )
    return Labels(places, others), f"{listing.file}: columns {', '.join(others[:3])}, ..."


def _files(folder: Path, names: Sequence[str], where: str, locate: Locate) -> list[Path]:
    """The image that each name means: by its path below the folder, or else by its name with or without a suffix.

    Raises: DataError
    """
    keys: dict[str, list[Path]] = {}
    for file in data_files(folder):
        if is_image_name(file):
            path = file.relative_to(folder)
            for key in {path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem}:
                keys.setdefault(normalize("NFC", key), []).append(file)
    files: list[Path] = []
    seen: dict[Path, int] = {}
    for row, name in enumerate(names):
        wanted = normalize("NFC", name.replace("\\", "/").removeprefix("./"))
        found = keys.get(wanted) or keys.get(wanted.rpartition("/")[2]) or []
        exact = [file for file in found if file.relative_to(folder).as_posix() == wanted] or found
        if len(exact) != 1:
            what = f"{len(exact)} images have this name" if exact else "no such image below the folder of this file"
            raise DataError(f"{where}: {locate(row)} names {name!r}, but {what}. Mend or remove the row.")
        if (first := seen.setdefault(exact[0], row)) != row:
            raise DataError(f"{where}: {locate(row)} and {locate(first)} name the same image, {name!r}. Remove one.")
        files.append(exact[0])
    return files


def _chosen_column(header: Sequence[str], given: str | None, usual: Sequence[str]) -> str | None:
    """Raises: DataError if the given one is not there."""
    if given is not None:
        if given not in header:
            raise DataError(f"no column {given!r}; the columns are {', '.join(header)}.")
        return given
    lower = {name.lower().replace(" ", "_"): name for name in reversed(header)}
    return next((lower[name] for name in usual if name in lower), None)


def _tables(folder: Path) -> list[Path]:
    return [file for file in data_files(folder) if file.parent == folder and file.suffix.lower() in (".csv", ".tsv")]


def _chosen_file(files: Sequence[Path]) -> Path | None:
    named = [file for name in FIRST_CHOICES for file in files if file.name.lower() == name]
    return named[0] if named else files[0] if len(files) == 1 else None


def _read(file: Path) -> Listing:
    """Raises: DataError."""
    try:
        content = file.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        text = content.decode(encoding, "surrogateescape").lstrip("\ufeff")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(map(str.strip, row))]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as CSV ({error}). Save it again, in UTF-8.") from error
    if not rows:
        return Listing(file, [], [], 1)
    header = [name.strip() for name in rows[0]]
    if len(rows[0]) == 2 and is_image_name(Path(header[0])):  # no header
        return Listing(file, [FILES[0], LABELS[0]], _even(file, rows, 2, 1), 1)
    return Listing(file, header, _even(file, rows[1:], len(header), 2), 2)


def _even(file: Path, rows: list[list[str]], width: int, first: int) -> list[list[str]]:
    """Raises: DataError for a row of another length."""
    for place, row in enumerate(rows):
        if len(row) != width:
            raise DataError(f"{file}: line {place + first} has {len(row)} values; expected {width}, as the first line.")
    return rows
