"""One training from data to run folder: the loop of `fit`, with everything that it leaves out."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vggnet.accel.autotuning import autotuner
from vggnet.data.preprocess import SMALL, Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source
from vggnet.data.splits import carve
from vggnet.devices import choose_device, environment
from vggnet.errors import ConfigError, DataError, ImageError, NonFiniteError, RunError, StorageError
from vggnet.files import remove_leftovers
from vggnet.models.vgg import VGG, empty
from vggnet.report.figures import draw_curves
from vggnet.tasks import check_options
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.config import TrainConfig
from vggnet.training.console import Progress
from vggnet.training.distributed import Ranks, join
from vggnet.training.inputs import (
    make_prepare,
    make_preprocess,
    make_step_inputs,
    make_train_batches,
    make_val_batches,
    with_color_axes,
)
from vggnet.training.learner import Learner, build_model, configured_task, make_learner
from vggnet.training.loop import Position, Row, fit, make_validator
from vggnet.training.run import (
    CURVES,
    EVENTS,
    SKIPPED,
    STATE,
    Run,
    best_row,
    default_folder,
    has_ended,
    require_room,
)
from vggnet.training.schedules import lr_factor
from vggnet.training.signals import StopRequest, stop_on_signal
from vggnet.training.starting import check_frozen, starting_config, suggest_preset
from vggnet.training.tensorboard_log import Events
from vggnet.weights.adaptation import transfer
from vggnet.weights.checkpoint import load, save


def train(
    data: str | Path,
    *,
    preset: str | None = None,
    init_from: Path | str | None = None,
    out: Path | str | None = None,
    progress: bool = False,
    **fields: Any,
) -> Run:
    """Train a VGG and return its run folder.

    data: "digits", "cifar10", "cifar100", a folder of class folders or of parquet files, or a Hugging Face id.
    preset: a key of PRESETS; by default `suggest_preset`'s. `fields` replace single values of it (TrainConfig).
    init_from: weights to start from (fine-tuning), a run folder or a `.safetensors` file; see `starting_config` and
        `vggnet.weights.adaptation.transfer` for what is taken from it. A network that gives boxes (task "localize")
        starts from a classifier, but for its last layer.
    out: the run folder; by default runs/DATA-MODEL-DATE-TIME.
    progress: show a progress bar and a line for each epoch on stderr.
    A run that fails before its first checkpoint leaves nothing behind; only if the disk was full, `resume` goes on.
    Ctrl-C ends the run after the current step with a checkpoint; `Run.finished` is then False and `resume` goes on.
    Under torchrun all its processes train one network together (`vggnet.training.distributed`); the first one writes.
    Raises: ConfigError, DataError, RunError, WeightsError, NonFiniteError, StorageError.
    """
    ranks = join()
    config, model, source, description = ranks.in_turn(_prepare, data, preset, init_from, fields, ranks)
    folder = Path(ranks.text(str(out or default_folder(str(data), config.model))))
    with ranks.within(_new_run(folder, description, _room(config, model))):
        return _run(Run(folder), model, source, ranks, progress)


def _prepare(
    data: str | Path, preset: str | None, init_from: Path | str | None, fields: dict[str, Any], ranks: Ranks
) -> tuple[TrainConfig, VGG, Source, dict[str, Any]]:
    """What a training starts from, and its config.json, before anything is written."""
    preset = preset or suggest_preset(data, init_from, fields.get("task"))
    config = TrainConfig.from_dict({**starting_config(preset, init_from).as_dict(), **fields})
    source = open_source(data, "train")
    preprocess = make_preprocess(config, source)
    config = with_color_axes(config, source, preprocess)
    model = _new_model(config, source, preprocess)
    _check(config, source, preprocess, model, ranks)
    fresh: tuple[str, ...] = tuple(model.state_dict())
    if init_from is not None:
        fresh = transfer(load(init_from, in_channels=config.in_channels, width=config.width), model)
    check_frozen(config, fresh)
    description = {
        "data": str(data),
        "preset": preset,
        "init_from": None if init_from is None else str(init_from),
        "classes": source.classes,
        "images": len(source),
        "fingerprint": source.fingerprint,
        "contents": source.contents,
        "preprocess": preprocess.as_dict(),
        "environment": environment(choose_device(config.device)) | {"processes": ranks.size},
        "config": config.as_dict(),
    }
    return config, model, source, description


def _room(config: TrainConfig, model: VGG) -> int:
    """Bytes: weights and their successor; three checkpoints with momentum, and with the average if there is one."""
    copies = 2 + 3 * (3 if config.ema else 2)
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


def resume(run: Path | str, *, data: str | Path | None = None, progress: bool = False) -> Run:
    """Go on with an interrupted run, bit for bit as if nothing had happened. A finished run is returned as it is.

    data: where the training images are now, if they have moved; they must be the same.
    Raises: RunError if the folder is not a run's, the data are not the same, or a finished run has lost its weights; as
        `train` otherwise.
    """
    ranks = join()
    opened = Run.open(Path(run))
    if opened.finished and not opened.weights.is_file():
        raise RunError(
            f"{opened.weights} is missing, and the run has come to its end. Restore the file, or train again into "
            "another folder."
        )
    if opened.finished and (opened.folder / CURVES).is_file():
        return opened
    model, source = ranks.in_turn(_reopen, opened, data, ranks)
    with ranks.within(opened.locked()):
        return _run(opened, model, source, ranks, progress)


def _reopen(run: Run, data: str | Path | None, ranks: Ranks) -> tuple[VGG, Source]:
    """The network and the images of a run.  Raises: DataError, RunError, ConfigError."""
    try:
        source = open_source(data or run.data, "train")
    except DataError as error:
        moved = "" if data else " If the images have moved, say where they are now (data)."
        raise DataError(f"{error}{moved}") from error
    was = run.description
    same = list(source.classes) == was["classes"] and len(source) == was["images"]
    same &= source.contents == was.get("contents", source.contents)  # older runs have none
    if not same or (data is None and source.fingerprint != was["fingerprint"]):
        raise RunError(
            f"{data or run.data} is not what {run.folder} was started with: {len(source)} images of "
            f"{len(source.classes)} classes, then {was['images']} of {len(was['classes'])}, or files have changed. "
            "Restore them."
        )
    if was.get("init_from") and not run.has_checkpoint:
        raise RunError(
            f"{run.folder} was stopped before its given weights were saved. Start it again into another folder."
        )
    _check_shares(run.config, _split(run.config, source)[0], ranks)
    return _new_model(run.config, source, run.preprocess), source


def _new_model(config: TrainConfig, source: Source, preprocess: Preprocess) -> VGG:
    """The network before its first step.  Raises: ConfigError; DataError for boxes that are missing or cannot be."""
    model = build_model(config, len(source.classes))
    model.classes, model.preprocess = source.classes, preprocess
    check_options(config.task, config.as_dict())
    task, (train_indices, _) = configured_task(config), _split(config, source)
    task.initialize(model, task.take(task.read_targets(source, preprocess), torch.from_numpy(train_indices)))
    return model


def _split(config: TrainConfig, source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images to train on and those to validate on.  Raises: ConfigError."""
    return carve(source.labels, config.val_fraction, config.seed)


def _check_shares(config: TrainConfig, indices: NDArray[np.int64], ranks: Ranks) -> None:
    """Raises: ConfigError if there are batches of which some process would get no image."""
    smallest = len(indices) // ceil(len(indices) / config.batch_size)
    if smallest < ranks.size:
        raise ConfigError(
            f"{ranks.size} processes share each batch, but with batch_size {config.batch_size} the smallest one has "
            f"{smallest} images; start fewer, or take larger batches."
        )


def _check(config: TrainConfig, source: Source, preprocess: Preprocess, model: VGG, ranks: Ranks) -> None:
    """Find what cannot work before a run folder is made.  Raises: ConfigError, InputError."""
    _check_shares(config, _split(config, source)[0], ranks)
    if config.augment == "article" and not preprocess.is_small:
        raise ConfigError(f'augment "article" is for images of {SMALL} pixels or fewer, but crop is {config.crop}.')
    shape = (2, config.in_channels, config.crop, config.crop)
    make_prepare(config, preprocess)(torch.zeros(shape, dtype=torch.uint8), torch.arange(2), 0)
    empty(model.architecture)(torch.empty(shape, device="meta"))


def _run(run: Run, model: VGG, source: Source, ranks: Ranks, progress: bool) -> Run:
    """Train `model` from the run's last checkpoint, or from the start, until the end or Ctrl-C."""
    config, preprocess = run.config, run.preprocess
    train_indices, val_indices = _split(config, source)
    skipped: dict[str, str] = {}
    skip = partial(_skip, skipped) if config.on_bad_image == "skip" else None
    batches = make_train_batches(config, source, preprocess, train_indices, ranks, skip)
    val_batches = make_val_batches(config, source, preprocess, val_indices, ranks, skip)
    learner = make_learner(config, model, ranks)
    targets = learner.task.read_targets(source, preprocess)
    validate = make_validator(learner, val_batches, preprocess=preprocess, targets=targets, images=len(val_indices))
    shown = Progress(config.epochs, len(batches), visible=progress and ranks.is_first)
    factor = partial(lr_factor, config, len(batches))
    with stop_on_signal(repeated=ranks.size > 1) as stop, closing(shown):
        checkpoints, position = _restore(run, learner, shown)
        skipped |= position.skipped
        position.skipped = skipped
        epochs = fit(
            learner,
            batches,
            prepare=make_step_inputs(config, preprocess, learner.task, targets, learner.device),
            validate=validate,
            lr_factor=factor,
            epochs=config.epochs,
            seed=config.seed,
            position=position,
            after_step=_after_step(checkpoints, learner, shown, stop, config.checkpoint_minutes),
        )
        logging = ranks.within(Events(run.folder / EVENTS, position.epoch + 1))
        with autotuner().fixed(checkpoints.choices), logging as events:
            try:
                while not has_ended(config, position.rows):
                    shown.begin(position)
                    row = next(epochs)
                    ranks.first(_save_if_best, run, learner.kept, position.rows)
                    checkpoints.save(learner, position)
                    lr = config.lr * factor(position.epoch * len(batches) - 1, position.rows[:-1])
                    ranks.first(_write_rows, run, position, events, lr)
                    shown.epoch(row, best_row(position.rows))
                    shown.skipped(skipped, run.folder / SKIPPED)
                    if any(ranks.sum(stop.requested)):
                        break
            except NonFiniteError as error:
                kept = " The last checkpoint is sound." if run.has_checkpoint else ""
                raise NonFiniteError(f"{error}{kept}") from error
            except _StoppedError:
                pass
        if position.rows:
            title = f"{config.model} on {Path(source.name).name}"
            ranks.first(partial(draw_curves, position.rows, run.folder / CURVES, title=title))
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


def _restore(run: Run, learner: Learner, shown: Progress) -> tuple[Checkpoints, Position]:
    """Load the newest sound checkpoint, and mend what a kill may have left behind it."""
    ranks = learner.ranks
    ranks.first(remove_leftovers, run.folder)
    checkpoints = Checkpoints(run.folder / STATE)
    position, damaged = checkpoints.restore(learner)
    for message in damaged:
        shown.note(f"{message} Going on from an older checkpoint.")
    if position.rows:
        ranks.first(run.write_history, position.rows)  # a kill may have come between checkpoint and history
        ranks.first(run.write_skipped, position.skipped)
    if run.description.get("init_from") and position == Position():
        checkpoints.save(learner, position)  # the seed alone does not give these weights again
    return checkpoints, position


def _save_if_best(run: Run, model: VGG, rows: list[Row]) -> None:
    """Keep these weights if no row before the last is better."""
    if best_row(rows) is rows[-1]:
        save(model, run.weights, provenance={"run": run.description, "epoch": rows[-1]})


def _write_rows(run: Run, position: Position, events: Events, lr: float) -> None:
    """Write down the last of the rows, which images were skipped, and which convolutions were taken."""
    run.write_history(position.rows)
    run.write_skipped(position.skipped)
    run.write_choices(autotuner().chosen())
    events.write(position.rows[-1], lr)


def _after_step(
    checkpoints: Checkpoints, learner: Learner, shown: Progress, stop: StopRequest, checkpoint_minutes: float
) -> Callable[[Position], None]:
    """What happens between two steps: the bar moves, checkpoints are saved, Ctrl-C is heard."""

    def after_step(position: Position) -> None:
        shown.step(position)
        ranks = learner.ranks
        stops, due = ranks.sum(stop.requested, ranks.is_first and checkpoints.is_due(checkpoint_minutes))
        if stops or due:
            ranks.unite(position.skipped)
            checkpoints.save(learner, position)
        if stops:
            raise _StoppedError

    return after_step


def _skip(skipped: dict[str, str], index: int, error: ImageError) -> None:
    """Keep why an image cannot be read; it is met again in each epoch."""
    skipped[str(index)] = str(error)


class _StoppedError(Exception):
    """The user asked to stop, and a checkpoint was saved."""
