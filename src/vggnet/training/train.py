"""Training a network: from data to a run folder."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from vggnet.accel.autotuning import autotuner
from vggnet.data.sources.source import Source
from vggnet.data.trained_on import TrainedOn
from vggnet.data.workers import lost_workers_named
from vggnet.errors import ImageError, MissingDependencyError, RunError, StorageError
from vggnet.files import remove_leftovers, replacing
from vggnet.models.branches import BranchedVGG
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.tasks.results import remove_result
from vggnet.training.config import TrainConfig, modernized
from vggnet.training.distributed import Ranks, join
from vggnet.training.inputs import Inputs
from vggnet.training.learner import Learner, make_learner
from vggnet.training.loggers import Log
from vggnet.training.loop import Position, Row, make_validator
from vggnet.training.preparation import prepare, reopen
from vggnet.training.run import (
    BRANCHES,
    CURVES,
    SKIPPED,
    STATE,
    Run,
    best_row,
    default_folder,
    require_room,
)
from vggnet.training.schedules import extended
from vggnet.training.session import Session, open_session
from vggnet.weights.checkpoint import save


def train(
    data: str | Path | Source,
    config: TrainConfig | str | None = None,
    *,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    progress: Progress = False,
    **deprecated: Any,
) -> Run:
    """Train a VGG.

    Ctrl-C ends the run after the current step with a checkpoint; its `finished` is then False, and `resume` goes on. A
    run that fails before its first checkpoint leaves nothing behind, unless the disk was full. Under torchrun all
    processes train one network together (`vggnet.training.distributed`); the first one writes.

    Args:
        data: "digits", "cifar10", "cifar100", a folder of class folders or of parquet files, or a Hugging Face id; with
            "stream:" before it, it is read as it is needed. Or a `vggnet.data.sources.pictures.Pictures`, images that
            your program holds.
        config: all options, or the name of a preset. By default a preset that fits the data: "digits" for the digits,
            "fast" for images of up to 64 pixels, else "photos", or "finetune" with `init_from`.
        out: the run folder, which must be empty or missing; by default runs/DATA-MODEL-DATE-TIME.
        init_from: the weights to start from: a run folder, a `.safetensors` file, or a name of `vgg weights list`. A
            preset then takes over their network and preprocessing (see `preset`); a `TrainConfig` must have it already.
        progress: True shows a bar or lines on stderr, and a line for each epoch; a function gets (steps done, all
            steps) after each step.

    Returns:
        The run.

    Raises:
        ConfigError: an option cannot work, alone or beside the others.
        DataError: the data cannot be read.
        RunError: `out` is not empty, or its disk has too little room.
        WeightsError: the given weights cannot be read, or are of another network.
        NonFiniteError: the loss became NaN or infinite.
        StorageError: the disk refuses.

    Example:
        >>> import tempfile
        >>> import vggnet
        >>> config = vggnet.preset("digits").override(epochs=1, width=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = train("digits", config, out=f"{folder}/run")
        ...     run.finished, sorted(run.history[0])[:3]
        (True, ['epoch', 'seconds', 'train_accuracy'])
    """
    if deprecated:
        warnings.warn(
            "train(data, preset=P, epochs=N) is deprecated; use train(data, vggnet.preset(P).override(epochs=N)).",
            DeprecationWarning,
            stacklevel=2,
        )
        config, deprecated = deprecated.pop("preset", config), modernized(deprecated)
    return train_with(data, config, deprecated, out=out, init_from=init_from, progress=progress)


def train_with(
    data: str | Path | Source,
    config: TrainConfig | str | None,
    options: Mapping[str, Any],
    *,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    progress: Progress = False,
) -> Run:
    """`train`, with options that replace those of `config`, or of the preset that is chosen by the data."""
    ranks = join()
    inputs, model, description = ranks.in_turn(prepare, data, config, options, init_from, ranks, progress)
    folder = Path(ranks.text(str(out or default_folder(str(data), inputs.config.model.name)))).expanduser()
    if progress is True and ranks.is_first and folder.resolve().is_relative_to(Path(str(data)).expanduser().resolve()):
        print(f"note: {folder} is inside the data {data}; run folders are never taken for images", file=sys.stderr)
    with ranks.within(_new_run(folder, description, _room(inputs.config, model))):
        return _run(Run(folder), model, inputs, ranks, progress)


def resume(
    run: Run | str | Path,
    *,
    data: str | Path | Source | None = None,
    epochs: int | None = None,
    workers: int | None = None,
    progress: Progress = False,
) -> Run:
    """Resume an interrupted run; the result is bit-identical to that of an uninterrupted one.

    With more epochs a run goes on after its end as well. Its schedule "onecycle" then rises and falls once more in the
    epochs that are added; "step" and "plateau" continue.

    Args:
        run: a run, or its folder. A finished one is returned as it is.
        data: where the training images are now, if they have moved; they must be the same.
        epochs: more than the run has; the new number is kept in its configuration.
        workers: loader processes from now on, 0 for none; by default as configured. They change no result.
        progress: as for `train`.

    Returns:
        The run.

    Raises:
        ConfigError: `epochs` are not more, or the run ended early by its patience.
        RunError: the folder is not a run's, the data are not the same, or a finished run has lost its weights.
        DataError, NonFiniteError, StorageError: as `train`.

    Example:
        run = vggnet.resume("runs/mine", progress=True)
    """
    ranks = join()
    opened = run if isinstance(run, Run) else Run.open(run)
    if opened.finished and not opened.weights.is_file():
        raise RunError(
            f"{opened.weights} is missing, and the run has come to its end. Restore the file, or train again into "
            "another folder."
        )
    if opened.finished and (opened.folder / CURVES).is_file() and epochs is None:
        return opened
    config = opened.config if epochs is None else extended(opened.config, epochs, opened.history)
    kept = config if workers is None else config.override(workers=workers)
    model, inputs = ranks.in_turn(reopen, opened, kept, data, ranks, progress)
    with ranks.within(opened.locked()):
        if epochs is not None:
            opened = ranks.in_turn(opened.with_config, config)
        return _run(opened, model, inputs, ranks, progress)


def _room(config: TrainConfig, model: VGG) -> int:
    """Bytes: weights and their successor, twice with branches, which are kept as they are and folded; three checkpoints
    with momentum, and with the average if there is one."""
    copies = 2 * (1 + isinstance(model, BranchedVGG)) + 3 * (3 if config.optimizer.ema else 2)
    num_bytes: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    return copies * num_bytes


@contextmanager
def _new_run(folder: Path, description: dict[str, Any], room: int) -> Iterator[None]:
    """Make a run folder that other processes keep out of.  Raises: RunError, StorageError."""
    require_room(folder, room)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    run = Run.create(folder, description)
    with run.locked(), _removed_on_failure(run, missing):
        yield


def _run(run: Run, model: VGG, inputs: Inputs, ranks: Ranks, progress: Progress) -> Run:
    """Train `model` from the run's last checkpoint, or from the start, until the end or Ctrl-C."""
    config, skipped = inputs.config, dict[str, str]()
    skip = partial(_skip, skipped) if config.data.on_bad_image == "skip" else None
    val_skip = skip and partial(
        skip, prefix="" if inputs.val_source is inputs.source else f"{inputs.val_source.split}-"
    )
    batches, val_batches = inputs.train_batches(ranks, skip), inputs.val_batches(ranks, val_skip)
    learner = make_learner(config, model, ranks, inputs.task)
    ranks.first(remove_leftovers, run.folder)
    ranks.first(_record_images, run, inputs)
    with (
        lost_workers_named(),
        open_session(
            config,
            learner,
            batches,
            prepare=inputs.prepare(learner.device),
            validate=make_validator(
                learner.task,
                val_batches,
                preprocess=inputs.preprocess,
                targets=inputs.val_targets,
                images=len(inputs.val_indices),
                device=learner.device,
                ranks=ranks,
            ),
            folder=run.folder / STATE,
            progress=progress,
            skipped=skipped,
        ) as session,
    ):
        _mend(run, session)
        with ranks.within(Log(run, session.position.epoch + 1)) as log:
            for _ in session.epochs(partial(ranks.first, _save_if_best, run, learner)):
                ranks.first(_write_rows, run, session, log)
                session.console.skipped(skipped, run.folder / SKIPPED)
        if session.position.rows:
            ranks.first(_draw_curves, run, inputs.source, session)
    return run


@contextmanager
def _removed_on_failure(run: Run, folders: list[Path]) -> Iterator[None]:
    """When the block fails before there is a checkpoint or weights, remove the run's files, then `folders` if empty.

    Not when the disk has refused, as the run then goes on once there is room; nor when the process is told to stop.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception:
        if not run.has_checkpoint and not run.weights.is_file():
            run.remove_files()
            with suppress(OSError):
                for folder in folders:
                    folder.rmdir()
        raise


def _mend(run: Run, session: Session) -> None:
    """Write what a kill may have left unwritten behind the restored checkpoint."""
    ranks, position = session.learner.ranks, session.position
    if position.rows:
        ranks.first(run.write_history, position.rows)  # a kill may have come between checkpoint and history
        ranks.first(run.write_skipped, position.skipped)
    if run.description.get("init_from") and replace(position, skipped={}) == Position():
        session.save()  # the seed alone does not give these weights again


def _record_images(run: Run, inputs: Inputs) -> None:
    """Write which images the run is trained on, with those of the weights that it starts from."""
    seen = TrainedOn.of(inputs.source, inputs.train_indices, inputs.val_source, inputs.val_indices)
    start = run.description.get("init_from")
    seen.joined(TrainedOn.read(Path(start).expanduser()) if start else None).write(run.folder)


def _save_if_best(run: Run, learner: Learner, rows: list[Row]) -> None:
    """Keep the weights if no row before the last is better."""
    if best_row(learner.task, rows) is rows[-1]:
        remove_result(run.folder)  # it is of the weights that are replaced now
        if isinstance(learner.learned, BranchedVGG):
            _save_branches(learner.learned, run.folder / BRANCHES)
        save(learner.kept, run.weights, provenance={"run": run.description, "epoch": rows[-1]})


def _save_branches(network: BranchedVGG, path: Path) -> None:
    """Write the tensors that the weights to use are folded from.  Raises: StorageError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"format": "branches of vggnet"})


def _write_rows(run: Run, session: Session, log: Log) -> None:
    """Write the last of the rows, which images were skipped, and which convolutions were chosen."""
    rows = session.position.rows
    run.write_history(rows)
    run.write_skipped(session.position.skipped)
    run.write_choices(autotuner().chosen())
    log.write(rows[-1], session.last_lr())


def _draw_curves(run: Run, source: Source, session: Session) -> None:
    """Draw results.png, if there is matplotlib."""
    try:
        from vggnet.report.figures import draw_curves
    except MissingDependencyError as error:
        session.console.note(f"no {CURVES}: {error}")
        return
    title = f"{session.config.model.name} on {Path(source.name).name}"
    axes = session.learner.task.axes
    draw_curves(
        session.position.rows, run.folder / CURVES, title=title, metric=list(axes)[-1], labels=list(axes.values())
    )


def _skip(skipped: dict[str, str], index: int, error: ImageError, prefix: str = "") -> None:
    """Keep why an image cannot be read; it is met again in each epoch.  prefix: of images of the validation split."""
    skipped[f"{prefix}{index}"] = str(error)
