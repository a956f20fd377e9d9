"""Predict the classes of any pictures, preprocessed as the model was trained."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vggnet.data.images import Picture, named_pictures, read_pixels
from vggnet.errors import ConfigError, ImageError, check_at_least
from vggnet.metrics import check_finite_logits
from vggnet.models.vgg import VGG
from vggnet.progress import Progress, report_progress
from vggnet.tasks import get_task
from vggnet.weights.checkpoint import OpenModel, inference_mode, open_model

if TYPE_CHECKING:
    from vggnet.evaluation.box_prediction import FoundBox

Model = VGG | Path | str
OnError = Literal["return", "raise"]
TOP = 5  # classes of a prediction


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one picture, or why it cannot be read."""

    name: str  # the file's path, or "image 3" for the third of the pictures given
    classes: tuple[str, ...] = ()  # most probable first
    probabilities: tuple[float, ...] = ()  # 0..1, descending
    error: str | None = None


def predict(
    model: Model,
    images: Sequence[Picture] | Picture,
    *,
    top: int = TOP,
    classifier: Model | None = None,
    batch_size: int = 32,
    device: str | None = None,
    progress: Progress = False,
    on_error: OnError = "return",
) -> "list[Prediction] | list[FoundBox]":
    """Predict the classes of pictures, or the box of the object in each if that is the model's task.

    Args:
        model: a network, a run folder, a `.safetensors` file or a name of `vgg weights list`.
        images: files, folders (every image below), the bytes of files, PIL images, or arrays; one or several.
        top: how many classes to return for each picture, at least 1; all of them if the model has fewer.
        classifier: for a model that predicts boxes: a model for the class, whose softmax scores the boxes.
        batch_size: pictures for each forward pass, at least 1.
        device: "cpu", "cuda", ...; by default a network stays where it is, and a file goes to the GPU if there is one.
        progress: True for a bar or lines on stderr, or a function of (pictures done, pictures to do).
        on_error: "return" puts why a picture cannot be read into its prediction and goes on; "raise" raises it.

    Returns:
        A prediction for each picture, in the order given; a `FoundBox` from a model that predicts boxes. Equal
        probabilities rank by class index.

    Raises:
        ConfigError: an option cannot work, or the model has no class scores.
        DataError: a folder has no images.
        ImageError: a picture cannot be read, with `on_error="raise"`.
        WeightsError: the file is damaged, or the model has no preprocessing.
        NonFiniteError: an output of the model is NaN or infinite.

    Example:
        >>> import vggnet
        >>> from PIL import Image
        >>> prediction = vggnet.predict("vgg8_bn-cifar10-fast", Image.new("RGB", (32, 32), "white"), top=2)[0]
        >>> prediction.name, len(prediction.classes), prediction.error
        ('image 1', 2, None)
    """
    check_at_least(1, top=top, batch_size=batch_size)
    opened = open_with_head(model, device)
    if get_task(opened.task).outputs == "boxes":
        from vggnet.evaluation.box_prediction import predict_boxes

        if top != TOP:
            raise ConfigError(f"{describe_model(model)} gives a box, of one class; leave out top (--top).")
        return predict_boxes(opened, images, classifier=classifier, device=device, progress=progress, on_error=on_error)
    if classifier is not None:
        raise ConfigError(f"{describe_model(model)} gives classes; leave out classifier (--classifier).")
    pictures = list(named_pictures(images))
    predictions: list[Prediction] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, report_progress(progress, "predicting") as report:
        for start in range(0, len(pictures), batch_size):
            batch = pictures[start : start + batch_size]
            pixels = list(pool.map(read_pixels, batch, repeat(opened.preprocess)))
            unreadable = next((image for image in pixels if isinstance(image, ImageError)), None)
            if unreadable is not None and on_error == "raise":
                raise unreadable
            predictions += _predict_batch(opened, [name for name, _ in batch], pixels, top)
            report(len(predictions), len(pictures))
    return predictions


def open_classifier(model: Model, device: str | None) -> OpenModel:
    """Open a model that gives class scores.

    Raises: ConfigError if it gives none, or there is no such device; WeightsError if it has no preprocessing.
    """
    opened = open_with_head(model, device)
    if get_task(opened.task).outputs != "scores":
        raise ConfigError("this network gives boxes, not classes; give a classifier.")
    return opened


def open_with_head(model: Model, device: str | None) -> OpenModel:
    """Open a model of any task.  Raises: ConfigError if it has no head; WeightsError if it has no preprocessing."""
    opened = open_model(model, device=device)
    check_has_head(opened.num_classes)
    _ = opened.preprocess
    return opened


def describe_model(model: Model) -> str:
    """Its path or name, or its architecture if it has none."""
    if isinstance(model, Path | str):
        return str(model)
    return str(getattr(getattr(model, "architecture", None), "name", type(model).__name__))


def check_has_head(num_classes: int) -> None:
    """Raises: ConfigError if a network has no outputs."""
    if num_classes == 0:
        raise ConfigError(
            "the network has no head, so it names no classes: it ends at pool5 with a feature map. Train a head on it "
            "with `vgg train --init-from`, or load it with num_classes=N."
        )


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
    with inference_mode(classifier.network):
        logits = classifier.network(classifier.preprocess.normalize(images.to(classifier.device))).cpu().double()
    check_finite_logits(logits)
    probabilities, order = logits.softmax(1).sort(dim=1, descending=True, stable=True)
    classes = [[classifier.class_name(index) for index in row] for row in order[:, :top].tolist()]
    return list(zip(classes, probabilities[:, :top].tolist(), strict=True))


def _named(name: str, classes: list[str], probabilities: list[float]) -> Prediction:
    return Prediction(name=name, classes=tuple(classes), probabilities=tuple(probabilities))
