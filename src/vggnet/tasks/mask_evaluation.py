"""Evaluate networks that give a class for each pixel: whole images, counted at the size of their masks."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vggnet.data.masks import IGNORED
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source, match_classes
from vggnet.errors import ConfigError, DataError, ImageError, check_at_least
from vggnet.metrics import check_finite_logits, mean_softmax
from vggnet.models.large_images import outputs_of_large
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG
from vggnet.progress import report_progress
from vggnet.tasks.mask_metrics import PixelScores, count_pixels, pixel_scores
from vggnet.tasks.reading_ahead import read_ahead
from vggnet.tasks.results import EXAMPLES, SegmentationResult
from vggnet.tasks.task import Evaluated, EvaluationJob
from vggnet.weights.checkpoint import OpenModel, inference_mode

SHOWN = 3  # images with the best and with the worst mean IoU that are drawn


class Seen(NamedTuple):
    """How well an image was predicted."""

    place: int  # in the source
    mean_iou: float  # over the classes that occur in it, truly or as predicted
    pixel_accuracy: float


Drawn = tuple[Seen, NDArray[np.uint8]]  # with the predicted classes (H, W)


def evaluate_masks(job: EvaluationJob) -> Evaluated:
    """Evaluate networks on whole images: the class of each pixel by the mean softmax of all views and networks.

    A view is the image at one scale, or its mirror image. Logits are enlarged bilinearly to the size of the mask.

    Raises:
        ConfigError: a scale cannot work.
        DataError: the data have other classes, or no image can be read.
    """
    source, first = job.source, job.networks[0]
    for network in job.networks:
        check_takes_every_size(network)
    to_model = [match_classes(source, network.classes, network.num_classes) for network in job.networks]
    for network, order in zip(job.networks[1:], to_model[1:], strict=True):
        if network.classes != first.classes or not torch.equal(order, to_model[0]):
            raise DataError(
                "the models have different classes, or in another order; evaluate those with the same ones."
            )
    classes = first.classes or source.classes
    check_at_least(TOTAL_STRIDE, **{f"scale {scale}": scale for scale in job.scales})
    scales = [job.scales or (network.preprocess.resize,) for network in job.networks]
    table = torch.full((IGNORED + 1,), IGNORED)
    table[: len(to_model[0])] = to_model[0]
    counts, loss, ignored = torch.zeros(len(classes), len(classes), dtype=torch.int64), 0.0, 0
    seen, extremes = list[Seen](), list[Drawn]()
    bad: dict[int, ImageError] = {}
    start = perf_counter()

    def read(index: int) -> tuple[Image.Image, Image.Image]:
        return source.read(index), source.mask(index)

    with report_progress(job.progress, "evaluating") as report:
        for index, example in enumerate(read_ahead(source, read, job.workers)):
            report(index + 1, len(source))
            if isinstance(example, ImageError):
                if job.on_error == "raise":
                    raise example
                bad[index] = example
                continue
            image, mask = example
            true = table[torch.from_numpy(np.array(mask)).long()]
            logits = mask_logits(job.networks, scales, image, flip=job.flip)
            losses = F.cross_entropy(logits[None], true[None], reduction="none", ignore_index=IGNORED)
            predicted = logits.argmax(0)
            of_image = count_pixels(predicted, true, len(classes))
            scores = _scores(of_image)
            counts += of_image
            ignored += int((true == IGNORED).sum())
            loss += float(losses.double().sum()) / max(int(of_image.sum()), 1)
            seen.append(Seen(index, scores.mean_iou, scores.pixel_accuracy))
            extremes = _extremes([*extremes, (seen[-1], predicted.numpy().astype(np.uint8))])
    if not seen:
        raise DataError(f"{source.name}, split {source.split}: none of the {len(bad):,} images can be read.")
    scores = _scores(counts)
    result = SegmentationResult(
        mean_iou=scores.mean_iou,
        pixel_accuracy=scores.pixel_accuracy,
        mean_accuracy=scores.mean_accuracy,
        loss=loss / len(seen),
        iou=dict(zip(classes, scores.iou, strict=True)),
        accuracy=dict(zip(classes, scores.accuracy, strict=True)),
        pixels=tuple(map(tuple, counts.tolist())),
        ignored_pixels=ignored,
        classes=classes,
        images=len(seen),
        scales=tuple(sorted({scale for of_network in scales for scale in of_network})),
        flip=job.flip,
        unreadable={index: str(error) for index, error in bad.items()},
        **job.about(start),
    )
    return Evaluated(
        result, (EXAMPLES,), partial(_draw, source, table, result, extremes), partial(_columns, source, seen)
    )


def check_takes_every_size(network: OpenModel) -> None:
    """Raises: ConfigError for an exported file, whose images have one size."""
    if not isinstance(network.network, VGG):
        size = network.preprocess.crop
        raise ConfigError(
            f"an exported file takes images of {size}x{size} pixels, but masks and maps are of whole images; give the "
            "run folder or the .safetensors file that it was exported from."
        )


def mask_logits(
    networks: Sequence[OpenModel], scales: Sequence[Sequence[int]], image: Image.Image, *, flip: bool = False
) -> Tensor:
    """The class scores of each pixel of an image, on the CPU: (C, H, W) of its own height and width.

    Of several views they are the logarithm of their mean softmax.

    Args:
        networks: with the same classes.
        scales: of each network, pixels of the shorter side at which it sees the image.
        image: mode RGB.
        flip: whether mirror images count as well.

    Raises:
        NonFiniteError: an output is NaN or infinite.
    """
    views = []
    for network, of_network in zip(networks, scales, strict=True):
        for scale in of_network:
            pixels = replace(network.preprocess, resize=scale, crop=min(scale, network.preprocess.crop)).whole(image)
            for mirrored in (False, True)[: 1 + flip]:
                seen = pixels.flip(2) if mirrored else pixels
                outputs = _outputs(network, seen)
                outputs = outputs.flip(3) if mirrored else outputs
                views.append(_enlarged(outputs, image))
    check_finite_logits(views[0].flatten(1))
    return mean_softmax(views)[0].float()


@torch.inference_mode()
def mask_classes(network: OpenModel, image: Image.Image) -> NDArray[np.uint8]:
    """The class of each pixel of an image, (H, W) of its own height and width.

    Logits are enlarged one class at a time: of a large photo all of them would take gigabytes.

    Args:
        network: gives a class for each pixel.
        image: mode RGB.

    Raises:
        NonFiniteError: an output is NaN or infinite.
    """
    logits = _outputs(network, network.preprocess.whole(image))
    check_finite_logits(logits.flatten(1))
    largest = _enlarged(logits[:, :1], image)[0, 0]
    classes = torch.zeros(largest.shape, dtype=torch.uint8)
    for index in range(1, logits.shape[1]):
        of_class = _enlarged(logits[:, index : index + 1], image)[0, 0]
        classes[of_class > largest] = index
        torch.maximum(largest, of_class, out=largest)
    return classes.numpy()


def _outputs(network: OpenModel, pixels: Tensor) -> Tensor:
    """Logits of one image, uint8 (C, H, W), on the CPU."""
    with inference_mode(network.network):
        ready = partial(_ready, network.preprocess)
        return outputs_of_large(network.network, pixels[None].to(network.device), ready)


def _ready(preprocess: Preprocess, pixels: Tensor) -> Tensor:
    return preprocess.normalize(pixels.contiguous(memory_format=torch.channels_last))


def _enlarged(logits: Tensor, image: Image.Image) -> Tensor:
    """(1, C, h, w) -> (1, C, H, W), as high and wide as the image."""
    size = (image.height, image.width)
    return logits if logits.shape[2:] == size else F.interpolate(logits, size, mode="bilinear")


def _scores(counts: Tensor) -> PixelScores:
    """Of (C, C) counts."""
    return pixel_scores(counts.diagonal().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist())


def _extremes(drawn: Sequence[Drawn]) -> list[Drawn]:
    """The best and the worst images, best first."""
    ordered = sorted(drawn, key=lambda one: -one[0].mean_iou)
    return ordered if len(ordered) <= 2 * SHOWN else [*ordered[:SHOWN], *ordered[-SHOWN:]]


def _columns(source: Source, seen: Sequence[Seen]) -> dict[str, list[Any]]:
    """The table of all images: where each lies, and how well it fits."""
    return {
        "image": [source.describe(one.place) for one in seen],
        "mean_iou": [one.mean_iou for one in seen],
        "pixel_accuracy": [one.pixel_accuracy for one in seen],
    }


def _draw(source: Source, table: Tensor, result: SegmentationResult, drawn: Sequence[Drawn], out: Path) -> None:
    """Draw the best and the worst images.  Raises: StorageError; MissingDependencyError without matplotlib."""
    from vggnet.report.mask_figures import draw_examples  # matplotlib takes half a second

    examples = []
    for one, predicted in drawn:
        true = table[torch.from_numpy(np.array(source.mask(one.place))).long()].numpy().astype(np.uint8)
        name = Path(source.describe(one.place)).name
        caption = f"{name}\nmean IoU {100 * one.mean_iou:.1f} %"
        examples.append((source.read(one.place), true, predicted, caption))
    title = f"{Path(source.name).name} {source.split}: mean IoU {100 * result.mean_iou:.2f} %; best and worst images"
    draw_examples(examples, result.classes, out / EXAMPLES, title=title)
