"""From what a user writes after `--data` to a source."""

import os
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vggnet.data.sources.digits import DIGITS_SPLITS, open_digits
from vggnet.data.sources.image_folder import folder_splits, open_folder
from vggnet.data.sources.layout import DIVIDED, read_classes, read_layout
from vggnet.data.sources.mask_folder import find_masks, open_masks
from vggnet.data.sources.object_folder import find_objects, open_objects
from vggnet.data.sources.source import BY_NAME, Columns, Source, same_split
from vggnet.data.splits import Rule
from vggnet.errors import DataError
from vggnet.files import cache_folder

_HUB_ALIASES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
STREAM = "stream:"  # before a name, id or folder
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def open_source(spec: str | Path | Source, split: str, *, rule: Rule = "content", columns: Columns = BY_NAME) -> Source:
    """One split of the data set that `spec` names.

    "digits"; "cifar10" or "cifar100" (parquet files in the folder data/<name> of the cache, see
    `vggnet.files.cache_folder`, else the hub); a folder with parquet files, of class folders, or of images with masks
    (`open_masks`) or objects (`open_objects`); a Hugging Face id with one slash. With "stream:" before it a name,
    an id, or a folder with parquet files or WebDataset tars is read a group of images at a time (`Stream`). A `Source`
    stands for itself.
    A split has several names: val, valid, validation and dev are the same, and so are train and training, test and
    testing. `rule`: see `open_folder`. `columns` of a table are those of images and labels, where their names do not
    tell.
    Raises: DataError if it is none of these, or the split is missing, empty or malformed.
    """
    return _resolve(spec, rule, columns)[0](split)


def source_splits(spec: str | Path | Source) -> tuple[str, ...]:
    """The splits of the data set that `spec` names, as in open_source.  Raises: DataError, as there."""
    return _resolve(spec)[1]()


def count_images(spec: str | Path | Source, split: str, columns: Columns = BY_NAME) -> int | None:
    """How many images a split has, readable or not, if that is known without reading them.

    None for streams, data sets of the hub, and splits that are not there. `columns`: as `open_source`.
    Raises: DataError as `open_source`.
    """
    from vggnet.data.sources.parquet import count_rows, parquet_files  # heavy

    if isinstance(spec, Source):
        return len(spec) if same_split(split, [spec.split]) else None
    if spec == "digits":
        return len(open_digits(split))
    if isinstance(spec, str) and spec.startswith(STREAM):
        return None
    folder, dataset_id = _place(spec)
    if folder is None or dataset_id is not None:
        return None
    if files := parquet_files(folder):
        name = same_split(split, files)
        return None if name is None else sum(map(count_rows, files[name]))
    if places := find_masks(folder):
        name = same_split(split, places)
        return None if name is None else len(open_masks(folder, name, columns=columns))
    if found := find_objects(folder):
        name = same_split(split, found)
        return None if name is None else len(open_objects(folder, name))
    if columns != BY_NAME or not _has_classes(folder):
        from vggnet.data.sources.listing import find_listings, open_listing

        is_there = same_split(split, find_listings(folder)) is not None
        return len(open_listing(folder, split, columns=columns)) if is_there else None
    if same_split(split, folder_splits(folder)) is None:
        return None
    if folder_splits(folder) == DIVIDED and split == "test":
        return len(open_folder(folder, "all")) - len(open_folder(folder, "train"))
    return len(open_folder(folder, split))


def _resolve(
    spec: str | Path | Source, rule: Rule = "content", columns: Columns = BY_NAME
) -> tuple[Callable[[str], Source], Callable[[], tuple[str, ...]]]:
    """How to open a split, and how to list the splits."""
    if columns.ignore_index is not None and not _has_masks(spec):
        raise DataError(f"{spec} has no masks, so there is no index to ignore; leave out --ignore-index.")
    if isinstance(spec, Source):
        return partial(_itself, spec), lambda: (spec.split,)
    if spec == "digits":
        _refuse_columns(spec, columns)
        return open_digits, lambda: DIGITS_SPLITS

    from vggnet.data.sources.parquet import open_parquet, parquet_files  # heavy

    if isinstance(spec, str) and spec.startswith(STREAM):
        from vggnet.data.sources.shards import find_shards, open_shards

        place = _place(spec.removeprefix(STREAM))
        return partial(open_shards, *place, columns=columns), lambda: tuple(find_shards(*place).files)
    folder, dataset_id = _place(spec)
    if dataset_id is not None:
        from vggnet.data.sources.huggingface import hub_splits, open_hub

        return partial(open_hub, dataset_id, folder=folder, columns=columns), partial(
            hub_splits, dataset_id, folder=folder
        )
    assert folder is not None
    if parquet_files(folder):
        return partial(open_parquet, folder, columns=columns), lambda: tuple(parquet_files(folder))
    if places := find_masks(folder):
        _refuse_columns(spec, columns._replace(ignore_index=None))
        return partial(open_masks, folder, columns=columns, rule=rule), lambda: tuple(places)
    if places_of := find_objects(folder):
        _refuse_columns(spec, columns)
        return partial(open_objects, folder, rule=rule), lambda: tuple(places_of)
    if columns != BY_NAME or not _has_classes(folder):
        from vggnet.data.sources.listing import find_listings, open_listing

        if listings := find_listings(folder):
            return partial(open_listing, folder, columns=columns, rule=rule), lambda: tuple(listings)
    _refuse_columns(spec, columns)
    return partial(open_folder, folder, rule=rule), partial(folder_splits, folder)


def _has_masks(spec: str | Path | Source) -> bool:
    """Raises: DataError as `open_source`."""
    if isinstance(spec, Source):
        return spec.annotation == "mask"
    if spec == "digits" or (isinstance(spec, str) and spec.startswith(STREAM)):
        return False
    folder, dataset_id = _place(spec)
    if folder is None or dataset_id is not None:
        return False
    from vggnet.data.sources.parquet import annotation_of, parquet_files

    return annotation_of(folder) == "mask" if parquet_files(folder) else bool(find_masks(folder))


def _itself(source: Source, split: str) -> Source:
    """Raises: DataError if it is another split."""
    if same_split(split, [source.split]) is None:
        raise DataError(f"{source.name} has no split {split!r}; expected {source.split}.")
    return source


def _has_classes(folder: Path) -> bool:
    """Whether it is laid out by class folders."""
    try:
        roots = read_layout(folder).splits.values()
        return all(read_classes(root, least=1) for root in roots) if roots else bool(read_classes(folder))
    except DataError:
        return False


def _refuse_columns(spec: str | Path, columns: Columns) -> None:
    """Raises: DataError if there are any, for what is no table."""
    if columns != BY_NAME:
        raise DataError(f"{spec} is no table, so it has no columns; leave out --label-column and --image-column.")


def _data_folders() -> list[Path]:
    """Where the data sets with names may be: in the cache, or where version 0.1 looked for them."""
    folders = [cache_folder() / "data", Path("~/.cache/vggnet/data").expanduser()]
    if given := os.environ.get("VGGNET_DATA"):
        message = "VGGNET_DATA is deprecated: set VGGNET_CACHE, and put data sets into its folder data."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        folders.insert(0, Path(given).expanduser())
    return folders


def _place(spec: str | Path) -> tuple[Path | None, str | None]:
    """A folder; or a Hugging Face id, after the folder that was looked into before, if any.  Raises: DataError."""
    from vggnet.data.sources.parquet import parquet_files

    if isinstance(spec, str) and spec in _HUB_ALIASES:
        folders = [folder / spec for folder in _data_folders()]
        own = next((folder for folder in folders if parquet_files(folder)), None)
        return (own, None) if own else (folders[0], _HUB_ALIASES[spec])
    folder = Path(spec).expanduser()
    try:
        is_folder, exists = folder.is_dir(), folder.exists()
    except OSError as error:
        raise DataError(f"{spec}: cannot be reached ({error.strerror}). Make the folders above it readable.") from error
    if is_folder:
        return folder, None
    if isinstance(spec, str) and not exists and _HUB_ID.fullmatch(spec):
        return None, spec
    found = "not a folder" if exists else "no such folder"
    raise DataError(
        f"{spec}: {found}; expected digits, cifar10, cifar100, a folder of parquet files or of class folders, "
        "or a Hugging Face id such as uoft-cs/cifar10."
    )
