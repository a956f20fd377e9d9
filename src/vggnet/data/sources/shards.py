"""Parquet files and WebDataset tars as streams: how their files are found, and what their groups of images are.

From the hub, row groups of parquet files are fetched one by one, and nothing is kept on the disk. They, and the images
of a tar, are reached directly, and so is any step of any epoch. Hugging Face's own streaming and the library WebDataset
read files from their start, and fill a buffer of shuffled images that is lost with the process.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow.parquet  # type: ignore[import-untyped]
from numpy.typing import NDArray

from vggnet.data.formats import IMAGE_SUFFIXES
from vggnet.data.sources.columns import class_names, find_columns
from vggnet.data.sources.labels import Labels, class_labels, read_labels
from vggnet.data.sources.parquet import (
    check_complete,
    parquet_files,
    reason,
)
from vggnet.data.sources.source import BY_NAME, Columns, same_split, split_rank, usual_split
from vggnet.data.sources.stream import Group, Stream
from vggnet.errors import DataError, require

TAR_GROUP = 256  # images of a tar file that are read together
OPENERS = 16  # files whose labels are read at a time
MAX_LABEL = 1000  # bytes of the file that holds a class

_SAMPLE = re.compile(r"((?:.*/)?[^/.][^/.]*)\.([^/]+)")  # WebDataset: what comes before the first dot is the sample
_LAYOUT = "expected train-*.parquet, or train-*.tar as WebDataset has them (KEY.jpg and KEY.cls)"

File = Path | str  # in a folder, or hf://...


class Shards(NamedTuple):
    """The files of a set, by split."""

    name: str
    files: dict[str, list[File]]
    schema: Any  # of the tables, if the hub knows it


class _Part(NamedTuple):
    """What is known of one file from the start."""

    groups: Sequence[Group]
    labels: Labels  # of its images


def find_shards(folder: Path | None, dataset_id: str | None) -> Shards:
    """The files in `folder`, or of a data set on the Hugging Face hub (see `open_hub` for `folder` then).

    Raises: DataError if there are none, or the hub cannot be asked.
    """
    if dataset_id is not None:
        from vggnet.data.sources.huggingface import hub_shards

        files, schema = hub_shards(dataset_id, folder)
        others = sorted({Path(str(file)).suffix for of in files.values() for file in of} - {".parquet"})
        if others:
            raise DataError(f"{dataset_id}: its files are {', '.join(others)}; from the hub only parquet is streamed.")
        return Shards(dataset_id, {split: list(files[split]) for split in sorted(files, key=split_rank)}, schema)
    assert folder is not None
    found = parquet_files(folder) or _tar_files(folder)
    if not found:
        raise DataError(f"{folder}: nothing to stream; {_LAYOUT}. Other folders of images need no stream:.")
    return Shards(str(folder), {split: list(files) for split, files in found.items()}, None)


def open_shards(folder: Path | None, dataset_id: str | None, split: str, *, columns: Columns = BY_NAME) -> Stream:
    """One split as a stream. The labels of all images are read, and no image. `columns`: as `open_parquet`.

    Raises: DataError as `find_shards`; if the split or one of its files is missing, a file is damaged, or there are no
        images and labels.
    """
    shards = find_shards(folder, dataset_id)
    split = same_split(split, shards.files) or split
    if split not in shards.files:
        raise DataError(f"{shards.name}: no split {split!r}; expected one of {', '.join(shards.files)}.")
    files, where = shards.files[split], f"{shards.name}, split {split}"
    if folder is not None and dataset_id is None:
        check_complete(folder, [Path(file) for file in files])
    if str(files[0]).endswith(".tar"):
        column, names, parts = "the files *.cls", None, [_index_tar(Path(file)) for file in files]
    else:
        column, names, parts = _index_parquet(files, shards.schema, where, columns)
    values = np.concatenate([part.labels.values for part in parts])
    if values.dtype.kind == "U" and np.char.isdecimal(values).all():
        values = values.astype(np.int64)  # so that class 9 comes before class 10
    if not len(values):
        raise DataError(f"{where}: no rows; expected images and labels.")
    least = 1 if "train" in shards.files and split != "train" else 2  # a test may lack classes
    labels_read = Labels(values, parts[0].labels.names)
    classes, labels = class_labels(labels_read, names, f"{where}: {column}", "image {}".format, least=least)
    return Stream(
        [group for part in parts for group in part.groups],
        name=shards.name,
        split=split,
        classes=classes,
        labels=labels,
        fingerprint=_fingerprint(files, classes, labels),
    )


def _fingerprint(files: Sequence[File], classes: Sequence[str], labels: NDArray[np.int64]) -> str:
    """Of names, sizes and times of files; the address of one on the hub has its revision."""
    digest = blake2b("\0".join(classes).encode(errors="surrogateescape") + labels.tobytes(), digest_size=8)
    for file in files:
        status = file.stat() if isinstance(file, Path) else None
        known = f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}" if isinstance(file, Path) and status else file
        digest.update(f"{known}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


# parquet files


class _RowGroup:
    """A row group of a parquet file: its column of images."""

    def __init__(self, file: File, metadata: Any, number: int, first: int, column: str) -> None:
        self.file = file
        self.metadata = metadata  # of the file, so that it is not read again
        self.number = number
        self.first = first  # row of the file
        self.column = column  # or a field of it

    def __len__(self) -> int:
        return int(self.metadata.row_group(self.number).num_rows)

    def read(self) -> list[bytes]:
        with _parquet(self.file, self.metadata) as opened:
            (column,) = opened.read_row_group(self.number, columns=[self.column], use_threads=False).columns
        rows = column.to_pylist()
        return [(row.get("bytes") if isinstance(row, dict) else row) or b"" for row in rows]

    def describe(self, place: int) -> str:
        return f"{self.file}, row {self.first + place}"


def _index_parquet(
    files: Sequence[File], schema: Any, where: str, columns: Columns
) -> tuple[str, list[str] | None, list[_Part]]:
    """The label column and the names of the classes, and the row groups and labels of each file."""
    with _parquet(files[0]) as first:
        schema = schema or first.schema_arrow
    image, label = find_columns(schema, where, columns)
    image_path = f"{image}.bytes" if pyarrow.types.is_struct(schema.field(image).type) else image

    def index(file: File) -> _Part:
        with _parquet(file) as opened:
            metadata, column = opened.metadata, opened.read(columns=[label], use_threads=False)[label]
        labels = read_labels(column, f"{file}: column {label!r}")
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        firsts = np.cumsum([0, *rows]).tolist()
        groups = [_RowGroup(file, metadata, number, firsts[number], image_path) for number in range(len(rows))]
        return _Part(groups, labels)

    with ThreadPoolExecutor(OPENERS) as pool:
        return f"column {label!r}", class_names(schema, label), list(pool.map(index, files))


@contextmanager
def _parquet(file: File, metadata: Any = None) -> Iterator[Any]:
    """To be read by this thread alone: one of Arrow's that releases the file while Python ends aborts the process.

    Raises: DataError if it is damaged or cannot be reached.
    """
    try:
        with _opened(file) as opened:
            yield pyarrow.parquet.ParquetFile(opened, metadata=metadata, pre_buffer=False)
    except Exception as error:  # of whichever part of the format is damaged, or of the hub's HTTP library
        raise DataError(
            f"{file}: cannot be read as parquet ({reason(error)}). Copy it again, or come back when it can be reached."
        ) from error


def _opened(file: File) -> IO[bytes]:
    """From the hub, only what is asked for is fetched, where by default it is five megabytes more."""
    if isinstance(file, Path):
        return file.open("rb")
    files, path = require("fsspec", "hub").url_to_fs(file)
    opened: IO[bytes] = files.open(path, "rb", cache_type="none")
    return opened


# WebDataset tars


class _TarGroup:
    """Images that follow each other in a tar file."""

    def __init__(
        self, file: Path, names: NDArray[np.bytes_], offsets: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> None:
        self.file = file
        self.names = names  # UTF-8
        self.offsets = offsets  # bytes
        self.sizes = sizes  # bytes

    def __len__(self) -> int:
        return len(self.names)

    def read(self) -> list[bytes]:
        try:
            with self.file.open("rb") as opened:
                return [_bytes(opened, *at) for at in zip(self.offsets.tolist(), self.sizes.tolist(), strict=True)]
        except OSError as error:
            raise DataError(f"{self.file}: cannot be read ({reason(error)}). Restore it.") from error

    def describe(self, place: int) -> str:
        return f"{self.file}, {self.names[place].decode(errors='surrogateescape')}"


def _bytes(opened: IO[bytes], offset: int, size: int) -> bytes:
    opened.seek(offset)
    return opened.read(size)


def _index_tar(file: Path) -> _Part:
    """Where the images of a tar file lie, from its headers, and their labels."""
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                match = _SAMPLE.fullmatch(member.name)
                if match and member.isreg():
                    kind = _kind(match[2].lower())
                    samples.setdefault(match[1], {}).setdefault(kind, _label(tar, member) if kind == "cls" else member)
            _require_end(tar)
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{file}: not a whole tar file without compression ({reason(error)}). Copy it again."
        ) from error
    lacking = next((key for key, sample in samples.items() if not {"image", "cls"} <= sample.keys()), None)
    if lacking is not None or not samples:
        raise DataError(f"{file}: {lacking or 'has no images, or one'} lacks its image or class; {_LAYOUT}.")
    images = [sample["image"] for sample in samples.values()]
    names = np.array([image.name.encode(errors="surrogateescape") for image in images])
    offsets, sizes = np.array([(image.offset_data, image.size) for image in images]).T
    parts = [slice(first, first + TAR_GROUP) for first in range(0, len(images), TAR_GROUP)]
    labels = [sample["cls"] for sample in samples.values()]
    return _Part([_TarGroup(file, names[part], offsets[part], sizes[part]) for part in parts], Labels(np.array(labels)))


def _require_end(tar: tarfile.TarFile) -> None:
    """A tar file ends with zeros; anything else looks like the end to `tarfile`.  Raises: TarError."""
    assert tar.fileobj is not None  # it was opened for reading
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.TarError(f"no header and no end at byte {tar.offset:,}")


def _kind(extension: str) -> str:
    return "image" if extension.endswith(IMAGE_SUFFIXES) or f".{extension}" in IMAGE_SUFFIXES else extension


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member)
    assert content is not None  # a regular file
    return content.read(MAX_LABEL).decode(errors="replace").strip()


def _tar_files(folder: Path) -> dict[str, list[Path]]:
    """Split -> its files: train for `train-0000.tar` and for `imagenet-train-0000.tar`."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.tar")):
        words = re.split(r"[-_.]", file.name)
        found.setdefault(next(filter(usual_split, words), words[0]), []).append(file)
    return {split: found[split] for split in sorted(found, key=split_rank)}
