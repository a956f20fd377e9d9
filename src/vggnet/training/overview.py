"""The first line of `vgg train`: the preset and why, the images of each split, classes, sizes, and what is ignored."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from vggnet.data.inspection import typical_size
from vggnet.data.near_copies import count_near_copies, sketch_source
from vggnet.data.sources.layout import DIVIDED
from vggnet.data.sources.opening import count_images, open_source, source_splits
from vggnet.data.sources.source import BY_NAME, Columns, Source
from vggnet.data.sources.stream import Stream
from vggnet.errors import DataError
from vggnet.progress import Progress
from vggnet.training.config import TrainConfig
from vggnet.training.inputs import Division

NAMED = 3  # ignored files
MAX_COMPARED = 10_000  # images; `vgg data` compares more


def first_line(
    data: str | Path | Source,
    division: Division,
    config: TrainConfig,
    columns: Columns = BY_NAME,
    *,
    preset: str | None,
    is_chosen: bool,
) -> str:
    """What a training starts with, in one line.

    Args:
        data: as given.
        division: its images.
        config: of the training.
        columns: as for `open_source`.
        preset: the name of the preset that the configuration comes from, if it does.
        is_chosen: whether the data have chosen the preset.

    Raises:
        DataError: no image can be read.
    """
    source = division.source
    width, height = typical_size(source)
    why = f"chosen for images of {width} x {height}" if is_chosen else f"as given; images are of {width} x {height}"
    crop = config.data.crop
    parts = [
        f"preset {preset} ({why})" if preset else f"own options (images are of {width} x {height})",
        ", ".join(_counts(data, division, columns)),
        f"{len(source.classes):,} classes",
        f"seen at {crop} x {crop}",
        *(["products in bfloat16"] if config.run.precision == "bfloat16" else []),
    ]
    ignored = source.ignored()
    if ignored:
        names = ", ".join(Path(name).name for name in ignored[:NAMED]) + (", ..." if len(ignored) > NAMED else "")
        parts.append(f"ignored: {len(ignored):,} files ({names})")
    return " | ".join(parts)


def near_copies_line(data: str | Path | Source, counts: Mapping[str, int]) -> str | None:
    """The line about near-copies that a training prints; None if there are none.

    Args:
        data: as given.
        counts: see `near_copies`.
    """
    if not counts:
        return None
    found = " and ".join(f"{count:,} {what} images" for what, count in counts.items())
    return f"near-copies: {found} look like images to train on; vgg data {data} --duplicates names them"


def near_copies(
    data: str | Path | Source, division: Division, columns: Columns = BY_NAME, *, progress: Progress = False
) -> dict[str, int]:
    """How many images to validate or test on look nearly like one to train on, where they were divided here.

    Args:
        data: as given.
        division: its images.
        columns: as for `open_source`.
        progress: as for `vggnet.train`.

    Returns:
        {"validation" or "test": images}, where there are some; nothing for more than MAX_COMPARED images.
    """
    source = division.source
    is_carved = division.val_source is source and len(division.val_indices) > 0
    if isinstance(source, Stream) or source.is_fixed or len(source) > MAX_COMPARED:
        return {}
    is_divided = source_splits(data) == DIVIDED
    if not (is_carved or is_divided):
        return {}
    train = sketch_source(source, division.train_indices.tolist(), progress=progress)
    counts = {}
    if is_carved:
        counts["validation"] = count_near_copies(sketch_source(source, division.val_indices.tolist()), train)
    if is_divided:
        with suppress(DataError):  # testing comes later
            test = open_source(data, "test", columns=columns)
            counts["test"] = count_near_copies(sketch_source(test, range(len(test))), train)
    return {what: count for what, count in counts.items() if count}


def _counts(data: str | Path | Source, division: Division, columns: Columns) -> list[str]:
    """How many images each split has, as far as it is known."""
    counts = [f"train {len(division.train_indices):,}"]
    if len(division.val_indices):
        carved = division.val_source is division.source
        whence = "of train" if carved else f"split {division.val_source.split}"
        counts.append(f"val {len(division.val_indices):,} ({whence})")
    with suppress(DataError):  # testing comes later
        test = count_images(data, "test", columns)
        if test is not None:
            counts.append(f"test {test:,}")
    return [*counts[:-1], f"{counts[-1]} images"]
