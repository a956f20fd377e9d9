"""Predict the box of the object in any picture (paper, appendix A)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from vggnet.data.boxes import resize_factors
from vggnet.data.images import Picture, named_pictures, read_picture
from vggnet.errors import ConfigError, ImageError
from vggnet.evaluation.predict import Model, OnError, open_classifier, open_with_head
from vggnet.evaluation.protocols import default_batch_size
from vggnet.evaluation.windows import Windows, require_boxes, require_one_kind, windows_of
from vggnet.progress import Progress, report_progress
from vggnet.report.evaluation_text import box_caption
from vggnet.tasks.box_geometry import clip, merge
from vggnet.weights.checkpoint import OpenModel


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


def find_boxes(
    model: Model, images: Sequence[Picture] | Picture, *, classifier: Model | None = None, device: str | None = None
) -> list[FoundBox]:
    """`vggnet.predict` of a model that predicts boxes, by its name in version 0.1."""
    opened = open_with_head(model, device)
    require_boxes(opened)
    return predict_boxes(opened, images, classifier=classifier, device=device)


def predict_boxes(
    opened: OpenModel,
    images: Sequence[Picture] | Picture,
    *,
    classifier: Model | None = None,
    device: str | None = None,
    progress: Progress = False,
    on_error: OnError = "return",
) -> list[FoundBox]:
    """One box for each picture, in the order given: the boxes of all windows of the whole picture, merged (`merge`).

    Args:
        opened: a network that predicts boxes.
        images: as for `vggnet.predict`.
        classifier: a network for the class, whose softmax in each window is the score of the window's boxes. Without
            one, the boxes of all classes count the same.
        device: of the classifier.
        progress: as for `vggnet.predict`.
        on_error: as for `vggnet.predict`.

    Raises:
        ConfigError: `classifier` gives no classes, takes other crops, or has a class that the network has no box for.
        ImageError: a picture cannot be read, with `on_error="raise"`.

    Source:
        arXiv:1409.1556, appendix A.
    """
    scorer = None if classifier is None else open_classifier(classifier, device)
    if scorer is not None:
        require_one_kind([opened, scorer])
    network, classes = windows_of(opened), None if scorer is None else windows_of(scorer)
    of_class = [] if classes is None else _boxes_of_classes(network, classes)
    found, pictures = [], list(named_pictures(images))
    with report_progress(progress, "predicting") as report:
        for name, image in pictures:
            try:
                found.append(_find(network, classes, of_class, name, read_picture(name, image)))
            except ImageError as error:
                if on_error == "raise":
                    raise error.named(name) from error
                found.append(FoundBox(name=name, error=str(error.named(name))))
            report(len(found), len(pictures))
    return found


def draw_found(images: Sequence[Picture] | Picture, found: Sequence[FoundBox], path: Path) -> int:
    """Draw the first pictures with their boxes, and return how many. `found` is what `find_boxes` says of `images`.

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
