"""Class probabilities for any pictures, prepared as the model's own preprocessing says."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from vggnet.accel.api import accelerate
from vggnet.data.images import Picture, named_pictures, read_pixels
from vggnet.data.preprocess import Preprocess
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, ImageError, check_at_least
from vggnet.metrics import check_finite_logits
from vggnet.weights.checkpoint import load


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one picture: its best classes, or why it could not be read."""

    name: str  # the file's path, or "image 3" for the third of the pictures given
    classes: tuple[str, ...] = ()  # best first
    probabilities: tuple[float, ...] = ()  # 0..1, descending
    error: str | None = None


class Ready(NamedTuple):
    """A network with all that it needs to answer."""

    network: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    num_classes: int
    device: torch.device

    def class_name(self, index: int) -> str:
        """Of a class, or its number."""
        return self.classes[index] if self.classes else f"class {index}"


def predict(
    model: nn.Module | Path | str,
    images: Sequence[Picture] | Picture,
    *,
    top: int = 5,
    batch_size: int = 32,
    device: str | None = None,
) -> list[Prediction]:
    """The `top` best classes of each picture (all of them if the model has fewer), in the order given.

    model: a run folder, a `.safetensors` file, or a loaded model with `classes`, `num_classes` and `preprocess`.
    images: files, folders (every image below), the bytes of files, or PIL images. One that cannot be read gets a
        Prediction with its `error`, and the others are still answered.
    device: "cpu", "cuda", ...; by default a loaded model stays where it is, a file goes to the GPU if there is one.
    Raises: ConfigError for `top`, `batch_size` or a device that cannot work; DataError for a folder without images;
        WeightsError for a damaged file or a model without preprocessing; NonFiniteError if the output is not finite.
    """
    check_at_least(1, top=top, batch_size=batch_size)
    ready = prepare(model, device)
    require_scores(ready)
    pictures = list(named_pictures(images))
    predictions: list[Prediction] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(pictures), batch_size):
            batch = pictures[start : start + batch_size]
            pixels = list(pool.map(read_pixels, batch, repeat(ready.preprocess)))
            predictions += _answer(ready, [name for name, _ in batch], pixels, top)
    return predictions


def predictions_json(predictions: Sequence[Prediction]) -> str:
    """A JSON array of objects with `name`, `classes`, `probabilities` and `error`."""
    return json.dumps([asdict(prediction) for prediction in predictions], ensure_ascii=False)


def predictions_table(predictions: Sequence[Prediction]) -> str:
    """The name of each picture with a line for each class below it; for an unreadable one its error."""
    width = max((len(name) for prediction in predictions for name in prediction.classes), default=0)
    lines: list[str] = []
    for prediction in predictions:
        lines.append(prediction.error or prediction.name)
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            lines.append(f"  {name:<{width}}  {100 * probability:6.2f} %")
    return "\n".join(lines)


def prepare(model: nn.Module | Path | str, device: str | None) -> Ready:
    """Load the model unless it is one, and move it to `device` (see `predict`).

    Raises: ConfigError if there is no such device, or the network has no head; WeightsError if the file is damaged or
        has no preprocessing.
    """
    if isinstance(model, nn.Module):
        network, place = model, choose_device(device or str(next(model.parameters(), torch.empty(0)).device))
    else:
        network, place = load(model), choose_device(device)
        if place.type == "cpu":
            accelerate(network)
    check_has_head(cast(int, network.num_classes))
    preprocess = Preprocess.of(network)
    network.to(place)
    classes = getattr(network, "classes", None)
    return Ready(network, preprocess, classes, cast(int, network.num_classes), place)


def require_scores(ready: Ready) -> None:
    """Raises: ConfigError if the network gives boxes, not class scores."""
    if getattr(getattr(ready.network, "architecture", None), "boxes", None) is not None:
        raise ConfigError(
            "this network gives boxes, not classes; give a classifier, or use vggnet.localize or vggnet.find_boxes."
        )


@contextmanager
def inference(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; afterwards every layer is in the mode it was found in."""
    modes = [(module, module.training) for module in network.modules()]
    if any(training for _, training in modes):
        network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def check_has_head(num_classes: int) -> None:
    """Raises: ConfigError if a network has no classes to answer with."""
    if num_classes == 0:
        raise ConfigError(
            "the network has no head, so it names no classes: it ends at pool5 with a feature map. Train a head on it "
            "with `vgg train --init-from`, or load it with num_classes=N."
        )


def _answer(ready: Ready, names: Sequence[str], pixels: Sequence[Tensor | ImageError], top: int) -> list[Prediction]:
    readable = [image for image in pixels if isinstance(image, Tensor)]
    best = iter(_best(ready, torch.stack(readable), top) if readable else ())
    return [
        Prediction(name=name, error=str(image))
        if isinstance(image, ImageError)
        else _named_best(ready, name, *next(best))
        for name, image in zip(names, pixels, strict=True)
    ]


def _best(ready: Ready, images: Tensor, top: int) -> list[tuple[list[float], list[int]]]:
    """uint8 (N, C, H, W) -> for each image the highest probabilities and their classes; ties go by class index."""
    with inference(ready.network):
        logits = ready.network(ready.preprocess.normalize(images.to(ready.device))).cpu().double()
    check_finite_logits(logits)
    probabilities, order = logits.softmax(1).sort(dim=1, descending=True, stable=True)
    return list(zip(probabilities[:, :top].tolist(), order[:, :top].tolist(), strict=True))


def _named_best(ready: Ready, name: str, probabilities: list[float], order: list[int]) -> Prediction:
    classes = tuple(map(ready.class_name, order))
    return Prediction(name=name, classes=classes, probabilities=tuple(probabilities))
