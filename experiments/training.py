"""Runs of experiments: trained from a budget, resumed where they were interrupted, tested once."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vggnet.data.loading import EvalBatches
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source
from vggnet.errors import DataError
from vggnet.evaluation.evaluate import evaluate
from vggnet.metrics import Scores
from vggnet.models.vgg import VGG
from vggnet.tasks.class_evaluation import score_batches
from vggnet.tasks.results import EvaluationResult
from vggnet.training.config import TrainConfig
from vggnet.training.inputs import Inputs, make_preprocess, make_val_batches
from vggnet.training.learner import make_learner
from vggnet.training.loop import Row
from vggnet.training.run import Run
from vggnet.training.session import open_session
from vggnet.training.train import resume, train_with


def open_both(data: str | Path) -> tuple[Source, Source]:
    """The splits train and test, opened before a training whose test would fail.

    Raises: DataError if one does not exist, or if they have different classes.
    """
    train, test = open_source(data, "train"), open_source(data, "test")
    _require_same_classes(train, test)
    return train, test


def folder_of(out: Path, label: str, config: TrainConfig, fingerprint: str) -> Path:
    """The folder of a run: another configuration, or other training images, have another folder."""
    facts = json.dumps([config.as_options(), fingerprint])
    digest = hashlib.blake2b(facts.encode(), digest_size=4).hexdigest()
    return out / f"{label.replace(' ', '-').replace(',', '')}-{config.run.seed}-{digest}"


def train_or_resume(
    data: str | Path, folder: Path, config: TrainConfig | str, *, init_from: Path | None = None, **options: Any
) -> Run:
    """Resume the run in `folder`, or begin it.

    Args:
        data: as `vgg train` takes it.
        folder: of the run.
        config: a configuration, or the name of a preset.
        init_from: the run to start from.
        options: they replace those of `config`.

    Raises:
        KeyboardInterrupt: Ctrl-C came; the run is saved.
    """
    if (folder / "config.json").is_file():
        run = resume(folder, progress=True)
    else:
        run = train_with(data, config, options, init_from=init_from, out=folder, progress=True)
    if not run.finished:
        raise KeyboardInterrupt
    return run


def run_columns(run: Run) -> Row:
    """The columns of a row for a finished run: history, preset, initial weights, data, machine and options."""
    facts = ("preset", "init_from", "fingerprint", "images", "environment")
    return {
        "history": run.history,
        **{name: run.description[name] for name in facts},
        "config": run.config.as_options(),
    }


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
    preprocess = make_preprocess(config, source, progress=True)
    learner = make_learner(config, cast(VGG, network))  # which uses its parameters and logits alone
    inputs = Inputs(
        config=config,
        source=source,
        preprocess=preprocess,
        task=learner.task,
        targets=learner.task.read_targets(source, preprocess),
        train_indices=indices,
        val_source=source,
        val_targets=None,  # the caller validates
        val_indices=indices[:0],
    )
    with open_session(
        config,
        learner,
        inputs.train_batches(),
        prepare=inputs.prepare(learner.device),
        validate=validate,
        folder=folder,
        progress=True,
    ) as session:
        for _ in session.epochs():
            pass
        if not session.finished:
            raise KeyboardInterrupt
        return session.position.rows


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
