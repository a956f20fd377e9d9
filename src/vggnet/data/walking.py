"""Which files and folders below a folder are data: no hidden ones, no archive leftovers, no run folders, no loops."""

import os
from collections.abc import Iterator
from pathlib import Path

from vggnet.errors import DataError

RUN_FILES = ("history.jsonl", "state", ".lock", "weights.safetensors")  # one of them beside config.json: a run folder

_BESIDE_RUNS = ("", ".txt", ".md", ".json", ".jsonl", ".csv", ".html", ".log", ".sh", ".py")

Identity = tuple[int, int]  # of a folder: its device and its number there


def data_files(folder: Path) -> Iterator[Path]:
    """The files below `folder` that may be data, in the order of their folders, then of their names.

    Args:
        folder: an existing folder. Links are followed, but not back to a folder that contains them.

    Returns:
        Files, without hidden ones, `__MACOSX`, and what is in run folders.

    Raises:
        DataError: a folder cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("b.png", ".hidden.png", "a.png"):
        ...         Path(folder, name).touch()
        ...     [file.name for file in data_files(Path(folder))]
        ['a.png', 'b.png']
    """
    above = frozenset(_identity(parent) for parent in folder.resolve().parents)
    for place in sorted(_places(folder, above), key=str):
        yield from (place / name for name in sorted(entry.name for entry in _entries(place) if not _is_folder(entry)))


def data_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder` that may hold data, sorted.

    Args:
        folder: an existing folder.

    Returns:
        Names, without hidden ones, `__MACOSX`, run folders, and folders that hold nothing but run folders.

    Raises:
        DataError: a folder cannot be read.
    """
    found = sorted(entry.name for entry in _entries(folder) if _is_folder(entry))
    return [name for name in found if not _holds_runs(folder / name)]


def is_run(folder: Path) -> bool:
    """Whether `vgg train` has made this folder.

    Args:
        folder: any path.
    """
    return os.path.isfile(folder / "config.json") and any(  # noqa: PTH113 (False where it cannot be reached)
        os.path.exists(folder / name)  # noqa: PTH110 (as above)
        for name in RUN_FILES
    )


def _holds_runs(folder: Path) -> bool:
    """Whether a folder is a run, or has runs in it and nothing besides but notes."""
    if is_run(folder):
        return True
    below = [folder / entry.name for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)]
    return any(map(is_run, below)) and not any(file.suffix not in _BESIDE_RUNS for file in data_files(folder))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and may be data, by its name.  Raises: DataError."""
    try:
        os.stat(os.path.join(folder, "."))  # noqa: PTH116, PTH118 (fails if the files in it cannot be opened)
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder}: this folder cannot be read ({error.strerror}). Make it readable.")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> Identity:
    """Raises: DataError."""
    try:
        status = folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return status.st_dev, status.st_ino


def _places(folder: Path, above: frozenset[Identity]) -> Iterator[Path]:
    """`folder` and the folders below it; `above` are those that it is in."""
    yield folder
    above |= {_identity(folder)}
    for entry in _entries(folder):
        below = Path(entry.path)
        if _is_folder(entry) and _identity(below) not in above and not is_run(below):
            yield from _places(below, above)
