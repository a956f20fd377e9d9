"""Predict the box of the object in any picture (paper, appendix A)."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from vggnet.data.boxes import resize_factors
from vggnet.data.images import Picture, named_pictures, read_picture
from vggnet.errors import ConfigError
from vggnet.report.evaluation_text import box_caption
from vggnet.tasks.box_geometry import clip, merge
from vggnet.tasks.protocols import default_batch_size
from vggnet.tasks.results import FoundBox
from vggnet.tasks.task import PredictionJob
from vggnet.tasks.windows import Windows, require_one_kind, windows_of
from vggnet.weights.checkpoint import OpenModel


def predict_boxes(network: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob) -> list[FoundBox]:
    """One box for each picture, in the order given: the boxes of all windows of the whole picture, merged (`merge`).

    With a classifier, its softmax in each window is the score of the window's boxes. Without one, the boxes of all
    classes count the same.

    Raises:
        ConfigError: the classifier takes other crops, or has a class that the network has no box for.
        ImageError: a picture cannot be read, with `on_error="raise"`.

    Source:
        arXiv:1409.1556, appendix A.
    """
    if job.classifier is not None:
        require_one_kind([network, job.classifier])
    windows, classes = windows_of(network), None if job.classifier is None else windows_of(job.classifier)
    of_class = [] if classes is None else _boxes_of_classes(windows, classes)
    return job.one_by_one(
        images,
        lambda name, picture: _find(windows, classes, of_class, name, picture),
        lambda name, error: FoundBox(name=name, error=error),
    )


def draw_found(images: Sequence[Picture] | Picture, found: Sequence[FoundBox], path: Path) -> int:
    """Draw the first pictures with their boxes, and return how many. `found` is what `predict_boxes` says of `images`.

    Raises: StorageError if `path` cannot be written.
    """
    from vggnet.report.figures import MAX_PREDICTIONS, draw_boxes  # matplotlib takes half a second

    readable = ((named, one) for named, one in zip(named_pictures(images), found, strict=True) if one.box is not None)
    shown = list(islice(readable, MAX_PREDICTIONS))
    draw_boxes(
        [read_picture(*named) for named, _ in shown],
        [one.box for _, one in shown if one.box is not None],
        [f"{Path(one.name).name}\n{box_caption(one)}" for _, one in shown],
        path,
    )
    return len(shown)


def _find(
    network: Windows, classes: Windows | None, of_class: Sequence[int], name: str, image: Image.Image
) -> FoundBox:
    """Raises: ImageError; NonFiniteError."""
    preprocess = network.ready.preprocess
    pixels, max_pixels = preprocess.whole(image)[None], default_batch_size(preprocess) * preprocess.crop**2
    edges = network.boxes(pixels, max_pixels)[0]  # (1 or K, h, w, 4)
    label, scores, score = None, np.ones(edges.shape[:3]), None
    if classes is not None:
        logits = classes.outputs(pixels, max_pixels)[0].double()  # (K, h, w)
        probabilities = logits.mean((1, 2)).softmax(0)
        best = int(probabilities.argmax())
        label, score = classes.ready.class_name(best), float(probabilities[best])
        edges, scores = edges[[of_class[best]]], logits.softmax(0)[best].numpy()
    sizes = np.array([image.size], dtype=np.float64)
    factors = np.tile(resize_factors(sizes, preprocess.resize), 2)
    boxes, sums = merge(edges.reshape(-1, 4) / factors, scores.reshape(-1))
    left, top, right, bottom = clip(boxes[:1], sizes)[0].tolist()
    share = float(sums[0] / sums.sum())
    return FoundBox(name=name, box=(left, top, right, bottom), label=label, score=share if score is None else score)


def _boxes_of_classes(network: Windows, classes: Windows) -> list[int]:
    """Which box belongs to each class of the classifier.  Raises: ConfigError for one without a box."""
    ready, scorer = network.ready, classes.ready
    if network.network.architecture.boxes == "shared":
        return [0] * scorer.num_classes
    names: Sequence[object] = range(scorer.num_classes)
    known: Sequence[object] = range(ready.num_classes)
    if ready.classes is not None and scorer.classes is not None:
        names, known = scorer.classes, ready.classes
    missing = [name for name in names if name not in known]
    if missing:
        raise ConfigError(
            f"the classifier knows {len(missing)} classes, such as {missing[0]}, for which the other network has no "
            f"box. Give a classifier of these {len(known)}: {', '.join(map(str, known[:5]))}, ..."
        )
    return [known.index(name) for name in names]
