"""The validation columns of an epoch's row, each image counted once by one of the processes."""

from collections.abc import Callable, Iterable

import torch

from vggnet.data.loading import Batch
from vggnet.data.preprocess import Preprocess
from vggnet.errors import DataError
from vggnet.evaluation.predict import inference
from vggnet.metrics import Metrics
from vggnet.models.vgg import VGG
from vggnet.training.distributed import Ranks
from vggnet.training.loop import Row

Sums = tuple[float, int, int]  # loss, number correct, number of images


def make_validator(count: Callable[[VGG], Sums], ranks: Ranks, images: int) -> Callable[[VGG], Row]:
    """A function of the weights to keep; `count` is of this process's share of the images.

    Raises: as `count`; DataError if not one of the images can be read.
    """

    def validate(model: VGG) -> Row:
        loss, correct, readable = ranks.sum(*ranks.together(count, model))
        if images and not readable:
            raise DataError("no validation image can be read. Mend them, or give another seed or val_fraction.")
        return {"val_loss": loss / readable, "val_accuracy": correct / readable} if images else {}

    return validate


def sum_classes(model: VGG, *, batches: Iterable[Batch], preprocess: Preprocess, device: torch.device) -> Sums:
    """Of a network that names classes, over all batches.  Raises: ImageError, InputError, NonFiniteError."""
    metrics = Metrics(model.num_classes)
    loss, correct, images = 0.0, 0, 0
    with inference(model):
        for batch in batches:
            logits = model(preprocess.normalize(batch.images.to(device, non_blocking=True)))
            answers = metrics.update(logits, batch.labels)
            loss += answers.losses.sum().item()
            correct += int((answers.predicted == answers.labels).sum())
            images += len(batch.labels)
    return loss, correct, images
