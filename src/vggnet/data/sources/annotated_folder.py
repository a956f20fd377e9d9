"""What folders of images with masks and with objects have in common: places of splits, lists of names, division."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from vggnet.data.formats import is_image_name
from vggnet.data.sources.image_folder import FolderSource, divide_folder
from vggnet.data.sources.layout import DIVIDED, Layout
from vggnet.data.sources.source import Source, same_split
from vggnet.data.splits import Indices, Rule
from vggnet.data.walking import data_files
from vggnet.errors import DataError

CLASSES = "classes.txt"  # a name a line


class Place(NamedTuple):
    """Where a split lies."""

    images: Path
    annotations: Path  # a folder with a file for each image, or one file for all of them
    names: tuple[str, ...] | None = None  # of its images without suffix, if it has not all of them

    def image_files(self) -> list[Path]:
        """The image files of the split."""
        if self.names is not None:
            return [self.images / f"{name}.jpg" for name in self.names]
        return [file for file in data_files(self.images) if is_image_name(file)]

    def annotation_of(self, image: Path, suffix: str) -> Path:
        """The file beside an image, in the folder of annotations."""
        return self.annotations / image.relative_to(self.images).with_suffix(suffix)


def are_folders(*paths: Path) -> bool:
    """Whether all of these are folders; False where one cannot be reached."""
    return all(os.path.isdir(path) for path in paths)  # noqa: PTH112 (pathlib's raises there)


def listed_names(file: Path) -> tuple[str, ...]:
    """The names in a list of PASCAL VOC, the first word of each line.  Raises: DataError."""
    return tuple(line.split()[0] for line in _lines(file, "the name of an image"))


def class_names(folder: Path) -> tuple[str, ...]:
    """The names in `classes.txt` of a data set, none without the file.  Raises: DataError."""
    file = folder / CLASSES
    return tuple(_lines(file, "the name of a class")) if file.is_file() else ()


def found_split(folder: Path, split: str, places: Mapping[str, Place]) -> str:
    """The name by which the places have a split.  Raises: DataError if they have none."""
    found = same_split(split, places)
    if found is None:
        raise DataError(f"{folder}: no split {split!r}; expected one of {', '.join(places)}.")
    return found


class AnnotatedFolder(FolderSource, ABC):
    """Image files with annotations. All have the label 0: images are not of one class.

    Args:
        path: the folder of the data set.
        split: its name.
        place: where its images lie.
        classes: of the annotations.
        files: of the images.
        expected: the layout, for the message where there are no images.
    """

    def __init__(
        self, path: Path, split: str, place: Place, classes: Sequence[str], files: Sequence[Path], *, expected: str
    ) -> None:
        if not files:
            raise DataError(f"{place.images}: no images of the split {split}; {expected}.")
        super().__init__(path, place.images, split, classes, [(file, 0) for file in files], Layout({}, {}, ()))
        self._place = place

    def part(self, indices: Indices) -> Self:
        """Some of the images."""
        part = self._of([Path(self._files[index]) for index in indices])
        part.image_hashes = self.image_hashes[indices]  # not read twice
        return part

    @abstractmethod
    def _of(self, files: Sequence[Path]) -> Self:
        """The same with these images alone."""


def divided(source: AnnotatedFolder, places: Mapping[str, Place], rule: Rule) -> Source:
    """The source, or of a folder without splits the part that its split is; see `divide_folder`."""
    if tuple(places) != DIVIDED or source.split == "all":
        return source
    return source.part(divide_folder(source, rule)[DIVIDED.index(source.split)])


def _lines(file: Path, expected: str) -> list[str]:
    """The lines that are not empty.  Raises: DataError."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); expected {expected} in each line.") from error
