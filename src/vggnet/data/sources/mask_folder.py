"""Images with masks: `path/<split>/images` and `path/<split>/masks`, the same without splits, or VOC's folders."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.decoded import recall
from vggnet.data.formats import is_image_name
from vggnet.data.hashing import hash_files
from vggnet.data.masks import IGNORED, checked_mask, decode_mask, largest_index
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
from vggnet.data.sources.layout import DIVIDED
from vggnet.data.sources.source import BY_NAME, Columns, Source, split_rank, usual_split
from vggnet.data.splits import Rule
from vggnet.data.walking import data_files, data_folders
from vggnet.devices import usable_cores
from vggnet.errors import DataError, ImageError

IMAGES, MASKS = "images", "masks"
VOC_IMAGES, VOC_MASKS, VOC_SETS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
MASK = ".png"
EXPECTED = f"expected <split>/{IMAGES}/NAME.jpg with <split>/{MASKS}/NAME.png, or VOC's {VOC_IMAGES} and {VOC_MASKS}"

_largest: dict[tuple[str, int | None], int] = {}  # largest class index, by the masks and what is ignored


def find_masks(folder: Path) -> dict[str, Place]:
    """The splits of a folder whose images have masks; none if it is laid out otherwise.

    Args:
        folder: an existing folder.

    Raises:
        DataError: two folders are the same split, or a list of VOC cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in (IMAGES, MASKS):
        ...         Path(folder, "train", name).mkdir(parents=True)
        ...     list(find_masks(Path(folder)))
        ['train']
    """
    if are_folders(folder / VOC_IMAGES, folder / VOC_MASKS):
        lists = sorted((folder / VOC_SETS).glob("*.txt"), key=lambda file: split_rank(file.stem))
        if not lists:
            raise DataError(f"{folder}: no {VOC_SETS}/*.txt, which name the images of each split, as VOC has it.")
        return {file.stem: Place(folder / VOC_IMAGES, folder / VOC_MASKS, listed_names(file)) for file in lists}
    if are_folders(folder / IMAGES, folder / MASKS):
        return dict.fromkeys(DIVIDED, Place(folder / IMAGES, folder / MASKS))
    found: dict[str, Place] = {}
    for name in data_folders(folder):
        split, place = usual_split(name), Place(folder / name / IMAGES, folder / name / MASKS)
        if split and are_folders(place.images, place.annotations):
            if split in found:
                other = found[split].images.parent.name
                raise DataError(f"{folder}: {other} and {name} are both the split {split}. Rename one of them.")
            found[split] = place
    return {split: found[split] for split in sorted(found, key=split_rank)}


def open_masks(folder: Path, split: str, *, columns: Columns = BY_NAME, rule: Rule = "content") -> Source:
    """One split of a folder whose images have masks.

    The classes are those that `classes.txt` in the folder names, a line each in the order of their indices. Without it
    all masks are read once, and classes are called "class 0" to the largest index.

    Args:
        folder: an existing folder, as `find_masks` takes it.
        split: the name of the split.
        columns: its index to ignore.
        rule: how a folder without splits is divided, as `open_folder`.

    Raises:
        DataError: there is no such split, it has no images, or there are fewer than two classes.
    """
    places = find_masks(folder)
    found = found_split(folder, split, places)
    classes = _read_classes(folder, places.values(), columns.ignore_index)
    return divided(MaskFolder(folder, found, places[found], classes, columns.ignore_index), places, rule)


class MaskFolder(AnnotatedFolder):
    """Image files, and a mask of each.

    Args:
        path: the folder of the data set.
        split: its name.
        place: where its images lie.
        classes: of the pixels.
        ignore_index: index in masks that is ignored besides 255; None for none.
        files: of the images; by default all of the place.
    """

    annotation = "mask"

    def __init__(
        self,
        path: Path,
        split: str,
        place: Place,
        classes: Sequence[str],
        ignore_index: int | None,
        files: Sequence[Path] | None = None,
    ) -> None:
        files = place.image_files() if files is None else files
        super().__init__(path, split, place, classes, files, expected=EXPECTED)
        self._ignore_index = ignore_index
        self._masks = [str(place.annotation_of(file, MASK)) for file in files]

    def _of(self, files: Sequence[Path]) -> "MaskFolder":
        return MaskFolder(self._path, self.split, self._place, self.classes, self._ignore_index, files)

    def mask(self, index: int) -> Image.Image:
        """From its file."""
        file = Path(self._masks[index])
        if not file.is_file():
            raise ImageError(
                f"has no mask: {file} does not exist. Add it, or remove the image.", name=self._files[index]
            )
        stored = self.open(index)
        with stored.image:
            size = stored.size
        return checked_mask(
            decode_mask(file),
            size=size,
            num_classes=len(self.classes),
            ignore_index=self._ignore_index,
            name=str(file),
        )

    def ignored(self) -> list[str]:
        """Files among the images that are not named as images are, and masks without an image."""
        place = self._place
        if place.names is not None:  # other images are of other splits
            return []
        others = [file for file in data_files(place.images) if not is_image_name(file)]
        used = {place.annotation_of(file, MASK) for file in place.image_files()}
        return [str(file) for file in (*others, *(file for file in data_files(place.annotations) if file not in used))]

    @cached_property
    def pixels_key(self) -> str:
        """Of the contents of images and masks, and of what is ignored."""
        hashes: NDArray[np.uint64] = hash_files([Path(mask) for mask in self._masks])
        digest = blake2b(self.image_hashes.tobytes() + hashes.tobytes(), digest_size=8)
        digest.update(str(self._ignore_index).encode())
        return digest.hexdigest()

    def _digested(self) -> Iterator[Path]:
        yield from super()._digested()
        yield from (file for mask in self._masks if (file := Path(mask)).is_file())


def _read_classes(folder: Path, places: Iterable[Place], ignore_index: int | None) -> list[str]:
    """Raises: DataError if there are fewer than two, or the file cannot be read."""
    names, where = list(class_names(folder)), str(folder / CLASSES)
    if not (folder / CLASSES).is_file():
        masks = sorted({place.annotation_of(image, MASK) for place in places for image in place.image_files()})
        where = f"the {len(masks)} masks of {folder}"
        names = [f"class {index}" for index in range(_largest_index(masks, ignore_index) + 1)]
    if not 2 <= len(names) <= IGNORED:
        raise DataError(f"{where}: {len(names)} classes; expected 2 to {IGNORED}. {EXPECTED[0].upper()}{EXPECTED[1:]}.")
    return names


def _largest_index(masks: Sequence[Path], ignore_index: int | None) -> int:
    """Of all masks that can be read, -1 if there is none."""
    digest = blake2b(digest_size=8)
    for mask in masks:
        status = mask.stat() if mask.is_file() else None
        digest.update(f"{mask}\0{status and (status.st_size, status.st_mtime_ns)}\n".encode(errors="surrogateescape"))

    def read() -> int:
        with ThreadPoolExecutor(usable_cores()) as pool:
            return max(pool.map(partial(largest_index, ignore_index=ignore_index), masks), default=-1)

    return recall(_largest, (digest.hexdigest(), ignore_index), read)
