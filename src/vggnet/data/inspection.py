"""What is in a data set: counts, sizes, statistics, and every image that cannot be read."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggnet.data.decoding import max_pixels
from vggnet.data.masks import IGNORED
from vggnet.data.near_copies import Sketches, count_near_copies, sketch
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.source import BY_NAME, Annotation, Columns, Source, split_rank, usual_split
from vggnet.data.sources.stream import Stream
from vggnet.errors import DataError, ImageError

MAX_COMPARED = 100_000  # images among which near-copies are counted
SAMPLE = 100  # images whose size is looked at before a training


@dataclass(frozen=True, kw_only=True)
class SplitInspection:
    """One split. Sizes, mean and std are over the readable images alone, and None if there are none."""

    split: str
    num_images: int  # readable or not
    images_per_class: dict[str, int]
    min_size: tuple[int, int] | None  # pixels, width and height apart from each other
    median_size: tuple[int, int] | None
    max_size: tuple[int, int] | None
    mean: tuple[float, ...] | None  # of all pixels, R G B, in [0, 1]
    std: tuple[float, ...] | None
    unreadable: tuple[str, ...]  # one line an image: where it lies and why
    bits: dict[int, int]  # bits of a channel that are used, if more than 8 -> images; the 8 highest are seen
    pixels_per_class: dict[str, int] | None  # of images with masks, whose images per class are those that it occurs in
    ignored_pixels: int  # of masks
    objects_per_class: dict[str, int] | None  # of images with objects, whose images per class are those with one of it
    reduced: int  # JPEGs above the limit of pixels, which are decoded to a half or a quarter of their sides


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A data set, split by split."""

    data: str
    splits: tuple[SplitInspection, ...]
    ignored: tuple[str, ...]  # files that are not taken for images, by their name or place
    near_copies: dict[str, int]  # split -> its images that look like one of train; empty for more than MAX_COMPARED

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def as_table(self) -> str:
        """Text for a terminal: one line a split, then one line a class, then the unreadable images."""
        header = ["split", "images", "unreadable", "smallest", "median", "largest", "mean (R G B)", "std (R G B)"]
        lines = [self.data, "", *_aligned([header, *(_row(split) for split in self.splits)])]
        classes = list(dict.fromkeys(name for split in self.splits for name in split.images_per_class))
        counts = [[name, *(str(split.images_per_class.get(name, 0)) for split in self.splits)] for name in classes]
        lines += ["", *_aligned([["class", *(split.split for split in self.splits)], *counts])]
        if any(split.pixels_per_class for split in self.splits):
            lines += ["", *_aligned(list(_pixel_rows(self.splits, classes)))]
        if any(split.objects_per_class for split in self.splits):
            lines += ["", *_aligned(list(_object_rows(self.splits, classes)))]
        lines += [f"{split.split}: {what}" for split in self.splits for what in _decoding(split)]
        unreadable = [message for split in self.splits for message in split.unreadable]
        if unreadable:
            lines += ["", "unreadable:", *unreadable]
        lines += [
            f"{split}: {number:,} images look nearly like images of train; vgg data {self.data} --duplicates names them"
            for split, number in self.near_copies.items()
            if number
        ]
        if self.ignored:
            lines += ["", "ignored, by their names or because they lie in no class folder:", *self.ignored]
        return "\n".join(lines)


def inspect(
    spec: str | Path, *, columns: Columns = BY_NAME, progress: Callable[[int, int], None] | None = None
) -> Inspection:
    """Read every image of the splits train, val and test of a data set (`spec` as in open_source).

    Images that cannot be read are reported, not raised. `columns`: as open_source.
    `progress` is called after each image with the number of images
    done and to do, of all splits together.
    Raises: DataError if the data set cannot be opened, or has none of these splits.
    """
    found = source_splits(spec)
    splits = sorted((split for split in found if usual_split(split)), key=split_rank)
    if not splits:
        raise DataError(
            f"{spec}: the splits are {', '.join(found)}; expected at least one of train, val, validation, test."
        )
    sources = [open_source(spec, split, columns=columns) for split in splits]
    total, done = sum(map(len, sources)), count(1)

    def tick() -> None:
        if progress:
            progress(next(done), total)

    ignored = dict.fromkeys(file for source in sources for file in source.ignored())
    inspected, sketches = [], dict[str, Sketches]()
    for source in sources:
        kept: list[Sketches] | None = [] if total <= MAX_COMPARED else None
        inspected.append(_inspect_split(source, tick, kept))
        if kept:
            sketches[usual_split(source.split) or source.split] = np.array(kept)
    train = sketches.pop("train", None)
    near_copies = {} if train is None else {split: count_near_copies(of, train) for split, of in sketches.items()}
    return Inspection(data=str(spec), splits=tuple(inspected), ignored=tuple(ignored), near_copies=near_copies)


def typical_size(source: Source) -> tuple[int, int]:
    """Width and height in pixels, the medians of SAMPLE images that are spread over a source.

    Args:
        source: the images.

    Raises:
        DataError: no image can be read.
    """
    if isinstance(source, Stream):  # those of few groups
        sample = source.order(np.arange(len(source)), seed=0, epoch=0)[:SAMPLE]
    else:
        sample = np.unique(np.linspace(0, len(source) - 1, SAMPLE).round().astype(np.int64))
    sizes = list(_sizes(source, np.sort(sample).tolist())) or list(islice(_sizes(source, range(len(source))), 1))
    if not sizes:
        raise DataError(f"{source.name}: none of its {len(source):,} images can be read; `vgg data` names them.")
    width, height = np.median(sizes, axis=0).astype(int).tolist()
    return width, height


def _sizes(source: Source, indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Of the images that can be read."""
    for index in indices:
        with suppress(ImageError):
            stored = source.open(index)
            with stored.image:
                yield stored.size


def _inspect_split(source: Source, tick: Callable[[], None], sketches: list[Sketches] | None) -> SplitInspection:
    """Looks at each image; `sketches` gets theirs."""
    sizes: list[tuple[int, int]] = []
    histograms = np.zeros((3, 256), dtype=np.int64)  # exact: the statistics do not depend on the order of the images
    unreadable: list[str] = []
    bits, reduced = Counter[int](), 0
    counts = np.zeros(max(IGNORED + 1, len(source.classes)), dtype=np.int64)  # of pixels or objects of each class
    occurs = np.zeros_like(counts)  # in how many images
    annotated = _COUNTED.get(source.annotation)
    for index in range(len(source)):
        try:
            stored = source.open(index)
            used, image = stored.bits, stored.decode()
            if annotated:
                of_image = np.bincount(annotated(source, index), minlength=len(counts))
                counts, occurs = counts + of_image, occurs + (of_image > 0)
        except ImageError as error:
            unreadable.append(str(error))
        else:
            sizes.append(image.size)
            if sketches is not None:
                sketches.append(sketch(image))
            bits.update([used] if used > 8 else [])
            reduced += stored.reduced > 1
            histograms += np.array(image.histogram(), dtype=np.int64).reshape(3, 256)
        tick()
    mean, std = _statistics(histograms) if sizes else (None, None)
    images = occurs if annotated else np.bincount(source.labels, minlength=len(source.classes))
    of_class = {source.annotation: _by_class(source.classes, counts)}
    return SplitInspection(
        split=source.split,
        num_images=len(source),
        images_per_class=_by_class(source.classes, images),
        pixels_per_class=of_class.get("mask"),
        ignored_pixels=int(counts[IGNORED]) if source.annotation == "mask" else 0,
        objects_per_class=of_class.get("objects"),
        min_size=_size(np.min, sizes),
        median_size=_size(np.median, sizes),
        max_size=_size(np.max, sizes),
        mean=mean,
        std=std,
        unreadable=tuple(unreadable),
        bits=dict(sorted(bits.items())),
        reduced=reduced,
    )


# The class of each pixel or object of an image, where images have no label.
_COUNTED: Mapping[Annotation, Callable[[Source, int], NDArray[Any]]] = {
    "mask": lambda source, index: np.array(source.mask(index)).ravel(),
    "objects": lambda source, index: source.objects(index).labels,
}


def _by_class(classes: Sequence[str], counts: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(classes, counts[: len(classes)].tolist(), strict=True))


def _pixel_rows(splits: Sequence[SplitInspection], classes: Sequence[str]) -> Iterator[list[str]]:
    """The pixels of each class, with their share of those that have a class."""
    yield ["pixels", *(split.split for split in splits)]
    counts = [split.pixels_per_class or {} for split in splits]
    for name in classes:
        cells = ((of.get(name, 0), sum(of.values())) for of in counts)
        yield [name, *(f"{count} ({100 * count / max(total, 1):.2f} %)" for count, total in cells)]
    yield ["ignored", *(str(split.ignored_pixels) for split in splits)]


def _object_rows(splits: Sequence[SplitInspection], classes: Sequence[str]) -> Iterator[list[str]]:
    """The objects of each class."""
    yield ["objects", *(split.split for split in splits)]
    for name in classes:
        yield [name, *(str((split.objects_per_class or {}).get(name, 0)) for split in splits)]


def _decoding(split: SplitInspection) -> list[str]:
    """What decoding leaves out of images that can be read."""
    lines = [
        f"{count} images use {bits} bits a channel; their 8 highest are seen" for bits, count in split.bits.items()
    ]
    if split.reduced:
        lines.append(f"{split.reduced} JPEGs have more than {max_pixels():,} pixels; they are seen reduced")
    return lines


def _statistics(histograms: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, values scaled to [0, 1], from (3, 256) counts."""
    values = np.arange(256) / 255
    weights = histograms / histograms.sum(axis=1, keepdims=True)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(axis=1)
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())


def _size(summary: Callable[..., Any], sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    if not sizes:
        return None
    width, height = summary(np.array(sizes), axis=0)
    return int(width), int(height)


def _row(split: SplitInspection) -> list[str]:
    sizes = (split.min_size, split.median_size, split.max_size)
    statistics = (split.mean, split.std)
    return [
        split.split,
        str(split.num_images),
        str(len(split.unreadable)),
        *("x".join(map(str, size)) if size else "-" for size in sizes),
        *(" ".join(f"{value:.4f}" for value in values) if values else "-" for values in statistics),
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
