"""Any network trained by a budget and tested once, for studies that need no run folder."""

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vggnet.accel.autotuning import autotuner
from vggnet.data.loading import EvalBatches
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source
from vggnet.errors import DataError
from vggnet.evaluation.evaluate import score_batches
from vggnet.metrics import Scores
from vggnet.models.vgg import VGG
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.config import TrainConfig
from vggnet.training.console import Progress
from vggnet.training.inputs import make_preprocess, make_step_inputs, make_train_batches, make_val_batches
from vggnet.training.learner import make_learner
from vggnet.training.loop import Position, Row, fit
from vggnet.training.schedules import lr_factor
from vggnet.training.signals import stop_on_signal


def open_both(data: str | Path) -> tuple[Source, Source]:
    """Train and test, before a training whose test would fail.  Raises: DataError if one is not there or not alike."""
    train, test = open_source(data, "train"), open_source(data, "test")
    _require_same_classes(train, test)
    return train, test


def folder_of(out: Path, label: str, config: TrainConfig, fingerprint: str) -> Path:
    """Where a run of a study lies: another configuration, or other training images, have another folder."""
    facts = json.dumps([config.as_dict(), fingerprint])
    digest = hashlib.blake2b(facts.encode(), digest_size=4).hexdigest()
    return out / f"{label.replace(' ', '-').replace(',', '')}-{config.seed}-{digest}"


def fit_or_resume(
    network: nn.Module,
    config: TrainConfig,
    source: Source,
    indices: NDArray[np.int64],
    folder: Path,
    *,
    validate: Callable[[nn.Module], Row] = lambda network: {},
    progress: bool = False,
) -> list[Row] | None:
    """Train on the images at `indices`, from the newest checkpoint in `folder` on if there is one; changes `network`.

    network: any, with parameters of one, two or four dimensions.
    validate: called with the network after each epoch -> columns to add to its row.
    Returns a row for each epoch, as the history of a run has them; None if Ctrl-C came, and the same call goes on.
    Raises: NonFiniteError, RunError, StorageError.
    """
    preprocess = make_preprocess(config, source)
    batches = make_train_batches(config, source, preprocess, indices)
    learner = make_learner(config, cast(VGG, network))  # which asks it for parameters and logits alone
    checkpoints = Checkpoints(folder)
    shown = Progress(config.epochs, len(batches), visible=progress)
    with stop_on_signal() as stop, closing(shown):
        position, damaged = checkpoints.restore(learner)
        for message in damaged:
            shown.note(f"{message} Going on from an older checkpoint.")

        def after_step(position: Position) -> None:
            shown.step(position)
            if stop.requested or checkpoints.is_due(config.checkpoint_minutes):
                checkpoints.save(learner, position)
            if stop.requested:
                raise KeyboardInterrupt

        epochs = fit(
            learner,
            batches,
            prepare=make_step_inputs(
                config, preprocess, learner.task, learner.task.read_targets(source, preprocess), learner.device
            ),
            validate=validate,
            lr_factor=partial(lr_factor, config, len(batches)),
            epochs=config.epochs,
            seed=config.seed,
            position=position,
            after_step=after_step,
        )
        try:
            with autotuner().fixed(checkpoints.choices):
                while position.epoch < config.epochs:
                    shown.begin(position)
                    row = next(epochs)
                    checkpoints.save(learner, position)
                    shown.epoch(row, row)
        except KeyboardInterrupt:
            return None
    return position.rows


def scores_on(
    network: nn.Module, config: TrainConfig, source: Source, images: Source, indices: NDArray[np.int64] | None = None
) -> Scores:
    """The network's scores on `images`, or on those at `indices`, prepared as when it was trained on `source`.

    Raises: DataError if these are images of other classes.
    """
    _require_same_classes(source, images)
    preprocess = make_preprocess(config, source)
    everything = np.arange(len(images)) if indices is None else indices
    batches: EvalBatches = make_val_batches(config, images, preprocess, everything)
    return score_batches(network, batches, preprocess=preprocess, device=next(network.parameters()).device)


def _require_same_classes(train: Source, other: Source) -> None:
    if other.classes != train.classes:
        raise DataError(f"{other.name}: train and {other.split} have other classes; expected the same in both.")
