"""Find the objects on any picture, and draw them."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from vggnet.data.images import Picture, named_pictures, read_picture
from vggnet.errors import ImageError
from vggnet.progress import report_progress
from vggnet.report.evaluation_text import SURE
from vggnet.tasks.default_boxes import Detections
from vggnet.tasks.detection_evaluation import find_objects
from vggnet.tasks.results import FoundObject, FoundObjects
from vggnet.tasks.task import PredictionJob
from vggnet.weights.checkpoint import OpenModel


def predict_objects(network: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob) -> list[FoundObjects]:
    """The objects on each picture, in the order given; `top` of the job is the most of a picture.

    Raises:
        ImageError: a picture cannot be read, with `on_error="raise"`.
        NonFiniteError: an output is NaN or infinite.
    """
    results, pictures = list[FoundObjects](), list(named_pictures(images))
    with report_progress(job.progress, "predicting") as report:
        for first in range(0, len(pictures), job.batch_size):
            batch = pictures[first : first + job.batch_size]
            pixels, sizes, errors = [], [], dict[int, str]()
            for place, (name, image) in enumerate(batch):
                try:
                    picture = read_picture(name, image)
                    pixels.append(network.preprocess.pixels(picture))
                    sizes.append(picture.size)
                except ImageError as error:
                    if job.on_error == "raise":
                        raise error.named(name) from error
                    errors[place] = str(error.named(name))
            found = iter(find_objects(network, pixels, sizes) if pixels else ())
            for place, (name, _) in enumerate(batch):
                objects = () if place in errors else _objects(network, next(found), job.top)
                results.append(FoundObjects(name=name, objects=objects, error=errors.get(place)))
            report(len(results), len(pictures))
    return results


def _objects(network: OpenModel, found: Detections, top: int | None) -> tuple[FoundObject, ...]:
    rows = zip(*(values[:top].tolist() for values in found), strict=True)
    return tuple(
        FoundObject(label=network.class_name(label), score=score, box=(box[0], box[1], box[2], box[3]))
        for box, score, label in rows
    )


def draw_objects(images: Sequence[Picture] | Picture, predictions: Sequence[FoundObjects], path: Path) -> str:
    """Draw the first pictures with the objects that have a score of at least SURE.

    Args:
        images: as `predict_objects` got them.
        predictions: what it returned for them.
        path: the PNG file.

    Returns:
        What was drawn, for people.

    Raises:
        StorageError: the file cannot be written.
        MissingDependencyError: without matplotlib.
    """
    from vggnet.report.object_figures import MAX_PICTURES, DrawnBox, draw_objects  # matplotlib takes half a second

    pairs = zip(named_pictures(images), predictions, strict=True)
    shown = list(islice(((named, one) for named, one in pairs if one.error is None), MAX_PICTURES))
    classes = sorted({found.label for _, one in shown for found in one.objects if found.score >= SURE})
    pictures = []
    for named, one in shown:
        sure = [found for found in one.objects if found.score >= SURE]
        boxes = [DrawnBox(found.box, classes.index(found.label), found.score) for found in sure]
        pictures.append((read_picture(*named), boxes, Path(one.name).name))
    draw_objects(pictures, classes, path)
    return f"drawn: {path}, {len(shown)} of {len(predictions)} pictures, objects with a score of at least {SURE}"
