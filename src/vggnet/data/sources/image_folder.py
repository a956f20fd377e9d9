"""Images in a folder a class: `path/<split>/<class>/*.jpg`, or `path/<class>/*.jpg` divided here."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggnet.data.boxes import read_voc
from vggnet.data.decoding import StoredImage, open_image
from vggnet.data.formats import IMAGE_SUFFIXES
from vggnet.data.hashing import hash_files
from vggnet.data.sources.layout import DIVIDED, Layout, read_classes, read_layout
from vggnet.data.sources.source import Source, same_split
from vggnet.data.splits import TEST_FRACTION, Indices, Rule, divide, stratified_split
from vggnet.data.walking import data_files
from vggnet.errors import DataError

Samples = list[tuple[Path, int]]  # files and their labels


def folder_splits(path: Path | str) -> tuple[str, ...]:
    """The splits of a folder: train, val, test by its split folders; train, test and all if it has class folders only.

    Args:
        path: a folder; `~` is the home folder.

    Raises:
        DataError: as `read_layout`.
    """
    return read_layout(Path(path).expanduser()).names


def open_folder(path: Path | str, split: str, *, rule: Rule = "content") -> Source:
    """One split of a folder of class folders.

    Args:
        path: a folder, as `read_layout` takes it.
        split: a name of a split, or another name of the same one (valid for val). A folder without splits has train and
            test, a fifth of the images, and all.
        rule: how such a folder is divided: "content" as `vggnet.data.splits.divide` does it; "stratified" as version
            0.1 did.

    Raises:
        DataError: the folder is missing or empty, has fewer than two classes, a class has no images, there is no such
            split, or the classes are too small to divide.
    """
    path = Path(path).expanduser()
    layout = read_layout(path)
    found = same_split(split, layout.names)
    if found is None:
        raise _no_split(path, split, layout)
    root = layout.splits.get(found, path)
    classes = read_classes(root, least=1 if found != "train" and "train" in layout.splits else 2)
    samples = [(file, label) for label, name in enumerate(classes) for file in _images(root / name)]
    source = FolderSource(path, root, found, classes, samples, layout)
    if layout.splits or found == "all":
        return source
    part = divide_folder(source, rule)[DIVIDED.index(found)]
    divided = FolderSource(path, root, found, classes, [samples[index] for index in part], layout)
    if rule == "content":
        divided.image_hashes = source.image_hashes[part]  # not read twice
    return divided


class FolderSource(Source):
    """Image files below a folder, and their labels."""

    def __init__(
        self, path: Path, root: Path, split: str, classes: Sequence[str], samples: Samples, layout: Layout
    ) -> None:
        labels = np.array([label for _, label in samples], dtype=np.int64)
        super().__init__(name=str(path), split=split, classes=classes, labels=labels)
        self._path, self._root, self._layout = path, root, layout
        self._files = [str(file) for file, _ in samples]

    def open(self, index: int) -> StoredImage:
        """From its file."""
        return open_image(Path(self._files[index]))

    def describe(self, index: int) -> str:
        """Its path."""
        return self._files[index]

    def boxes(self) -> NDArray[np.float64]:
        """Of the XML files beside the images.  Raises: DataError."""
        files = [Path(file).with_suffix(".xml") for file in self._files]
        if not any(file.exists() for file in files):
            return super().boxes()
        names = [self.classes[label] for label in self.labels]
        return np.array([read_voc(file, name) for file, name in zip(files, names, strict=True)])

    def ignored(self) -> list[str]:
        """Files without the suffix of an image, and files outside the class folders."""
        known = {*IMAGE_SUFFIXES, ".xml"}  # XML may hold boxes
        files = [file for file in data_files(self._root) if file.parent == self._root or not _has(file, known)]
        beside = (*self._layout.unlabeled.values(), *self._layout.others)
        files += [file for folder in beside for file in data_files(folder) if _has(file, IMAGE_SUFFIXES)]
        return [str(file) for file in files]

    @cached_property
    def image_hashes(self) -> NDArray[np.uint64]:
        """Of the files."""
        return hash_files(list(map(Path, self._files)))

    @cached_property
    def pixels_key(self) -> str:
        """Of the contents of the files."""
        return blake2b(self.image_hashes.tobytes(), digest_size=8).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """Of names, sizes and times of the files."""
        return self._digest(lambda status: f"{status.st_size}\0{status.st_mtime_ns}")

    @cached_property
    def contents(self) -> str:
        """Of names and sizes of the files."""
        return self._digest(lambda status: str(status.st_size))

    def _digested(self) -> Iterator[Path]:
        """The files that the fingerprint is of."""
        yield from map(Path, self._files)

    def _digest(self, facts: Callable[[os.stat_result], str]) -> str:
        digest = blake2b(digest_size=8)
        for file in self._digested():
            digest.update(f"{file.relative_to(self._path)}\0{facts(file.stat())}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def _has(file: Path, suffixes: Sequence[str] | set[str]) -> bool:
    return file.suffix.lower() in suffixes


def _no_split(path: Path, split: str, layout: Layout) -> DataError:
    unlabeled = same_split(split, layout.unlabeled)
    if unlabeled is not None:
        folder = layout.unlabeled[unlabeled]
        return DataError(
            f"{folder}: no class folders, so its images have no labels; expected {folder.name}/<class>/<images>. "
            f"`vgg predict MODEL {folder}` needs none."
        )
    return DataError(f"{path}: no split {split!r}; expected one of {', '.join(layout.names)}.")


def _images(folder: Path) -> list[Path]:
    """The images of a class.  Raises: DataError if there are none."""
    images = [file for file in data_files(folder) if _has(file, IMAGE_SUFFIXES)]
    if not images:
        raise DataError(f"{folder}: no images of this class; expected files named *{', *'.join(IMAGE_SUFFIXES)}.")
    return images


def divide_folder(source: Source, rule: Rule) -> tuple[Indices, Indices]:
    """The images to train on and those to test on.  Raises: DataError."""
    try:
        if rule == "stratified":
            return stratified_split(source.labels, TEST_FRACTION, seed=0)
        parts = divide(source.image_hashes, source.labels, TEST_FRACTION)
        _require_each_class(source, parts[1])
    except DataError as error:
        raise DataError(
            f"{source.name}: too few images to divide into train and test: {error} Add images, or make the folders "
            "train and test."
        ) from error
    return parts


def _require_each_class(source: Source, test: Indices) -> None:
    """Raises: DataError if a class has nothing to test on."""
    lacking = set(source.labels.tolist()) - set(source.labels[test].tolist())
    if lacking:
        first = min(lacking)
        count = int((source.labels == first).sum())
        found = "a single image" if count == 1 else f"{count} images, all of the same content"
        raise DataError(f"class {source.classes[first]} has {found}.")
