"""Predict the classes of pictures, preprocessed as the network was trained."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import torch
from torch import Tensor

from vggnet.data.images import Picture, named_pictures, read_pixels
from vggnet.devices import usable_cores
from vggnet.errors import ImageError
from vggnet.metrics import check_finite_logits
from vggnet.progress import report_progress
from vggnet.tasks.results import Prediction
from vggnet.tasks.task import PredictionJob
from vggnet.weights.checkpoint import OpenModel, inference_mode

TOP = 5  # classes of a prediction, by default


def predict_classes(classifier: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob) -> list[Prediction]:
    """The most probable classes of each picture; equal probabilities rank by class index.

    Raises:
        ImageError: a picture cannot be read, with `on_error="raise"`.
        NonFiniteError: an output is NaN or infinite.
    """
    pictures = list(named_pictures(images))
    predictions: list[Prediction] = []
    with ThreadPoolExecutor(usable_cores()) as pool, report_progress(job.progress, "predicting") as report:
        for start in range(0, len(pictures), job.batch_size):
            batch = pictures[start : start + job.batch_size]
            pixels = list(pool.map(read_pixels, batch, repeat(classifier.preprocess)))
            unreadable = next((image for image in pixels if isinstance(image, ImageError)), None)
            if unreadable is not None and job.on_error == "raise":
                raise unreadable
            names = [name for name, _ in batch]
            predictions += _predict_batch(classifier, names, pixels, TOP if job.top is None else job.top)
            report(len(predictions), len(pictures))
    return predictions


def _predict_batch(
    classifier: OpenModel, names: Sequence[str], pixels: Sequence[Tensor | ImageError], top: int
) -> list[Prediction]:
    readable = [image for image in pixels if isinstance(image, Tensor)]
    best = iter(_best(classifier, torch.stack(readable), top) if readable else ())
    return [
        Prediction(name=name, error=str(image)) if isinstance(image, ImageError) else _named(name, *next(best))
        for name, image in zip(names, pixels, strict=True)
    ]


def _best(classifier: OpenModel, images: Tensor, top: int) -> list[tuple[list[str], list[float]]]:
    """uint8 (N, C, H, W) -> the most probable classes of each image, and their probabilities."""
    logits = class_logits(classifier, classifier.preprocess.normalize(images.to(classifier.device)))
    check_finite_logits(logits)
    return rank_classes(classifier, logits.softmax(1), top)


def class_logits(classifier: OpenModel, inputs: Tensor) -> Tensor:
    """The outputs of a network.

    Args:
        classifier: a network with classes.
        inputs: float32 (N, C, H, W), normalized, on any device.

    Returns:
        float64 (N, K), on the CPU; the softmax of a row is the probabilities.
    """
    with inference_mode(classifier.network):
        logits: Tensor = classifier.network(inputs.to(classifier.device)).cpu().double()
    return logits


def rank_classes(classifier: OpenModel, probabilities: Tensor, top: int) -> list[tuple[list[str], list[float]]]:
    """The most probable classes of each image, and their probabilities; equal ones rank by class index.

    Args:
        classifier: gives the class names.
        probabilities: (N, K).
        top: how many classes.
    """
    values, order = probabilities.sort(dim=1, descending=True, stable=True)
    classes = [[classifier.class_name(index) for index in row] for row in order[:, :top].tolist()]
    return list(zip(classes, values[:, :top].tolist(), strict=True))


def _named(name: str, classes: list[str], probabilities: list[float]) -> Prediction:
    return Prediction(name=name, classes=tuple(classes), probabilities=tuple(probabilities))
