"""Images with objects: VOC's XML beside each image, VOC's folders, or one file of COCO for each split."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from vggnet.data.decoded import recall
from vggnet.data.formats import is_image_name
from vggnet.data.objects import VOC, Annotated, Objects, checked_objects, read_voc_objects
from vggnet.data.sources.annotated_folder import (
    CLASSES,
    AnnotatedFolder,
    Place,
    are_folders,
    class_names,
    divided,
    found_split,
    listed_names,
)
from vggnet.data.sources.coco import COCO_NAME, read_coco
from vggnet.data.sources.layout import DIVIDED
from vggnet.data.sources.source import Source, split_rank, usual_split
from vggnet.data.splits import Rule
from vggnet.data.walking import data_files, data_folders
from vggnet.devices import usable_cores
from vggnet.errors import DataError, ImageError

VOC_IMAGES, VOC_XML, VOC_SETS = "JPEGImages", "Annotations", "ImageSets/Main"
COCO_FOLDER, COCO_PREFIX = "annotations", "instances_"
XML = ".xml"
EXPECTED = f"expected <split>/NAME.jpg with <split>/NAME.xml, <split>/{COCO_NAME}, or VOC's {VOC_IMAGES} and {VOC_XML}"

# What is said of each image, or why that cannot be read.
Annotations = Mapping[str, list[Annotated] | ImageError]
_read: dict[str, tuple[dict[str, dict[str, list[Annotated] | ImageError]], tuple[str, ...]]] = {}


def find_objects(folder: Path) -> dict[str, Place]:
    """The splits of a folder whose images have objects; none if it is laid out otherwise.

    Args:
        folder: an existing folder.

    Raises:
        DataError: two folders are the same split, or a list of VOC cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Path(folder, "train").mkdir()
        ...     for name in ("1.jpg", "1.xml"):
        ...         Path(folder, "train", name).touch()
        ...     list(find_objects(Path(folder)))
        ['train']
    """
    if are_folders(folder / VOC_IMAGES, folder / VOC_XML):
        lists = [file for file in (folder / VOC_SETS).glob("*.txt") if _is_split(file.stem)]
        if not lists:
            raise DataError(f"{folder}: no {VOC_SETS}/train.txt, which names the images of a split, as VOC has it.")
        lists.sort(key=lambda file: split_rank(file.stem))
        return {file.stem: Place(folder / VOC_IMAGES, folder / VOC_XML, listed_names(file)) for file in lists}
    files = sorted((folder / COCO_FOLDER).glob(f"{COCO_PREFIX}*.json"))
    if files:
        return _by_split(folder, [(file.stem.removeprefix(COCO_PREFIX), file) for file in files])
    places_of = [(name, place) for name in data_folders(folder) if (place := _annotations_in(folder / name))]
    found = _by_split(folder, places_of)
    if found or not (place := _annotations_in(folder)):
        return found
    return dict.fromkeys(DIVIDED, Place(folder, place))


def open_objects(folder: Path, split: str, *, rule: Rule = "content") -> Source:
    """One split of a folder whose images have objects.

    The classes are those that `classes.txt` in the folder names, a line each; without it those of the files of COCO in
    the order of their ids, or the names in the XML files of all splits, sorted. All of these files are read.

    Args:
        folder: an existing folder, as `find_objects` takes it.
        split: the name of the split.
        rule: how a folder without splits is divided, as `open_folder`.

    Raises:
        DataError: there is no such split, it has no images, there are no classes, or a file of COCO cannot be read.
    """
    places = find_objects(folder)
    found = found_split(folder, split, places)
    annotations, classes = recall(_read, _state(folder, places), lambda: _read_all(folder, places))
    return divided(ObjectFolder(folder, found, places[found], classes, annotations[found]), places, rule)


class ObjectFolder(AnnotatedFolder):
    """Image files, and the objects of each.

    Args:
        path: the folder of the data set.
        split: its name.
        place: where its images lie.
        classes: of the objects.
        annotations: of each image file, by its path.
    """

    annotation = "objects"

    def __init__(self, path: Path, split: str, place: Place, classes: Sequence[str], annotations: Annotations) -> None:
        super().__init__(path, split, place, classes, [Path(file) for file in annotations], expected=EXPECTED)
        self._annotations = annotations

    def _of(self, files: Sequence[Path]) -> "ObjectFolder":
        kept = {str(file): self._annotations[str(file)] for file in files}
        return ObjectFolder(self._path, self.split, self._place, self.classes, kept)

    def objects(self, index: int) -> Objects:
        """As its file has them, checked."""
        file = self._files[index]
        found = self._annotations[file]
        if isinstance(found, ImageError):
            raise copy(found)
        stored = self.open(index)
        with stored.image:
            size, reduced = stored.size, stored.reduced
        return checked_objects(found, classes=self.classes, size=size, reduced=reduced, name=file)

    def ignored(self) -> list[str]:
        """Files among the images that are neither images nor of the annotations, and XML files without an image."""
        if self._place.names is not None or self._place.annotations.is_file():  # other images are of other splits
            return []
        used = {str(Path(file).with_suffix(".xml")) for file in self._files}
        return [str(file) for file in data_files(self._root) if not is_image_name(file) and str(file) not in used]

    @cached_property
    def pixels_key(self) -> str:
        """Of the contents of the images, and of what is said of them."""
        digest = blake2b(self.image_hashes.tobytes(), digest_size=8)
        digest.update(repr([self.classes, *map(str, self._annotations.values())]).encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _digested(self) -> Iterator[Path]:
        yield from super()._digested()
        annotations = self._place.annotations
        if annotations.is_file():
            yield annotations
        else:
            yield from (
                file for image in self._files if (file := self._place.annotation_of(Path(image), XML)).is_file()
            )


def _is_split(name: str) -> bool:
    """Whether a list of VOC is of a split, not of one class in it."""
    return name == "trainval" or usual_split(name) is not None


def _annotations_in(folder: Path) -> Path | None:
    """Where the annotations of the images in this very folder are: a file of COCO, or itself if it has XML files."""
    if (folder / COCO_NAME).is_file():
        return folder / COCO_NAME
    names: list[Path] = []
    with suppress(OSError):  # a folder that cannot be read is for others to name
        names = [file for file in folder.iterdir() if not file.name.startswith(".")]
    has_both = any(map(is_image_name, names)) and any(file.suffix.lower() == ".xml" for file in names)
    return folder if has_both else None


def _by_split(folder: Path, named: Sequence[tuple[str, Path]]) -> dict[str, Place]:
    """Places by the splits that their names stand for, as train2017 for train.  Raises: DataError."""
    found: dict[str, tuple[str, Path]] = {}
    for name, annotations in named:
        split = usual_split(name.rstrip("0123456789"))
        if split is None:
            continue
        if split in found:
            raise DataError(f"{folder}: {found[split][0]} and {name} are both the split {split}. Rename one of them.")
        found[split] = name, annotations
    return {split: Place(_images_of(folder, *found[split]), found[split][1]) for split in sorted(found, key=split_rank)}


def _images_of(folder: Path, name: str, annotations: Path) -> Path:
    """The folder of the images: that of the annotations, or one named like their split."""
    if annotations.parent.name != COCO_FOLDER:
        return folder / name
    return next((place for place in (folder / name, folder / "images" / name) if place.is_dir()), folder / "images")


def _state(folder: Path, places: Mapping[str, Place]) -> str:
    """Changes when a file of annotations does."""
    digest = blake2b(digest_size=8)
    files = [folder / CLASSES]
    for place in dict.fromkeys(places.values()):
        is_file = place.annotations.is_file()
        files += [place.annotations] if is_file else [place.annotation_of(image, XML) for image in place.image_files()]
    for file in files:
        status = file.stat() if file.is_file() else None
        digest.update(f"{file}\0{status and (status.st_size, status.st_mtime_ns)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_all(
    folder: Path, places: Mapping[str, Place]
) -> tuple[dict[str, dict[str, list[Annotated] | ImageError]], tuple[str, ...]]:
    """What is said of the images of each split, and the classes.  Raises: DataError."""
    found: dict[str, dict[str, list[Annotated] | ImageError]] = {}
    names: dict[str, None] = {}
    for split, place in places.items():
        if place.annotations.is_file():
            coco, found_names = read_coco(place.annotations, place.images)
            found[split] = dict(coco)
        else:
            files = place.image_files()
            with ThreadPoolExecutor(usable_cores()) as pool:
                read = list(pool.map(_read_xml, [place.annotation_of(file, XML) for file in files]))
            found[split] = dict(zip(map(str, files), read, strict=True))
            found_names = sorted({one.label for of in read if not isinstance(of, ImageError) for one in of})
        names |= dict.fromkeys(found_names)
    is_coco = all(place.annotations.is_file() for place in places.values())
    classes = class_names(folder) or (tuple(names) if is_coco else tuple(sorted(names)))
    if not classes:
        raise DataError(f"{folder}: no objects, so there are no classes; {EXPECTED}.")
    return found, classes


def _read_xml(file: Path) -> list[Annotated] | ImageError:
    """What is in an XML file, or why it cannot be used."""
    try:
        if found := read_voc_objects(file):
            return found
    except DataError as error:
        return ImageError(str(error).removeprefix(f"{file}: "), name=str(file))
    return ImageError(f"no object; {VOC}. Add its objects, or remove the image.", name=str(file))
