"""The box around what any picture shows, as a network that gives boxes finds it (paper, appendix A)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from vggnet.data.boxes import resize_factors
from vggnet.data.images import Picture, named_pictures, read_picture
from vggnet.errors import ConfigError, ImageError
from vggnet.evaluation.predict import open_classifier, open_with_head
from vggnet.evaluation.protocols import default_batch_size
from vggnet.evaluation.windows import Windows, require_boxes, require_one_kind, windows_of
from vggnet.models.vgg import VGG
from vggnet.tasks.box_geometry import clip, merge


@dataclass(frozen=True, kw_only=True)
class FoundBox:
    """Where the object of one picture is, or why the picture could not be read."""

    name: str  # the file's path, or "image 3" for the third of the pictures given
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom in pixels of the upright picture
    label: str | None = None  # the object's class; None without a classifier
    # 0..1: the probability of the class; without a classifier the share of the boxes, of all windows and classes, that
    # were merged into this one (of many boxes not all are merged, see `merge`)
    score: float | None = None
    error: str | None = None


def find_boxes(
    model: VGG | Path | str,
    images: Sequence[Picture] | Picture,
    *,
    classifier: VGG | Path | str | None = None,
    device: str | None = None,
) -> list[FoundBox]:
    """One box for each picture, in the order given: the boxes of all windows of the whole picture, merged (`merge`).

    model, images, device: as for `predict`, of a network that gives boxes.
    classifier: a network for the class, whose softmax in each window is the score of the window's boxes. Without one,
        the boxes of all classes count the same.
    Raises: ConfigError if `model` gives no boxes, `classifier` does, they take other crops, or `model` has no box for a
        class of `classifier`; others as `predict`.
    """
    ready = open_with_head(model, device)
    require_boxes(ready)
    scorer = None if classifier is None else open_classifier(classifier, device)
    if scorer is not None:
        require_one_kind([ready, scorer])
    network, classes = windows_of(ready), None if scorer is None else windows_of(scorer)
    of_class = [] if classes is None else _boxes_of_classes(network, classes)
    found = []
    for name, image in named_pictures(images):
        try:
            found.append(_find(network, classes, of_class, name, read_picture(name, image)))
        except ImageError as error:
            found.append(FoundBox(name=name, error=str(error.named(name))))
    return found


def boxes_json(found: Sequence[FoundBox]) -> str:
    """A JSON array of objects with `name`, `box`, `label`, `score` and `error`."""
    return json.dumps([asdict(one) for one in found], ensure_ascii=False)


def boxes_table(found: Sequence[FoundBox]) -> str:
    """The name of each picture, and below it what was found and where; for an unreadable one its error."""
    lines = []
    for one in found:
        lines.append(one.error or one.name)
        if one.box is not None:
            left, top, right, bottom = (f"{edge:.1f}" for edge in one.box)
            lines.append(f"  {_caption(one)}  left {left}, top {top}, right {right}, bottom {bottom}")
    return "\n".join(lines)


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
        [f"{Path(one.name).name}\n{_caption(one)}" for _, one in shown],
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


def _caption(one: FoundBox) -> str:
    assert one.score is not None
    return f"{one.label or 'object'}  {100 * one.score:.2f} %"
