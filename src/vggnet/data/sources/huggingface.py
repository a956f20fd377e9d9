"""Data sets on the Hugging Face hub, through the libraries `datasets` and `huggingface_hub` (extra `hub`)."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from vggnet.data.sources.parquet import make_rows, read_arrow, reason
from vggnet.data.sources.source import BY_NAME, Columns, Source, split_rank
from vggnet.errors import DataError, require

datasets: Any = require("datasets", "hub")
huggingface_hub: Any = require("huggingface_hub", "hub")
hub_errors: Any = require("huggingface_hub.errors", "hub")
HfApi = huggingface_hub.HfApi

_HUB_TIMEOUT = 5.0  # seconds


def hub_splits(dataset_id: str, *, folder: Path | None = None) -> tuple[str, ...]:
    """The splits of a data set on the Hugging Face hub.  Raises and `folder`: as open_hub."""
    return tuple(sorted(from_hub(datasets.get_dataset_split_names, dataset_id, folder), key=split_rank))


def open_hub(dataset_id: str, split: str, *, folder: Path | None = None, columns: Columns = BY_NAME) -> Source:
    """One split of a data set on the Hugging Face hub, kept in that library's cache. No code from the hub is run.

    `columns`: as `open_parquet`.
    `folder` is named in the advice of an error: where this data set is looked for before the hub is asked.
    Raises: DataError if the hub cannot be reached, the id or split is unknown, or there are no images and labels.
    """
    data = from_hub(datasets.load_dataset, dataset_id, folder, split=split, cache_dir=_cache_folder())
    files = tuple(file["filename"] for file in data.cache_files)
    return make_rows(
        partial(read_arrow, files),
        data.features.arrow_schema,
        dataset_id,
        split,
        columns=columns,
        least=1 + (split == "train"),
    )


def hub_shards(dataset_id: str, folder: Path | None) -> tuple[dict[str, list[str]], Any]:
    """The addresses of a data set's files by split, and the schema of its tables, None if the hub does not know it.

    Raises: DataError as `open_hub`.
    """
    builder = from_hub(datasets.load_dataset_builder, dataset_id, folder)
    files = {split: list(map(str, of)) for split, of in builder.config.data_files.items()}
    return files, builder.info.features and builder.info.features.arrow_schema


def from_hub(call: Any, dataset_id: str, folder: Path | None, **options: Any) -> Any:
    """What a function of the library `datasets` answers for a set on the hub.  Raises: DataError with advice."""
    place = folder or "a folder and pass --data FOLDER"
    home = f"https://huggingface.co/datasets/{dataset_id}"
    advice = f"Its page is {home}. Put its files train-*.parquet, test-*.parquet in {place}."
    try:
        HfApi().dataset_info(dataset_id, timeout=_HUB_TIMEOUT)  # one try, where loading would wait and retry
    except hub_errors.OfflineModeIsEnabled:
        pass  # loading takes the copy in the cache, or says that there is none
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
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
