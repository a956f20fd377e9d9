"""What evaluations and predictions return, and the files that hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vggnet.data.masks import decode_mask
from vggnet.errors import ConfigError, DataError
from vggnet.files import escaped, replacing
from vggnet.metrics import ClassScores, PerImage
from vggnet.report.text import SKIP

RESULT = "test.json"
PER_IMAGE = "predictions.parquet"
OLD_PER_IMAGE = "answers.parquet"  # its name in version 0.1
PREDICTIONS, CONFUSION = "predictions.png", "confusion.png"
EXAMPLES = "examples.png"
COLUMNS = ("true", "predicted", "confidence", "loss")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What every evaluation says: data, model, machine and time."""

    images: int
    data: str
    split: str
    fingerprint: str  # of the data
    model: str
    seconds: float  # from the first batch to the last
    device: str
    torch: str  # version
    date: str  # UTC
    unreadable: dict[int, str] = field(default_factory=dict)  # places in the data that do not count -> why
    trained_on: int | None = None  # images that the network was trained on; None if that is not known
    files: tuple[Path, ...] = ()  # the figures that were drawn
    notes: tuple[str, ...] = ()  # what was left out, and why; images that were trained on
    error: str | None = None  # why the result or its figures could not be written


@dataclass(frozen=True, kw_only=True)
class EvaluationResult(Evaluation):
    """What an evaluation found, and on which data. Classes are in the model's order."""

    top1: float  # 0..1, accuracy
    top5: float  # 0..1, the true class is among the first min(5, C)
    loss: float  # nats, mean cross-entropy
    per_class: dict[str, float | None]  # 0..1, accuracy; None for a class without images
    scores: dict[str, ClassScores]  # of each class: precision, recall, F1, ROC AUC
    macro: ClassScores  # their mean over the classes that have images
    weighted: ClassScores  # the same, each class by its images
    confusion: tuple[tuple[int, ...], ...]  # (C, C) counts, rows are true classes
    calibration_error: float  # 0..1
    classes: tuple[str, ...]
    protocol: str
    scales: tuple[int, ...]  # pixels, the shorter side of the images
    views: int  # of each image, by each network

    @property
    def score(self) -> float:
        """By what networks are compared, 0..1, higher is better: the accuracy."""
        return self.top1


@dataclass(frozen=True, kw_only=True)
class LocalizationResult(Evaluation):
    """What an evaluation of boxes found. A box is correct if its IoU with the true one is above 0.5 (ILSVRC)."""

    error_class_given: float  # 0..1, of the box for the true class
    error_top1: float | None  # 0..1, of class and box: the first class is the true one and its box is correct
    error_top5: float | None  # 0..1, the true class is among the first five; None without a classifier
    mean_overlap: float  # 0..1, intersection over union, with the class given
    error_whole_image: float  # 0..1, of the whole image as a box: what a network must beat
    error_constant_box: float | None  # 0..1, of the box that fits the most of train; None if train has no boxes
    scales: tuple[int, ...]  # pixels, the shorter side of the images
    flip: bool  # whether their mirror images were seen as well
    classifier: str | None

    @property
    def score(self) -> float:
        """By what networks are compared, 0..1, higher is better: the share of correct boxes with the class given."""
        return 1 - self.error_class_given


@dataclass(frozen=True, kw_only=True)
class SegmentationResult(Evaluation):
    """What an evaluation of masks found, from counts of pixels. Classes are in the model's order."""

    mean_iou: float  # 0..1, over the classes that have an IoU
    pixel_accuracy: float  # 0..1
    mean_accuracy: float  # 0..1, over the classes that the masks have
    loss: float  # nats, mean over the images of the mean over their pixels
    iou: dict[str, float | None]  # of each class, 0..1; None for one that neither masks nor predictions have
    accuracy: dict[str, float | None]  # of each class, 0..1, the share of its pixels that are predicted as it
    pixels: tuple[tuple[int, ...], ...]  # (C, C) counts, rows are true classes, columns predicted ones
    ignored_pixels: int  # which have no class, and do not count
    classes: tuple[str, ...]
    scales: tuple[int, ...]  # pixels, the shorter side of the images as the network sees them
    flip: bool  # whether their mirror images were seen as well

    @property
    def score(self) -> float:
        """By what networks are compared, 0..1, higher is better: the mean IoU."""
        return self.mean_iou


@dataclass(frozen=True, kw_only=True)
class DetectionResult(Evaluation):
    """What an evaluation of found objects found, as COCO defines it. Classes are in the model's order."""

    map: float  # 0..1, mean average precision over the classes that have objects and over IoU 0.5, 0.55, ..., 0.95
    map_50: float  # 0..1, at IoU 0.5
    map_75: float  # 0..1, at IoU 0.75
    recall: float  # 0..1, mean over the same IoU, of up to 100 boxes an image
    ap: dict[str, float | None]  # of each class, 0..1, over IoU 0.5 to 0.95; None for one without objects
    ap_50: dict[str, float | None]  # of each class, 0..1, at IoU 0.5
    objects: dict[str, int]  # of each class
    classes: tuple[str, ...]

    @property
    def score(self) -> float:
        """By what networks are compared, 0..1, higher is better: the mean average precision at IoU 0.5."""
        return self.map_50


@dataclass(frozen=True, kw_only=True)
class FoundObject:
    """An object on a picture."""

    label: str  # its class
    score: float  # 0..1, the probability of the class
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright picture


@dataclass(frozen=True, kw_only=True)
class FoundObjects:
    """The objects on one picture, or why the picture cannot be read."""

    name: str  # the file's path, or "image 3" for the third of the pictures given
    objects: tuple[FoundObject, ...] = ()  # best first, with a score of 0.01 at least
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class PredictedMask:
    """The class of each pixel of one picture, or why the picture cannot be read."""

    name: str  # the file's path, or "image 3" for the third of the pictures given
    shares: dict[str, float] = field(default_factory=dict)  # of the pixels, 0..1, by class; the largest first
    error: str | None = None
    classes: tuple[str, ...] = field(default=(), metadata=SKIP)  # of all indices
    png: bytes | None = field(default=None, repr=False, metadata=SKIP)  # a file of class indices, with a palette

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Class indices (H, W), in pixels of the upright picture.  Raises: DataError if it could not be read."""
        if self.png is None:
            raise DataError(f"{self.error}; so it has no mask.")
        return decode_mask(self.png, name=self.name)


@dataclass(frozen=True, kw_only=True)
class FoundMap:
    """A map of one picture."""

    largest: float  # of all values
    share: float  # of the pixels, 0..1, with a value of at least 0.5
    values: NDArray[np.float32] = field(repr=False, metadata=SKIP)  # (H, W), in pixels of the upright picture


@dataclass(frozen=True, kw_only=True)
class PredictedMaps:
    """The maps of one picture, or why the picture cannot be read."""

    name: str  # the file's path, or "image 3" for the third of the pictures given
    maps: dict[str, FoundMap] = field(default_factory=dict)  # by what they show
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one picture, or why it cannot be read."""

    name: str  # the file's path, or "image 3" for the third of the pictures given
    classes: tuple[str, ...] = ()  # most probable first
    probabilities: tuple[float, ...] = ()  # 0..1, descending
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class FoundBox:
    """The box of the object in one picture, or why the picture cannot be read."""

    name: str  # the file's path, or "image 3" for the third of the pictures given
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom in pixels of the upright picture
    label: str | None = None  # the object's class; None without a classifier
    # 0..1: the probability of the class; without a classifier the share of the boxes, of all windows and classes, that
    # were merged into this one (of many boxes not all are merged, see `merge`)
    score: float | None = None
    error: str | None = None


def remove_result(folder: Path) -> None:
    """Remove what an evaluation has written into a run folder, as the weights that it was made with are replaced.

    Args:
        folder: of the run; it may have no such files.
    """
    for name in (RESULT, PER_IMAGE, OLD_PER_IMAGE, PREDICTIONS, CONFUSION, EXAMPLES):
        (folder / name).unlink(missing_ok=True)


def check_table(path: Path) -> None:
    """Raises: ConfigError for a name that says neither CSV nor parquet."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError(f"table (--table) is {path}; expected a file name that ends in .csv or .parquet.")


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a table as CSV or as parquet, as its name says.

    Args:
        path: a file name that ends in .csv or .parquet; its folder is made if missing.
        columns: names, and one value a row; text may have the characters of file names that are no UTF-8, which are
            escaped.

    Raises:
        ConfigError: another ending.
        StorageError: the file cannot be written.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.csv as csv  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    check_table(path)
    table = pa.table(
        {
            name: [escaped(value) if isinstance(value, str) else value for value in values]
            for name, values in columns.items()
        }
    )
    write = csv.write_csv if path.suffix.lower() == ".csv" else pq.write_table
    with replacing(path) as temporary:
        write(table, temporary)


def write_per_image(folder: Path, per_image: PerImage) -> None:
    """Write `predictions.parquet`, a row for each image in the order of the data.

    Args:
        folder: an existing folder.
        per_image: its columns become `true` and `predicted` (class indices), `confidence` (0..1) and `loss` (nats).

    Raises:
        StorageError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(dict(zip(COLUMNS, (tensor.numpy() for tensor in per_image), strict=True)))
    with replacing(folder / PER_IMAGE) as temporary:
        pq.write_table(table, temporary)
    (folder / OLD_PER_IMAGE).unlink(missing_ok=True)  # of an earlier evaluation


def read_per_image(folder: Path | str) -> PerImage | None:
    """The inverse of `write_per_image`; reads the file of version 0.1, too.

    Returns:
        The predictions for each image, or None if the folder has none.

    Raises:
        DataError: the file is damaged, or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder).expanduser()
    path = next((path for name in (PER_IMAGE, OLD_PER_IMAGE) if (path := folder / name).is_file()), None)
    if path is None:
        return None
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
        return PerImage(*(torch.tensor(table[column].to_numpy()) for column in COLUMNS))
    except (pa.ArrowException, KeyError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}). Remove it, and evaluate again.") from error
