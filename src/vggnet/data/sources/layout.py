"""How a folder of images is laid out: by splits and classes, by classes alone, or in a way that is refused."""

from pathlib import Path
from typing import NamedTuple

from vggnet.data.sources.source import split_rank, usual_split
from vggnet.data.walking import data_folders
from vggnet.errors import DataError

DIVIDED = ("train", "test", "all")  # the splits of a folder that has class folders only
EXPECTED = "expected <split>/<class>/<images>, or <class>/<images>"


class Layout(NamedTuple):
    """The folders of a data set."""

    splits: dict[str, Path]  # train, val, test -> the folder with its class folders; empty if there are only classes
    unlabeled: dict[str, Path]  # the same for splits without class folders, beside others that have them
    others: tuple[Path, ...]  # folders beside split folders, which are not data

    @property
    def names(self) -> tuple[str, ...]:
        """The splits that can be opened."""
        return tuple(self.splits) or DIVIDED


def read_layout(path: Path) -> Layout:
    """How `path` is laid out.

    Folders called train, training, val, valid, validation, dev, test or testing, in any case, are splits if they have
    class folders in them. Beside class folders, a single one without folders in it is a class of that name.

    Args:
        path: a folder.

    Raises:
        DataError: there is no such folder, there are no folders in it, or what they are cannot be told.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; {EXPECTED}.")
    folders = data_folders(path)
    if not folders:
        raise DataError(f"{path}: no folders in it; {EXPECTED}.")
    named = {name: split for name in sorted(folders, key=split_rank) if (split := usual_split(name)) is not None}
    labeled = [name for name in named if data_folders(path / name)]
    if labeled:
        unlabeled = [name for name in named if name not in labeled]
        others = tuple(path / name for name in folders if name not in named)
        return Layout(_by_split(path, labeled, named), _by_split(path, unlabeled, named), others)
    if len(named) == len(folders) or len(named) > 1:
        are_named = "is named like a split" if len(named) == 1 else "are named like splits"
        raise DataError(
            f"{path}: {_and(list(named))} {are_named}, but without class folders in them; {EXPECTED}. Put the images "
            "into class folders, or rename classes of these names."
        )
    return Layout({}, {}, ())


def read_classes(root: Path, *, least: int = 2) -> list[str]:
    """The names of the class folders in `root`, sorted.

    Args:
        root: a split folder, or a folder that has only classes.
        least: how many there must be; a split that is not trained on may lack classes.

    Raises:
        DataError: there are fewer than two, or they hold the same folders, so that either may be the classes.
    """
    classes = data_folders(root)
    if len(classes) < least:
        raise DataError(f"{root}: {_counted(classes)}; expected at least two. {EXPECTED.capitalize()}.{_inner(root)}")
    if len(classes) == 1:
        return classes
    below = [data_folders(root / name) for name in classes]
    common = [name for name in below[0] if all(name in others for others in below)]
    if len(common) > 1 or any(map(usual_split, common)):
        example = f"{classes[0]}/{common[0]}"
        raise DataError(
            f"{root}: each of {_and(classes)} has the same folders {_and(common)} in it, so either could be the "
            f"classes. {EXPECTED.capitalize()}: exchange the two levels, or move the images of {example} up."
        )
    return classes


def _by_split(path: Path, names: list[str], named: dict[str, str]) -> dict[str, Path]:
    """Raises: DataError if two folders are the same split."""
    found: dict[str, Path] = {}
    for name in names:
        first = found.setdefault(named[name], path / name)
        if first.name != name:
            raise DataError(f"{path}: {first.name} and {name} are both the split {named[name]}. Rename one of them.")
    return found


def _counted(classes: list[str]) -> str:
    return f"1 class folder ({classes[0]})" if classes else "no class folders"


def _inner(root: Path) -> str:
    """Advice if the data are one folder deeper, as in many unpacked archives."""
    folders = data_folders(root)
    if len(folders) == 1 and len(data_folders(root / folders[0])) > 1:
        return f" {root / folders[0]} may be what you mean."
    return ""


def _and(names: list[str]) -> str:
    shown = names[:4] + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
