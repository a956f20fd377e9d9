"""Predict the class of each pixel of any picture, and write it as a mask."""

from collections.abc import Sequence
from io import BytesIO
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
from PIL import Image

from vggnet.data.images import Picture, named_pictures, read_picture
from vggnet.data.masks import class_colors
from vggnet.errors import MissingDependencyError
from vggnet.files import make_folder, replacing
from vggnet.tasks.mask_evaluation import check_takes_every_size, mask_classes
from vggnet.tasks.results import PredictedMask
from vggnet.tasks.task import PredictionJob
from vggnet.weights.checkpoint import OpenModel

FIGURE = "overlays.png"


def predict_masks(network: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob) -> list[PredictedMask]:
    """The class of each pixel of each picture, in the order given, at the size of the upright picture.

    Raises:
        ConfigError: the network is an exported file, whose images have one size.
        ImageError: a picture cannot be read, with `on_error="raise"`.
        NonFiniteError: an output is NaN or infinite.
    """
    check_takes_every_size(network)
    return job.one_by_one(
        images,
        lambda name, picture: _as_mask(network, name, mask_classes(network, picture)),
        lambda name, error: PredictedMask(name=name, error=error),
    )


def _as_mask(network: OpenModel, name: str, indices: np.ndarray) -> PredictedMask:
    counts = np.bincount(indices.ravel(), minlength=network.num_classes)
    shares = {
        network.class_name(int(index)): float(counts[index] / indices.size)
        for index in np.argsort(-counts, kind="stable")
        if counts[index]
    }
    picture, file = Image.fromarray(indices), BytesIO()
    picture.putpalette(class_colors(network.num_classes).tobytes())  # the mode becomes P, the indices stay
    picture.save(file, "PNG")
    classes = tuple(network.class_name(index) for index in range(network.num_classes))
    return PredictedMask(name=name, shares=shares, classes=classes, png=file.getvalue())


def free_stem(name: str, taken: set[str]) -> str:
    """The name of a picture without folder and suffix, and a number if it is taken; it is taken then."""
    stem = Path(name).stem
    free = next(one for one in chain([stem], (f"{stem}-{n}" for n in count(2))) if one not in taken)
    taken.add(free)
    return free


def write_masks(images: Sequence[Picture] | Picture, predictions: Sequence[PredictedMask], folder: Path) -> str:
    """Write the mask of each picture as PNG of class indices with a palette, and draw the first ones.

    A mask has the name of its picture; where two pictures have the same, the second one gets a number.

    Args:
        images: as `predict_masks` got them.
        predictions: what it returned for them.
        folder: made if missing.

    Returns:
        What was written, for people.

    Raises:
        StorageError: the folder cannot be made, or a file not be written.
    """
    make_folder(folder)
    taken = {Path(FIGURE).stem}
    for one in predictions:
        if one.png is None:
            continue
        with replacing(folder / f"{free_stem(one.name, taken)}.png") as temporary:
            temporary.write_bytes(one.png)
    text = f"masks: {folder}, {len(taken) - 1} of {len(predictions)} pictures"
    try:
        from vggnet.report.mask_figures import MAX_OVERLAYS, draw_overlays  # matplotlib takes half a second
    except MissingDependencyError as error:
        return f"{text}; no figure: {error}"
    readable = ((named, one) for named, one in zip(named_pictures(images), predictions, strict=True) if one.png)
    shown = list(islice(readable, MAX_OVERLAYS))
    draw_overlays(
        [(read_picture(*named), one.mask, Path(one.name).name) for named, one in shown],
        shown[0][1].classes,
        folder / FIGURE,
    )
    return f"{text}; drawn: {folder / FIGURE}"
