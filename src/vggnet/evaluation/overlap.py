"""Whether a test has images that the network was trained on, by what run folders keep of their images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from vggnet.data.sources.layout import DIVIDED
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.source import BY_NAME, Columns, Source, usual_split
from vggnet.data.splits import Rule
from vggnet.data.trained_on import TrainedOn
from vggnet.errors import DataError
from vggnet.weights.checkpoint import Checkpoint


class Tested(NamedTuple):
    """The images of a test, and what is known of them."""

    source: Source
    trained_on: int | None  # images that one of the networks was trained on; None if that is not known
    notes: tuple[str, ...]  # warnings


def open_test(models: Sequence[Any], data: str | Path, split: str, columns: Columns = BY_NAME) -> Tested:
    """Open the images of a test, and compare them with those that the networks were trained on.

    A folder without splits is divided as it was for the training.

    Args:
        models: networks, run folders, files or names.
        data: as for `open_source`.
        split: the name of the split.
        columns: as for `open_source`.

    Raises:
        DataError: the data cannot be opened; or all images were trained on, and the split is not train.
        WeightsError: a file of weights is damaged.
        RunError: what a run has kept of its images is damaged.
    """
    rule, notes = _division(models, data, columns)
    source = open_source(data, split, rule=rule, columns=columns)
    seen = [found for model in _paths(models) if (found := TrainedOn.read(model)) is not None]
    counts = [count for found in seen if (count := found.among(source)) is not None]
    if not counts:
        return Tested(source, None, notes)
    count = max(counts)
    if count == len(source) and usual_split(source.split) != "train":
        raise DataError(
            f"{source.name}, split {source.split}: all {count:,} images were trained on, so they are no test. Give "
            "other images, or --split train to see how well the network knows its training images."
        )
    if count:
        images = f"{count:,} of {len(source):,} images were trained on"
        notes = (*notes, f"warning: {images}; the result does not say how well new images are recognized.")
    return Tested(source, count, notes)


def _division(models: Sequence[Any], data: str | Path, columns: Columns) -> tuple[Rule, tuple[str, ...]]:
    """How a folder without splits is divided, and a warning if that is not known any more.

    Earlier versions had another rule, by which images move between train and test when the folder changes.
    """
    old = [description for description in _descriptions(models) if "split_rule" not in description]
    if not old or source_splits(data) != DIVIDED:
        return "content", ()
    train = open_source(data, "train", rule="stratified", columns=columns)
    if any(train.contents == description.get("contents") for description in old):
        return "stratified", ()
    if all(Path(str(description.get("data"))).resolve() != Path(data).expanduser().resolve() for description in old):
        return "content", ()  # other images than those of the training
    if any(train.fingerprint == description.get("fingerprint") for description in old):
        return "stratified", ()
    return "stratified", (
        f"warning: {data} has changed since the training by an earlier version, which then moved images between train "
        "and test: some of them may have been trained on. Train again, or test on other images.",
    )


def _paths(models: Sequence[Any]) -> Iterator[Path]:
    return (Path(model).expanduser() for model in models if not isinstance(model, nn.Module))


def _descriptions(models: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """What runs say of themselves."""
    for model in models:
        run = None if isinstance(model, nn.Module) else Checkpoint.open(model).provenance.get("run")
        if isinstance(run, dict):
            yield run
