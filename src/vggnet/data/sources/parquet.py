"""Parquet files in the Hugging Face image layout, from a folder or from the hub, through the `datasets` library."""

import atexit
import glob
import os
import re
import reprlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from hashlib import blake2b
from numbers import Number
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet  # type: ignore[import-untyped]
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from numpy.typing import NDArray

from vggnet.data.decoding import StoredImage, open_image
from vggnet.data.sources.source import Source, split_rank
from vggnet.errors import DataError, ImageError

_HUB_TIMEOUT = 5.0  # seconds
_BOX_COLUMN = "box"  # pixels counted from 0, the last ones included; a list of four numbers, or a struct
_BOX_NAMES = ("xmin", "ymin", "xmax", "ymax")
_LABEL_COLUMNS = ("label", "fine_label", "labels")


def parquet_files(path: Path) -> dict[str, list[Path]]:
    """Split -> its files (`train-00000-of-00003.parquet` or `train.parquet`) in `path` or in `path/data`."""
    found: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet")):
        found.setdefault(re.split(r"[-.]", file.name)[0], []).append(file)
    return {split: found[split] for split in sorted(found, key=split_rank)}


def open_parquet(path: Path, split: str) -> Source:
    """One split of a folder of parquet files; the files of other splits may be missing.

    Raises: DataError if the split or one of its files is missing, a file is damaged, or there are no images and labels.
    """
    found = parquet_files(path)
    if not found:
        raise DataError(f"{path}: no parquet files; expected names such as train-00000-of-00001.parquet.")
    if split not in found:
        raise DataError(f"{path}: no split {split!r}; expected one of {', '.join(found)}.")
    files = found[split]
    check_complete(path, files)
    names = {split: [glob.escape(str(file)) for file in files]}
    try:
        with _quiet():
            data = datasets.load_dataset("parquet", data_files=names, split=split, cache_dir=_cache_folder())
    except Exception as error:  # whatever reading and writing tables runs into
        if not sum(map(_count_rows, files)):
            raise DataError(f"{path}: no rows in split {split!r}; expected images and labels.") from error
        raise DataError(
            f"{path}: split {split!r} cannot be read ({reason(error)}); expected tables of images."
        ) from error
    return _source(data, str(path), split)


def hub_splits(dataset_id: str, *, folder: Path | None = None) -> tuple[str, ...]:
    """The splits of a data set on the Hugging Face hub.  Raises and `folder`: as open_hub."""
    return tuple(sorted(from_hub(datasets.get_dataset_split_names, dataset_id, folder), key=split_rank))


def open_hub(dataset_id: str, split: str, *, folder: Path | None = None) -> Source:
    """One split of a data set on the Hugging Face hub, kept in that library's cache. No code from the hub is run.

    `folder` is named in the advice of an error: where this data set is looked for before the hub is asked.
    Raises: DataError if the hub cannot be reached, the id or split is unknown, or there are no images and labels.
    """
    data = from_hub(datasets.load_dataset, dataset_id, folder, split=split, cache_dir=_cache_folder())
    return _source(data, dataset_id, split)


class _Rows(Source):
    def __init__(
        self, data: Any, image: str, *, name: str, split: str, classes: list[str], labels: NDArray[np.int64]
    ) -> None:
        super().__init__(name=name, split=split, classes=classes, labels=labels)
        self._rows = data.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        self._image = image
        self._box_rows = data.select_columns([_BOX_COLUMN]) if _BOX_COLUMN in data.features else None

    def boxes(self) -> NDArray[np.float64]:
        if self._box_rows is None:
            return super().boxes()
        boxes = [_numbers_of(row[_BOX_COLUMN], self.describe(index)) for index, row in enumerate(self._box_rows)]
        edges: NDArray[np.float64] = np.array(boxes, dtype=np.float64) + np.array([0, 0, 1, 1])
        return edges

    def open(self, index: int) -> StoredImage:
        encoded = (self._rows[index][self._image] or {}).get("bytes")
        if encoded is None:
            raise ImageError("no image bytes in this row; expected an encoded image.", name=self.describe(index))
        return open_image(encoded, name=self.describe(index))

    def describe(self, index: int) -> str:
        return f"{self.name}, split {self.split}, row {index}"

    @cached_property
    def fingerprint(self) -> str:
        """Of the contents alone: the same from a folder and from the hub, whatever the files are called."""
        digest = blake2b("\0".join(self.classes).encode() + self.labels.tobytes(), digest_size=8)
        for table in self._rows.with_format("arrow").iter(batch_size=256):
            for row in table[self._image].to_pylist():
                encoded = (row or {}).get("bytes") or b""
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()


def _numbers_of(box: Any, where: str) -> list[Any]:
    """The numbers of a box, in order.  Raises: DataError."""
    values = [box[name] for name in _BOX_NAMES] if isinstance(box, dict) and set(box) == set(_BOX_NAMES) else box
    if isinstance(values, list) and len(values) == 4 and all(map(_is_number, values)):
        return values
    raise DataError(f"{where}: the box is {reprlib.repr(box)}; expected four numbers, {', '.join(_BOX_NAMES)}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)


def _source(data: Any, name: str, split: str) -> Source:
    where = f"{name}, split {split}"
    if not len(data):
        raise DataError(f"{where}: no rows; expected images and labels.")
    image, label = image_column(data.features, where), label_column(data.features, where)
    values = data.with_format("numpy")[label][:]
    if data.data.column(label).null_count:
        raise DataError(f"{where}: column {label!r} has empty rows; expected a label in every row.")
    classes, labels = class_labels(values, data.features[label], where, f"column {label!r}")
    return _Rows(data, image, name=name, split=split, classes=classes, labels=labels)


def class_labels(values: NDArray[Any], feature: Any, where: str, column: str) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the classes and the label of each image, from the values of a column; a ClassLabel has names.

    where, column: for messages.
    Raises: DataError if there are fewer than two classes, or there are labels beyond the names.
    """
    if isinstance(feature, datasets.ClassLabel):
        classes, labels = list(feature.names), values.astype(np.int64)
    else:
        unique, labels = np.unique(values, return_inverse=True)
        classes = [str(value) for value in unique]
    if len(classes) < 2:
        raise DataError(f"{where}: {len(classes)} class in {column}; expected at least two.")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(
            f"{where}: {column} has labels outside its classes; expected 0 to {len(classes) - 1} everywhere."
        )
    return classes, labels.astype(np.int64)


def image_column(features: Any, where: str) -> str:
    """The name of the column of encoded images.  Raises: DataError."""
    for name, feature in features.items():
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature):
            return str(name)
    raise DataError(f"{where}: no image column among {', '.join(features)}; expected one with encoded images (bytes).")


def label_column(features: Any, where: str) -> str:
    """The name of the column of labels.  Raises: DataError."""
    for name in _LABEL_COLUMNS:
        if name in features:
            return name
    for name, feature in features.items():
        if isinstance(feature, datasets.ClassLabel):
            return str(name)
    raise DataError(f"{where}: no label column among {', '.join(features)}; expected one named label.")


def check_complete(path: Path, files: list[Path]) -> None:
    """Raises: DataError if a name says that it is one of so many, and some are missing."""
    numbered = [match for file in files if (match := re.fullmatch(r".*-(\d+)-of-(\d+)\.parquet", file.name))]
    for total in {match[2] for match in numbered}:
        missing = set(range(int(total))) - {int(match[1]) for match in numbered if match[2] == total}
        if missing:
            example = re.sub(r"-\d+-of-\d+", f"-{min(missing):0{len(total)}d}-of-{total}", files[0].name)
            raise DataError(
                f"{path}: {len(missing)} of {int(total)} files missing; expected {example}. Add what is missing."
            )


def _count_rows(file: Path) -> int:
    """Reads all of the file.  Raises: DataError if it is damaged."""
    try:
        table = pyarrow.parquet.ParquetFile(file)
        for group in range(table.num_row_groups):
            table.read_row_group(group)
    except Exception as error:  # of whichever part of the format is damaged
        raise DataError(f"{file}: not a whole parquet file ({reason(error)}). Copy or download it again.") from error
    return int(table.metadata.num_rows)


def from_hub(call: Any, dataset_id: str, folder: Path | None, **options: Any) -> Any:
    """What a function of the library `datasets` answers for a set on the hub.  Raises: DataError with advice."""
    place = folder or "a folder and pass --data FOLDER"
    home = f"https://huggingface.co/datasets/{dataset_id}"
    advice = f"It lives at {home}. Put its files train-*.parquet, test-*.parquet in {place}."
    try:
        HfApi().dataset_info(dataset_id, timeout=_HUB_TIMEOUT)  # one try, where loading would wait and retry
    except OfflineModeIsEnabled:
        pass  # loading takes the copy in the cache, or says that there is none
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DataError(
            f"{dataset_id}: no such folder, and no such data set on the Hugging Face hub. {advice}"
        ) from error
    except Exception as error:  # of whichever HTTP library the hub's client uses
        with suppress(Exception), _quiet(), _offline():
            return call(dataset_id, **options)
        raise DataError(
            f"{dataset_id}: no such folder, and the Hugging Face hub could not be reached ({reason(error)}). {advice}"
        ) from error
    try:
        with _quiet():
            return call(dataset_id, **options)
    except Exception as error:  # whatever downloading, reading and writing tables runs into
        raise DataError(
            f"{dataset_id}: cannot be loaded from the Hugging Face hub ({reason(error)}). {advice}"
        ) from error


@contextmanager
def _offline() -> Iterator[None]:
    """As with HF_HUB_OFFLINE=1: loading takes the copy in the cache without asking the hub."""
    modules: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    switches = [(module, module.HF_HUB_OFFLINE) for module in modules]
    try:
        for module, _ in switches:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, was in switches:
            module.HF_HUB_OFFLINE = was


@contextmanager
def _quiet() -> Iterator[None]:
    """Errors are raised, not logged as well; progress bars are for terminals, unless the user's environment decides."""
    level = datasets.logging.get_verbosity()
    hide_bars = not (
        sys.stderr.isatty()
        or datasets.are_progress_bars_disabled()
        or datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is not None
    )
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if hide_bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if hide_bars:
            datasets.enable_progress_bars()


def _cache_folder() -> str | None:
    """None for the cache of `datasets`; where that cannot be written, a folder that lasts as long as the process."""
    wanted = Path(datasets.config.HF_DATASETS_CACHE).absolute()
    existing = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
    return None if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) else _temporary_cache()


@cache
def _temporary_cache() -> str:
    folder = tempfile.mkdtemp(prefix="vggnet-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def reason(error: Exception) -> str:
    """In words: the first line of what went wrong at the bottom."""
    return (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
