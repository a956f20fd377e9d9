"""Predict what pictures show by a model of any task."""

from collections.abc import Sequence
from pathlib import Path

from vggnet.data.images import Picture
from vggnet.errors import ConfigError, OnError, check_at_least
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.tasks import get_task
from vggnet.tasks.results import FoundBox, FoundObjects, PredictedMaps, PredictedMask, Prediction
from vggnet.tasks.task import PredictionJob
from vggnet.weights.checkpoint import OpenModel
from vggnet.weights.runtimes import open_runnable

Model = VGG | Path | str


def predict(
    model: Model,
    images: Sequence[Picture] | Picture,
    *,
    top: int | None = None,
    classifier: Model | None = None,
    batch_size: int = 32,
    device: str | None = None,
    progress: Progress = False,
    on_error: OnError = "return",
) -> list[Prediction] | list[FoundBox] | list[PredictedMask] | list[FoundObjects] | list[PredictedMaps]:
    """Predict the classes of pictures; or by a model for it a box, all objects, the class of each pixel, or maps.

    Args:
        model: a network, a run folder, a `.safetensors` file, a name of `vgg weights list`, or a file of `vgg export`.
        images: files, folders (every image below), the bytes of files, PIL images, or arrays; one or several.
        top: how many classes to return for each picture, at least 1, by default 5; all of them if the model has fewer.
            Of a model that finds objects the most of these; by default all with a score of 0.01 or more.
        classifier: for a model that predicts boxes: a model for the class, whose softmax scores the boxes.
        batch_size: pictures for each forward pass, at least 1.
        device: "cpu", "cuda", ...; by default a network stays where it is, and a file goes to the GPU if there is one.
        progress: True for a bar or lines on stderr, or a function of (pictures done, pictures to do).
        on_error: "return" puts why a picture cannot be read into its prediction and goes on; "raise" raises it.

    Returns:
        A prediction for each picture, in the order given; a `FoundBox` from a model that predicts boxes, a
        `PredictedMask` from one that gives masks, `FoundObjects` from one that finds objects, `PredictedMaps` from one
        that gives maps. Equal probabilities rank by class index.

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
    check_at_least(1, top=1 if top is None else top, batch_size=batch_size)
    opened = open_with_head(model, device)
    job = PredictionJob(
        model=describe_model(model),
        top=top,
        classifier=None if classifier is None else open_with_head(classifier, device),
        batch_size=batch_size,
        progress=progress,
        on_error=on_error,
    )
    return get_task(opened.task).predict(opened, images, job)


def open_with_head(model: Model, device: str | None) -> OpenModel:
    """Open a model of any task.  Raises: ConfigError if it has no head; WeightsError if it has no preprocessing."""
    opened = open_runnable(model, device=device)
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
