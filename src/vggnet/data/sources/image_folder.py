"""Images in a folder a class: `path/<split>/<class>/*.jpg`, or `path/<class>/*.jpg` divided here."""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets.folder import find_classes, make_dataset

from vggnet.data.boxes import read_voc
from vggnet.data.decoding import StoredImage, open_image
from vggnet.data.formats import IMAGE_SUFFIXES
from vggnet.data.sources.source import SPLITS, Source
from vggnet.data.splits import stratified_split
from vggnet.errors import DataError

_DIVIDED = ("train", "test", "all")  # the splits of a folder that has class folders only
_LAYOUT = "expected <split>/<class>/<images>, or <class>/<images>"


def folder_splits(path: Path) -> tuple[str, ...]:
    """The split folders in `path`; train, test and all if it has class folders only.

    Raises: DataError if `path` is missing or has no folders.
    """
    return _split_folders(path) or _DIVIDED


def open_folder(path: Path, split: str) -> Source:
    """One split of a folder of class folders.

    Without split folders each class is divided into train and test, 80/20 by a fixed seed; "all" is both of them.

    Raises: DataError if the folder is missing or empty, has fewer than two classes, a class has no images, there is no
    such split, or the classes are too small to divide.
    """
    split_folders = _split_folders(path)
    splits = split_folders or _DIVIDED
    if split not in splits:
        raise DataError(f"{path}: no split {split!r}; expected one of {', '.join(splits)}.")
    root = path / split if split_folders else path
    classes = _visible_folders(root)
    if len(classes) < 2:
        raise DataError(f"{root}: {_counted(len(classes))}; expected at least two. {_LAYOUT.capitalize()}.")
    samples = make_dataset(
        str(root), {name: i for i, name in enumerate(classes)}, extensions=IMAGE_SUFFIXES, allow_empty=True
    )
    present = {label for _, label in samples}
    for label, name in enumerate(classes):
        if label not in present:
            raise DataError(
                f"{root / name}: no images of this class; expected files named *{', *'.join(IMAGE_SUFFIXES)}."
            )
    if root == path and split != "all":
        samples = _divide(samples, path)[_DIVIDED.index(split)]
    return _Folder(path, split, classes, samples)


class _Folder(Source):
    def __init__(self, path: Path, split: str, classes: Sequence[str], samples: Sequence[tuple[str, int]]) -> None:
        labels = np.array([label for _, label in samples], dtype=np.int64)
        super().__init__(name=str(path), split=split, classes=classes, labels=labels)
        self._path = path
        self._files = [file for file, _ in samples]

    def open(self, index: int) -> StoredImage:
        return open_image(Path(self._files[index]))

    def describe(self, index: int) -> str:
        return self._files[index]

    def boxes(self) -> NDArray[np.float64]:
        files = [Path(file).with_suffix(".xml") for file in self._files]
        if not any(file.exists() for file in files):
            return super().boxes()
        names = [self.classes[label] for label in self.labels]
        return np.array([read_voc(file, name) for file, name in zip(files, names, strict=True)])

    def ignored(self) -> list[str]:
        root = self._path / self.split if (self._path / self.split).is_dir() else self._path
        files = (file for file in sorted(root.rglob("*")) if file.is_file() and not file.name.startswith("."))
        known = {*IMAGE_SUFFIXES, ".xml"}  # XML may hold boxes
        return [str(file) for file in files if file.parent == root or file.suffix.lower() not in known]

    @cached_property
    def fingerprint(self) -> str:
        return self._digest(lambda status: f"{status.st_size}\0{status.st_mtime_ns}")

    @cached_property
    def contents(self) -> str:
        return self._digest(lambda status: str(status.st_size))

    def _digest(self, facts: Callable[[os.stat_result], str]) -> str:
        digest = blake2b(digest_size=8)
        for file in map(Path, self._files):
            digest.update(f"{file.relative_to(self._path)}\0{facts(file.stat())}\n".encode())
        return digest.hexdigest()


def _counted(classes: int) -> str:
    return "1 class folder" if classes == 1 else f"{classes or 'no'} class folders"


def _split_folders(path: Path) -> tuple[str, ...]:
    """Beside class folders, one that is called `train` and has no folders in it is a class as well."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; {_LAYOUT}.")
    folders = _visible_folders(path)
    if not folders:
        raise DataError(f"{path}: no folders in it; {_LAYOUT}.")
    only_splits = set(folders) <= set(SPLITS)
    splits = [split for split in SPLITS if split in folders]
    return tuple(split for split in splits if only_splits or _visible_folders(path / split))


def _visible_folders(path: Path) -> list[str]:
    try:
        return [name for name in find_classes(str(path))[0] if not name.startswith(".")]
    except FileNotFoundError:  # no folders
        return []


def _divide(samples: list[tuple[str, int]], path: Path) -> list[list[tuple[str, int]]]:
    labels = np.array([label for _, label in samples])
    try:
        parts = stratified_split(labels, 0.2, seed=0)
    except DataError as error:
        raise DataError(
            f"{path}: too few images to divide into train and test: {error} Add images, or make the folders train and "
            "test."
        ) from error
    return [[samples[i] for i in part] for part in parts]
