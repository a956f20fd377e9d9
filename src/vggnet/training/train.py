"""One training from data to run folder: the loop of `fit`, with everything that it leaves out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from vggnet.data.arrays import SMALL, decoded
from vggnet.data.article import article_augment
from vggnet.data.augment import BatchAugment
from vggnet.data.cropping import random_resized_crop
from vggnet.data.loading import EvalBatches, TrainBatches, View, default_workers
from vggnet.data.opening import open_source
from vggnet.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vggnet.data.source import Source
from vggnet.data.splits import carve
from vggnet.errors import ConfigError
from vggnet.evaluation.testing import evaluate
from vggnet.report.figures import draw_curves
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.config import PRESETS, TrainConfig
from vggnet.training.fit import Learner, Position, Row, fit
from vggnet.training.interrupting import stop_on_signal
from vggnet.training.progress import Progress
from vggnet.training.run import (
    CURVES,
    EVENTS,
    STATE,
    Run,
    best_row,
    default_folder,
    environment,
    has_ended,
    require_room,
)
from vggnet.training.schedule import lr_factor
from vggnet.vgg import VGG, build
from vggnet.weights.files import save

EVAL_BATCH = 4  # times the training batch: no memory is held for a backward pass


def train(
    data: str | Path,
    *,
    preset: str | None = None,
    out: Path | str | None = None,
    progress: bool = False,
    **fields: Any,
) -> Run:
    """Train a VGG and return its run folder.

    data: "digits", "cifar10", "cifar100", a folder of class folders or of parquet files, or a Hugging Face id.
    preset: a key of PRESETS; by default `suggest_preset(data)`. `fields` replace single values of it (TrainConfig).
    out: the run folder; by default runs/DATA-MODEL-DATE-TIME.
    progress: show a progress bar and a line for each epoch on stderr.
    Ctrl-C ends the run after the current step with a checkpoint; `Run.finished` is then False and `resume` goes on.
    Raises: ConfigError, DataError, RunError, NonFiniteError, StorageError.
    """
    preset = preset or suggest_preset(data)
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}. The presets are {', '.join(PRESETS)}.")
    config = TrainConfig.from_dict({**PRESETS[preset].as_dict(), **fields})
    source = open_source(data, "train")
    preprocess = _preprocess(config, source)
    model = _build(config, len(source.classes))
    folder = Path(out) if out else default_folder(str(data), config.model)
    require_room(folder, 8 * sum(tensor.nbytes for tensor in model.state_dict().values()))
    description = {
        "data": str(data),
        "preset": preset,
        "classes": source.classes,
        "fingerprint": source.fingerprint,
        "preprocess": preprocess.as_dict(),
        "environment": environment(_device(config)),
        "config": config.as_dict(),
    }
    return _run(Run.create(folder, description), model, source, progress)


def resume(run: Path | str, *, data: str | Path | None = None, progress: bool = False) -> Run:
    """Go on with an interrupted run, bit for bit as if it had not been interrupted. A finished run is returned as it is.

    data: where the training images are now, if they have moved; they must be the same.
    Raises: RunError if the folder is not a run's, or the data are not the same; as `train` otherwise.
    """
    opened = Run.open(Path(run))
    if opened.finished:
        return opened
    source = open_source(data or opened.data, "train")
    if list(source.classes) != list(opened.description["classes"]):
        raise ConfigError(f"{data or opened.data} has other classes than the data that {run} was started with.")
    return _run(opened, _build(opened.config, len(source.classes)), source, progress)


def suggest_preset(data: str | Path) -> str:
    """`digits` for the digits, `fast` for small images, `photos` for larger ones.  Raises: DataError."""
    if str(data) == "digits":
        return "digits"
    return "fast" if min(open_source(data, "train").read(0).size) <= SMALL else "photos"


def _run(run: Run, model: VGG, source: Source, progress: bool) -> Run:
    """Train `model` from the run's last checkpoint, or from the start, until the end or Ctrl-C."""
    config, preprocess = run.config, run.preprocess
    model.classes, model.preprocess = source.classes, preprocess
    train_indices, val_indices = carve(source.labels, config.val_fraction, config.seed)
    batches = _train_batches(config, source, preprocess, train_indices)
    learner = _learner(config, model)
    checkpoints = Checkpoints(run.folder / STATE)
    position, damaged = checkpoints.restore(learner)
    shown = Progress(config.epochs, len(batches)) if progress else None
    for note in damaged if shown else ():
        shown.note(f"{note} Going on from an older checkpoint.")

    with stop_on_signal() as stop, SummaryWriter(str(run.folder / EVENTS), purge_step=position.epoch + 1) as events:

        def after_step(position: Position) -> None:
            if shown:
                shown.step(position)
            if stop.requested or checkpoints.is_due(config.checkpoint_minutes):
                checkpoints.save(learner, position)
            if stop.requested:
                raise _StoppedError

        try:
            for row in fit(
                learner,
                batches,
                prepare=_prepare(config, preprocess),
                validate=_validate(config, source, preprocess, val_indices),
                lr_factor=partial(lr_factor, config, steps_per_epoch=len(batches)),
                epochs=config.epochs,
                seed=config.seed,
                position=position,
                after_step=after_step,
            ):
                best = best_row(position.rows)
                if best is row:
                    save(_kept(learner), run.weights, notes={"run": run.description, "epoch": row})
                checkpoints.save(learner, position)
                run.write_history(position.rows)
                _write_events(events, row, learner)
                if shown:
                    shown.epoch(row, best)
                if stop.requested or has_ended(config, position.rows):
                    break
        except _StoppedError:
            pass
    if position.rows:
        draw_curves(position.rows, run.folder / CURVES, title=f"{config.model} on {source.name}")
    return run


class _StoppedError(Exception):
    """The user asked to stop; a checkpoint was saved."""


def _device(config: TrainConfig) -> torch.device:
    return torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _build(config: TrainConfig, num_classes: int) -> VGG:
    torch.manual_seed(config.seed)
    return build(
        config.model,
        num_classes=num_classes,
        head=config.head,
        in_channels=config.in_channels,
        width=config.width,
        dropout=config.dropout,
        init=config.init,
    )


def _preprocess(config: TrainConfig, source: Source) -> Preprocess:
    """The preprocessing of the run; statistics not given are measured where the images are small."""
    mean, std = config.mean, config.std
    if mean is None or std is None:
        channels = slice(None) if config.in_channels == 3 else slice(1, 2)  # gray is nearest to green
        mean, std = IMAGENET_MEAN[channels], IMAGENET_STD[channels]
        if config.crop <= SMALL:
            plain = Preprocess(resize=config.resize, crop=config.crop, mean=mean, std=std)
            mean, std = _statistics(decoded(source, plain))
    if len(mean) != config.in_channels:
        raise ConfigError(f"mean has {len(mean)} values, but in_channels is {config.in_channels}.")
    return Preprocess(resize=config.resize, crop=config.crop, mean=mean, std=std)


def _statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, in [0, 1], four digits. uint8 (N, C, H, W)."""
    counts = [np.bincount(pixels[:, c].numpy().ravel(), minlength=256) for c in range(pixels.shape[1])]
    values = np.arange(256) / 255
    means = [np.average(values, weights=count) for count in counts]
    stds = [np.average((values - m) ** 2, weights=count) ** 0.5 for m, count in zip(means, counts, strict=True)]
    return tuple(round(float(m), 4) for m in means), tuple(max(round(float(s), 4), 1e-4) for s in stds)


def _train_batches(
    config: TrainConfig, source: Source, preprocess: Preprocess, indices: NDArray[np.int64]
) -> TrainBatches:
    workers = default_workers(preprocess) if config.workers is None else config.workers
    return TrainBatches(
        source,
        preprocess,
        config.batch_size,
        indices=indices,
        seed=config.seed,
        view=_view(config),
        workers=workers,
    )


def _view(config: TrainConfig) -> View | None:
    """What loader workers make of a decoded image, where that is not the preprocessing itself."""
    if config.augment == "article":
        return partial(_article_view, seed=config.seed)
    if config.min_area < 1:
        return partial(_crop_view, seed=config.seed, size=config.crop, min_area=config.min_area)
    return None


def _article_view(image: Image.Image, epoch: int, index: int, *, seed: int) -> Tensor:
    return article_augment(image, seed=seed, epoch=epoch, index=index)


def _crop_view(image: Image.Image, epoch: int, index: int, *, seed: int, size: int, min_area: float) -> Tensor:
    return random_resized_crop(image, size=size, min_area=min_area, seed=seed, epoch=epoch, index=index)


def _prepare(config: TrainConfig, preprocess: Preprocess) -> Callable[[Tensor, Tensor, int], Tensor]:
    """uint8 pixels on the device -> augmented and normalised float images, channels last."""
    augment = BatchAugment(
        shift=config.shift,
        flip=config.flip,
        rotation=config.rotation,
        jitter=config.jitter,
        cutout=config.cutout,
        fill=preprocess.mean,
        padding=config.padding,
    )

    def prepare(pixels: Tensor, indices: Tensor, epoch: int) -> Tensor:
        images = pixels if config.augment == "article" else augment(pixels, indices, seed=config.seed, epoch=epoch)
        return preprocess.normalize(images).contiguous(memory_format=torch.channels_last)

    return prepare


def _validate(
    config: TrainConfig, source: Source, preprocess: Preprocess, indices: NDArray[np.int64]
) -> Callable[[nn.Module], Row]:
    if not len(indices):
        return lambda model: {}
    workers = default_workers(preprocess) if config.workers is None else config.workers
    batches = EvalBatches(source, preprocess, EVAL_BATCH * config.batch_size, workers, indices)

    def validate(model: nn.Module) -> Row:
        scores = evaluate(model, batches, preprocess=preprocess, device=_device(config))
        return {"val_loss": scores.loss, "val_accuracy": scores.top1}

    return validate


def _learner(config: TrainConfig, model: VGG) -> Learner:
    device = _device(config)
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    on_gpu = device.type == "cuda"
    forward: Callable[[Tensor], Tensor] = model
    if config.compile if config.compile is not None else on_gpu:
        forward = torch.compile(model)
    has_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if config.precision == "bfloat16" or (config.precision == "auto" and has_bfloat16):
        forward = _in_bfloat16(forward, device.type)
    return Learner(
        model=model,
        optimizer=_optimizer(config, model),
        average=AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
        if config.ema
        else None,
        forward=forward,
        device=device,
        label_smoothing=config.label_smoothing,
        accumulate=config.accumulate,
    )


def _in_bfloat16(forward: Callable[[Tensor], Tensor], device_type: str) -> Callable[[Tensor], Tensor]:
    def autocast(images: Tensor) -> Tensor:
        with torch.autocast(device_type, torch.bfloat16):
            return forward(images).float()

    return autocast


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.SGD:
    """SGD whose groups carry the rate before the schedule as "base_lr". Norms and biases are decayed if so told."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    norms_and_biases = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": norms_and_biases, "weight_decay": config.weight_decay if config.decay_norms else 0.0},
    ]
    common = {"lr": config.lr, "base_lr": config.lr}
    return torch.optim.SGD(
        [{**group, **common} for group in groups], lr=config.lr, momentum=config.momentum, nesterov=config.nesterov
    )


def _kept(learner: Learner) -> VGG:
    kept = learner.kept
    assert isinstance(kept, VGG)
    return kept


def _write_events(events: SummaryWriter, row: Row, learner: Learner) -> None:
    for name, value in row.items():
        if name != "epoch":
            events.add_scalar(name, value, row["epoch"])
    events.add_scalar("lr", learner.optimizer.param_groups[0]["lr"], row["epoch"])
