"""Maps that published networks give for any picture, such as the probability of an edge, and their files."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.images import Picture, named_pictures, read_picture
from vggnet.errors import MissingDependencyError
from vggnet.files import make_folder, replacing
from vggnet.metrics import check_finite_logits
from vggnet.models.large_images import outputs_of_large
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.tasks.mask_evaluation import check_takes_every_size
from vggnet.tasks.mask_prediction import FIGURE, free_stem
from vggnet.tasks.results import FoundMap, PredictedMaps
from vggnet.tasks.task import PredictionJob
from vggnet.weights.checkpoint import OpenModel, inference_mode

HALF = 0.5  # from which on a pixel counts as found


def predict_maps(network: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob) -> list[PredictedMaps]:
    """The maps of each picture, in the order given, at the size of the upright picture.

    The network sees a picture at its own size; one with a side of less than 32 pixels is enlarged.

    Raises:
        ConfigError: the network is an exported file, whose images have one size.
        ImageError: a picture cannot be read, with `on_error="raise"`.
        NonFiniteError: an output is NaN or infinite.
    """
    check_takes_every_size(network)
    return job.one_by_one(
        images,
        lambda name, picture: PredictedMaps(name=name, maps=_maps_of(network, picture)),
        lambda name, error: PredictedMaps(name=name, error=error),
    )


def _maps_of(network: OpenModel, picture: Image.Image) -> dict[str, FoundMap]:
    shorter = max(TOTAL_STRIDE, min(picture.size))
    preprocess = replace(network.preprocess, resize=shorter, crop=shorter)
    with inference_mode(network.network):
        pixels = preprocess.whole(picture)[None].to(network.device)
        outputs = outputs_of_large(network.network, pixels, preprocess.normalize)
        check_finite_logits(outputs.flatten(1))
        size = (picture.height, picture.width)
        if outputs.shape[2:] != size:
            outputs = F.interpolate(outputs, size, mode="bilinear")
    named = zip(map(network.class_name, range(network.num_classes)), outputs[0].numpy(), strict=True)
    return {
        name: FoundMap(largest=float(values.max()), share=float((values >= HALF).mean()), values=values)
        for name, values in named
    }


def write_maps(images: Sequence[Picture] | Picture, predictions: Sequence[PredictedMaps], folder: Path) -> str:
    """Write each map as a gray PNG, 0 for 0 and 255 for 1 and more, and draw the first pictures with their maps.

    A file has the names of its picture and of the map.

    Args:
        images: as `predict_maps` got them.
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
        if one.error is not None:
            continue
        stem = free_stem(one.name, taken)
        for name, found in one.maps.items():
            with replacing(folder / f"{stem}-{name}.png") as temporary:
                Image.fromarray(as_gray(found.values)).save(temporary, "PNG")
    text = f"maps: {folder}, {len(taken) - 1} of {len(predictions)} pictures"
    try:
        from vggnet.report.map_figures import MAX_PICTURES, draw_maps  # matplotlib takes half a second
    except MissingDependencyError as error:
        return f"{text}; no figure: {error}"
    pairs = zip(named_pictures(images), predictions, strict=True)
    shown = islice(((named, one) for named, one in pairs if one.error is None), MAX_PICTURES)
    drawn = [
        (read_picture(*named), {name: found.values for name, found in one.maps.items()}, Path(one.name).name)
        for named, one in shown
    ]
    draw_maps(drawn, folder / FIGURE)
    return f"{text}; drawn: {folder / FIGURE}"


def as_gray(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values in 0..1 as gray, 0..255; others are clipped."""
    return (values.clip(0, 1) * 255).round().astype(np.uint8)
