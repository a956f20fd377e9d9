"""Runs of experiments: trained from a budget, resumed where they were interrupted, tested once."""

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vggnet.accel.autotuning import autotuner
from vggnet.data.loading import EvalBatches
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source
from vggnet.errors import DataError
from vggnet.evaluation.evaluate import evaluate, score_batches
from vggnet.evaluation.results import EvaluationResult
from vggnet.metrics import Scores
from vggnet.models.vgg import VGG
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.config import TrainConfig
from vggnet.training.console import Progress
from vggnet.training.inputs import make_preprocess, make_step_inputs, make_train_batches, make_val_batches
from vggnet.training.learner import make_learner
from vggnet.training.loop import Position, Row, fit
from vggnet.training.run import Run
from vggnet.training.schedules import lr_factor
from vggnet.training.signals import stop_on_signal
from vggnet.training.train import resume, train


def open_both(data: str | Path) -> tuple[Source, Source]:
    """The splits train and test, opened before a training whose test would fail.

    Raises: DataError if one does not exist, or if they have different classes.
    """
    train, test = open_source(data, "train"), open_source(data, "test")
    _require_same_classes(train, test)
    return train, test


def folder_of(out: Path, label: str, config: TrainConfig, fingerprint: str) -> Path:
    """The folder of a run: another configuration, or other training images, have another folder."""
    facts = json.dumps([config.as_dict(), fingerprint])
    digest = hashlib.blake2b(facts.encode(), digest_size=4).hexdigest()
    return out / f"{label.replace(' ', '-').replace(',', '')}-{config.seed}-{digest}"


def train_or_resume(data: str | Path, folder: Path, **options: Any) -> Run:
    """Resume the run in `folder`, or begin it.  Raises: KeyboardInterrupt once it is saved, if Ctrl-C came."""
    if (folder / "config.json").is_file():
        run = resume(folder, progress=True)
    else:
        run = train(data, out=folder, progress=True, **options)
    if not run.finished:
        raise KeyboardInterrupt
    return run


def evaluate_run(run: Run, data: str | Path, views: Literal[1, 6] = 1) -> EvaluationResult:
    """Evaluate the weights of a finished run on the test images."""
    result = evaluate(run.weights, data, views=views)
    assert isinstance(result, EvaluationResult)  # of a classifier
    return result


def fit_or_resume(
    network: nn.Module,
    config: TrainConfig,
    source: Source,
    indices: NDArray[np.int64],
    folder: Path,
    *,
    validate: Callable[[nn.Module], Row] = lambda network: {},
) -> list[Row]:
    """Train any network on the images at `indices`, from the newest checkpoint in `folder` if there is one.

    Args:
        network: with parameters of one, two or four dimensions; it is changed.
        config: of the training.
        source: the training images.
        indices: which of them.
        folder: of the checkpoints.
        validate: called with the network after each epoch -> columns to add to its row.

    Returns:
        A row for each epoch, as the history of a run has them.

    Raises:
        KeyboardInterrupt: Ctrl-C came; the training is saved, and the same call resumes it.
        NonFiniteError, RunError, StorageError.
    """
    preprocess = make_preprocess(config, source)
    batches = make_train_batches(config, source, preprocess, indices)
    learner = make_learner(config, cast(VGG, network))  # which uses its parameters and logits alone
    checkpoints = Checkpoints(folder)
    shown = Progress(config.epochs, len(batches), visible=True)
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
        with autotuner().fixed(checkpoints.choices):
            while position.epoch < config.epochs:
                shown.begin(position)
                row = next(epochs)
                checkpoints.save(learner, position)
                shown.epoch(row, row)
    return position.rows


def scores_on(
    network: nn.Module, config: TrainConfig, source: Source, images: Source, indices: NDArray[np.int64] | None = None
) -> Scores:
    """The network's scores on `images`, or on those at `indices`, preprocessed as in its training on `source`.

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
