"""Training a network that gives boxes (paper, appendix A): targets that move with the augmentation, Euclidean loss."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vggnet.data.augmentation import BatchAugment
from vggnet.data.boxes import read_boxes, to_crop
from vggnet.data.loading import Batch
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.errors import ConfigError
from vggnet.evaluation.predict import inference
from vggnet.models.vgg import VGG
from vggnet.tasks.box_geometry import decode, encode, is_correct
from vggnet.training.config import TrainConfig
from vggnet.training.learner import Learner
from vggnet.training.loop import Batches


class Sums(NamedTuple):
    """Over the images of a batch."""

    loss: Tensor  # half the squared Euclidean distance of the four numbers
    correct: Tensor  # boxes that overlap the true one by more than half


def box_targets(source: Source, preprocess: Preprocess) -> Tensor:
    """What a network has to say of each image: float32 (N, 5), the class, then center x, y, width, height of its box.

    Raises: DataError for a box that is missing or cannot be; ImageError.
    """
    values = torch.from_numpy(encode(to_crop(read_boxes(source), preprocess), preprocess.crop))
    return torch.cat([torch.from_numpy(source.labels)[:, None], values], 1).float()


def check_box_config(config: TrainConfig) -> None:
    """Raises: ConfigError for an augmentation that boxes do not follow, and for images to be skipped."""
    for field, still in (("augment", "batch"), ("rotation", 0.0), ("min_area", 1.0), ("max_resize", None)):
        if getattr(config, field) != still:
            raise ConfigError(
                f'{field} is {getattr(config, field)}, but with task "localize" it must be {still}: boxes follow shift '
                "and flip alone."
            )
    if config.on_bad_image != "stop":
        raise ConfigError('on_bad_image is skip, but task "localize" reads every image first, to check its box: stop.')


def start_at_the_mean(model: VGG, targets: Tensor) -> None:
    """Let an untrained last layer say the mean box of the targets (N, 5), or of each class, and little else."""
    last = [module for module in model.head.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    assert last.bias is not None
    labels, boxes = targets[:, 0], targets[:, 1:]
    num_boxes = len(last.bias) // 4
    means = boxes.mean(0).repeat(num_boxes, 1)
    if num_boxes > 1:
        for label in set(labels.int().tolist()):
            means[label] = boxes[labels == label].mean(0)
    with torch.no_grad():
        last.weight.normal_(std=1e-3)
        last.bias.copy_(means.flatten())


class BoxBatches:
    """The batches of `TrainBatches` with targets (n, 5) for labels, moved as `augment` moves the images."""

    def __init__(self, batches: Batches, targets: Tensor, augment: BatchAugment, seed: int, crop: int) -> None:
        self.batches = batches
        self.targets = targets
        self.draw = partial(augment.draw, seed=seed, height=crop, width=crop)
        self.crop = crop

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """As `TrainBatches.epoch`."""
        for batch in self.batches.epoch(epoch, start):
            yield batch._replace(labels=self._moved(batch.indices, epoch))

    def _moved(self, indices: Tensor, epoch: int) -> Tensor:
        draws = self.draw(indices, epoch=epoch)
        label, x, y, width, height = self.targets[indices].unbind(1)
        x, y = x - draws.shift_x / self.crop, y - draws.shift_y / self.crop
        return torch.stack([label, torch.where(draws.flipped, 1 - x, x), y, width, height], 1)


@dataclass(frozen=True, kw_only=True)
class BoxLearner(Learner):
    """A network that learns boxes."""

    crop: int  # pixels

    @classmethod
    def of(cls, learner: Learner, crop: int) -> "BoxLearner":
        """The same network and optimizer, with another aim."""
        return cls(**{field.name: getattr(learner, field.name) for field in fields(learner)}, crop=crop)

    def losses(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of outputs (n, 4) or (n, 4 K) and targets (n, 5): what to minimize, what to report, the number correct."""
        sums = box_sums(outputs, targets, self.crop)
        return sums.loss, sums.loss.detach(), sums.correct


def box_sums(outputs: Tensor, targets: Tensor, crop: int) -> Sums:
    """Loss and number correct of outputs (n, 4) or (n, 4 K), of which each target (n, 5) names its class's box."""
    rows = torch.arange(len(outputs), device=outputs.device)
    boxes = outputs.view(len(outputs), -1, 4)
    boxes = boxes[rows, targets[:, 0].long()] if boxes.shape[1] > 1 else boxes[:, 0]
    true = targets[:, 1:]
    found, wanted = (decode(values.detach().double().cpu().numpy(), crop) for values in (boxes, true))
    return Sums((boxes - true).square().sum() / 2, torch.tensor(is_correct(found, wanted).sum()))


def sum_boxes(
    model: VGG, *, batches: Iterable[Batch], targets: Tensor, preprocess: Preprocess, device: torch.device
) -> tuple[float, int, int]:
    """Over all batches: the loss, the number correct, and that of images.  Raises: ImageError."""
    loss, correct, images = 0.0, 0, 0
    with inference(model):
        for batch in batches:
            outputs = model(preprocess.normalize(batch.images.to(device)))
            sums = box_sums(outputs, targets[batch.indices].to(device), preprocess.crop)
            loss, correct, images = loss + sums.loss.item(), correct + int(sums.correct), images + len(outputs)
    return loss, correct, images
