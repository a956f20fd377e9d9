"""The steps of a shrinking: each is a function of the network and of what it is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vggnet.accel.precision import products_in
from vggnet.compression.factorize import factorize
from vggnet.compression.fold import fold, with_state_of
from vggnet.compression.prune import Limit, macs_limit, prune
from vggnet.compression.scores import Scores, chip_scores, taylor_scores, weight_scores
from vggnet.compression.shrink_options import ShrinkOptions
from vggnet.compression.storage import STORAGE, stored_bytes
from vggnet.compression.tuning import Tuner
from vggnet.errors import ConfigError
from vggnet.models.architecture import Architecture
from vggnet.models.vgg import VGG, build, empty
from vggnet.tasks import get_task
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.file_format import dequantized

TRIES = 5  # of the search by max_drop: steps of 1/32 of the multiply-adds
SCORED_IMAGES = {"taylor": 2048, "chip": 64}
FACTORIZED_VIEWS = 4096  # random ones of the training images, each image several times if there are fewer
HEADER = 4096  # bytes of a file's description that a network after the steps has more than before


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the steps of one shrinking are told."""

    source: Path | str
    steps: tuple[str, ...]
    options: ShrinkOptions
    size: int
    tuner: Tuner | None  # none without images
    header: int  # bytes of the given file that hold no tensors

    def training(self) -> Tuner:
        """The tuner of a step that needs one, as `ShrinkOptions.needs_data` has said."""
        assert self.tuner is not None
        return self.tuner

    def limits(self, model: VGG) -> list[Limit]:
        """How large the pruned network may be.  Raises: ConfigError."""
        limits = []
        if self.options.to_macs is not None:
            limits.append(macs_limit(model, self.options.to_macs, self.size))
        if self.options.to_size is not None:
            limits.append(
                Limit(self.options.to_size, self._file_bytes, lambda size: f"a file of {size / 1000:,.1f} kB")
            )
        return limits

    def _file_bytes(self, made: Architecture) -> float:
        """Of the file that the steps behind pruning give."""
        storage = self.steps[-1] if self.steps[-1] in STORAGE else None
        return self.header + HEADER + stored_bytes(made, storage=storage, folds="fold" in self.steps)

    def scores(self, model: VGG) -> Scores:
        """Of the channels, by the criterion."""
        criterion = self.options.criterion
        if criterion == "taylor":
            batches = self.training().batches(SCORED_IMAGES[criterion])
            return taylor_scores(model, batches, get_task(model.task))
        if criterion == "chip":
            images, _ = next(self.training().batches(1))
            return chip_scores(model, images[: SCORED_IMAGES[criterion]])
        return weight_scores(model, criterion)

    def searched(self, model: VGG) -> float:
        """The smallest share of multiply-adds with which validation accuracy drops by no more than `max_drop`.

        Raises: ConfigError if none is found, or there are no images to validate on.
        """
        drop, tuner = self.options.max_drop, self.training()
        before = tuner.accuracy(model)
        if before is None or drop is None:
            raise ConfigError(
                "max_drop is searched on validation images, but the recipe keeps none apart. Give data with a split "
                "val, or a network that was trained with a val_fraction above 0."
            )
        low, high, nearest = 0.0, 1.0, 0.0
        for _ in range(TRIES):
            share = (low + high) / 2
            options = replace(self.options, max_drop=None, to_macs=share)
            try:
                found = _accuracy_of(model, replace(self, options=options))
            except ConfigError:  # so few multiply-adds cannot remain
                low = share
                continue
            nearest = max(nearest, found)
            low, high = (low, share) if found >= before - drop / 100 else (share, high)
        if high == 1.0:
            raise ConfigError(
                f"max_drop is {drop}, but with {1 - 0.5**TRIES:.3f} of the multiply-adds or fewer the best validation "
                f"accuracy was {100 * nearest:.2f} %, without pruning {100 * before:.2f} %. Give a larger drop, or "
                "more epochs."
            )
        return high

    def notes(self) -> tuple[str, ...]:
        """What should be known of the validation accuracy."""
        if self.tuner is None or not self.tuner.has_unseen_images:
            return ()
        trained = Checkpoint.open(self.source).provenance.get("run", {}).get("val_images")
        return () if trained else ("the network may have been trained on images of the validation split",)


def _accuracy_of(model: VGG, job: Job) -> float:
    """Validation accuracy once the network is pruned and trained."""
    place = job.steps.index("prune")
    for step in job.steps[: place + 2]:
        model = APPLIED[step](model, job)
    found = job.training().accuracy(model)
    assert found is not None
    return found


def _prune(model: VGG, job: Job) -> VGG:
    """In rounds, of which each removes the same shares; batch norm is measured anew where there are images."""
    limits, rounds = job.limits(model), job.options.rounds
    before = [limit.measure(model.architecture) for limit in limits]
    for number in range(1, rounds + 1):
        model = prune(
            model,
            [
                limit._replace(most=given * (limit.most / given) ** (number / rounds))
                for limit, given in zip(limits, before, strict=True)
            ],
            scores=job.scores(model),
            floor=job.options.floor,
            multiple=job.options.multiple,
        )
        if job.tuner is not None:
            job.tuner.renew_statistics(model)
        if number < rounds:
            name = f"round-{number}"
            model = job.training().tune(model, name, epochs=job.options.round_epochs, rate=job.options.rate)
    return model


def _factorize(model: VGG, job: Job) -> VGG:
    """By what follows for training images where there are images, else by the weights."""
    energy, rank = job.options.energy, job.options.rank
    if job.tuner is None:
        return factorize(model, energy=energy, rank=rank)
    with products_in("auto"):
        views = (images for images, _ in job.tuner.batches(FACTORIZED_VIEWS, repeat=True))
        return factorize(model, energy=energy, rank=rank, batches=views)


def _head(model: VGG, job: Job) -> VGG:
    """The network with another head, trained while all convolutions stay as they are."""
    made, head = model.architecture, job.options.head
    assert head is not None
    architecture = replace(made, head=head, ranks=None)
    torch.manual_seed(job.training().recipe.run.seed)
    fresh = build(**architecture.as_dict(), init="he")
    state = fresh.state_dict() | {key: t for key, t in model.state_dict().items() if key.startswith("features.")}
    with_head = with_state_of(model, fresh, state)
    return job.training().tune(with_head, "head", epochs=job.options.epochs, rate=1.0, freeze=5)


def _distill(model: VGG, job: Job) -> VGG:
    teacher = str(Path(job.source).expanduser())
    options = job.options
    return job.training().tune(model, "distill", epochs=options.epochs, rate=options.rate, teacher=teacher)


def _stored(model: VGG, job: Job) -> VGG:
    """The network that a file with rounded weights gives."""
    rounded = dequantized(STORAGE[job.steps[-1]](model))
    return with_state_of(model, empty(model.architecture), {k: t.float() if t.ndim else t for k, t in rounded.items()})


APPLIED: Mapping[str, Callable[[VGG, Job], VGG]] = {
    "prune": _prune,
    "fold": lambda model, job: fold(model, job.size),
    "factorize": _factorize,
    "head": _head,
    "tune": lambda model, job: job.training().tune(model, "tune", epochs=job.options.epochs, rate=job.options.rate),
    "distill": _distill,
    "half": _stored,
    "quantize": _stored,
}
