"""Parquet files in the Hugging Face image layout, from a folder.

Images, labels and boxes are kept as an Arrow file in the cache folder, which is mapped into memory: images are reached
by their place, all loader processes share them, and they may be more than fit into memory.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from vggnet.data.caching import mark_used
from vggnet.data.sources.annotated_rows import annotated_rows
from vggnet.data.sources.columns import annotation_column, class_names, find_columns, image_column
from vggnet.data.sources.labels import class_labels, read_labels
from vggnet.data.sources.rows import BATCH, BOX_COLUMN, OpenTable, Rows
from vggnet.data.sources.source import BY_NAME, Annotation, Columns, Source, same_split, split_rank, usual_split
from vggnet.data.walking import data_folders
from vggnet.errors import DataError, StorageError, one_line
from vggnet.files import cache_folder, replacing


def parquet_files(path: Path | str) -> dict[str, list[Path]]:
    """Split -> its files (`train-00000-of-00003.parquet` or `train.parquet`) in `path` or in `path/data`.

    If there are none, those of the only data set below, as the hub lays them out: `SET/train-00000-of-00003.parquet`,
    `SET/train/0000.parquet` or `train/0000.parquet`. Folders without a split of a usual name are none.
    Raises: DataError if there are several data sets below.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return {}
    direct = _by_split(_in_folder(path) or _in_folder(path / "data"))
    if direct:
        return direct
    sets = {path: _in_split_folders(path)}
    for name in data_folders(path):
        if usual_split(name) is None:
            sets[path / name] = _by_split(_in_folder(path / name)) | _in_split_folders(path / name)
    sets = {folder: found for folder, found in sets.items() if any(map(usual_split, found))}
    if len(sets) > 1:
        names = ", ".join(folder.name for folder in sets)
        raise DataError(
            f"{path}: {len(sets)} data sets of parquet files in it ({names}). Give one: {next(iter(sets))}."
        )
    found = next(iter(sets.values()), {})
    return {split: found[split] for split in sorted(found, key=split_rank)}


def _in_folder(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):  # noqa: PTH112 (False where it cannot be reached)
        return []
    return sorted(file for file in folder.glob("*.parquet") if not file.name.startswith("."))


def _in_split_folders(path: Path) -> dict[str, list[Path]]:
    names = [name for name in data_folders(path) if usual_split(name)]
    return {name: files for name in names if (files := _in_folder(path / name))}


def _by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(re.split(r"[-.]", file.name)[0], []).append(file)
    return {split: found[split] for split in sorted(found, key=split_rank)}


def open_parquet(path: Path | str, split: str, *, columns: Columns = BY_NAME) -> Source:
    """One split of a folder of parquet files; the files of other splits may be missing.

    columns: those of images and labels, where their names do not tell.

    A column of masks or of objects is read instead of labels, see `vggnet.data.sources.annotated_rows`.

    Raises: DataError if the split or one of its files is missing, a file is damaged, or there are no images and labels.
    """
    path = Path(path).expanduser()
    found = parquet_files(path)
    if not found:
        raise DataError(f"{path}: no parquet files; expected names such as train-00000-of-00001.parquet.")
    split = same_split(split, found) or split
    if split not in found:
        raise DataError(f"{path}: no split {split!r}; expected one of {', '.join(found)}.")
    files = found[split]
    check_complete(path, files)
    where = f"{path}, split {split}"
    if not sum(map(count_rows, files)):
        raise DataError(f"{where}: no rows; expected images and labels.")
    with whole_parquet(files[0]):
        schema = pq.read_schema(files[0])
    if found_column := annotation_column(schema, columns):
        kept = [image_column(schema, where, columns._replace(label=found_column.name)), found_column.name]
        every = _opener([file for others in found.values() for file in others], kept[1:])
        return annotated_rows(_opener(files, kept), every, schema, found_column, kept[0], path, split, columns)
    kept = [*find_columns(schema, where, columns), *([BOX_COLUMN] if BOX_COLUMN in schema.names else [])]
    least = 1 if "train" in found and split != "train" else 2  # a test may lack classes
    return make_rows(_opener(files, kept), schema, str(path), split, columns=columns, least=least)


def annotation_of(path: Path) -> Annotation:
    """The kind of source that a folder of parquet files is, by the columns of the first file.  Raises: DataError."""
    file = next(iter(parquet_files(path).values()))[0]
    with whole_parquet(file):
        found = annotation_column(pq.read_schema(file))
    return found.kind if found else "label"


def make_rows(
    open_table: OpenTable, schema: Any, name: str, split: str, *, columns: Columns = BY_NAME, least: int = 2
) -> Source:
    """The images and labels of a table.

    open_table: gives the table; may be called again in another process. schema: with Hugging Face's metadata, if any.
    columns: those of images and labels, where their names do not tell. least: classes that there must be.
    Raises: DataError if there are no images and labels.
    """
    where = f"{name}, split {split}"
    table = open_table()
    image, label = find_columns(schema, where, columns)
    if not len(table):
        raise DataError(f"{where}: no rows; expected images and labels.")
    told = f"{where}: column {label!r}"
    classes, labels = class_labels(read_labels(table[label], told), class_names(schema, label), told, least=least)
    return Rows(open_table, table, image, name=name, split=split, classes=classes, labels=labels)


def read_arrow(files: Sequence[str]) -> Any:
    """The table in Arrow streams, mapped into memory."""
    return pa.concat_tables([pa.ipc.open_stream(pa.memory_map(file)).read_all() for file in files])


def _opener(files: Sequence[Path], columns: Sequence[str]) -> OpenTable:
    """These columns of parquet files, by way of an Arrow file in the cache; where there can be none, in memory."""
    stored = [(str(file.absolute()), *_state(file)) for file in files]
    key = blake2b(json.dumps([stored, columns]).encode(), digest_size=16).hexdigest()
    path = cache_folder() / "arrow" / f"{key}.arrow"
    with suppress(StorageError):
        if not path.is_file():
            with replacing(path) as temporary:
                _write_arrow(temporary, files, columns)
        mark_used(path)
        return partial(read_arrow, (str(path),))
    return partial(_read_parquet, files, columns)


def _state(file: Path) -> tuple[int, ...]:
    """What tells a file from another one that takes its place, of the same size and with the same time."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _write_arrow(path: Path, files: Sequence[Path], columns: Sequence[str]) -> None:
    batches = _batches(files, columns)
    first = next(batches)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch.cast(first.schema))


def _read_parquet(files: Sequence[Path], columns: Sequence[str]) -> Any:
    return pa.Table.from_batches(_batches(files, columns))


def count_rows(file: Path) -> int:
    """Of a parquet file, by its metadata.  Raises: DataError if it is damaged."""
    with whole_parquet(file):
        return int(pq.read_metadata(file).num_rows)


def _batches(files: Sequence[Path], columns: Sequence[str]) -> Iterator[Any]:
    """Raises: DataError naming a file that is damaged, or has other columns than the first."""
    for file in files:
        with whole_parquet(file), pq.ParquetFile(file) as opened:
            missing = [column for column in columns if column not in opened.schema_arrow.names]
            if missing:
                raise ValueError(f"no column {missing[0]!r}")
            yield from opened.iter_batches(batch_size=BATCH, columns=list(columns))


@contextmanager
def whole_parquet(file: Path) -> Iterator[None]:
    """Raises: DataError naming the file if reading it inside the block fails."""
    try:
        yield
    except Exception as error:  # of whichever part of the format is damaged
        raise DataError(f"{file}: not a whole parquet file ({reason(error)}). Copy or download it again.") from error


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


def reason(error: BaseException) -> str:
    """In words: what went wrong at the bottom."""
    return one_line(error.__cause__ or error)
