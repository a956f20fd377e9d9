"""What a training starts from: its configuration, images and network, checked before anything is written."""

import sys
from collections.abc import Iterable, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import torch

from vggnet.accel.precision import best_precision
from vggnet.data.preprocess import SMALL, Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import BY_NAME, Columns, Source
from vggnet.devices import choose_device, environment
from vggnet.errors import ConfigError, DataError, RunError
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.training.config import TrainConfig
from vggnet.training.distillation import check_same_teacher, check_teacher, with_statistics_of_teacher
from vggnet.training.distributed import Ranks
from vggnet.training.inputs import (
    Division,
    Inputs,
    configured_columns,
    configured_task,
    make_prepare,
    make_preprocess,
    open_validation,
    with_color_axes,
)
from vggnet.training.learner import build_model, is_frozen
from vggnet.training.loggers import check_installed
from vggnet.training.overview import first_line, near_copies, near_copies_line
from vggnet.training.presets import preset, suggest_preset
from vggnet.training.run import Run
from vggnet.weights.adaptation import transfer
from vggnet.weights.checkpoint import Checkpoint, load


def prepare(
    data: str | Path | Source,
    config: TrainConfig | str | None,
    options: Mapping[str, Any],
    init_from: str | Path | None,
    ranks: Ranks,
    progress: Progress,
) -> tuple[Inputs, VGG, dict[str, Any]]:
    """What a training starts from, and its config.json, before anything is written."""
    shown = progress is True and ranks.is_first
    if init_from is not None:
        Checkpoint.open(init_from)  # a mistake is found before the data are opened
    image, label, ignored = configured_columns(config) if isinstance(config, TrainConfig) else BY_NAME
    columns = Columns(
        options.get("image_column", image), options.get("label_column", label), options.get("ignore_index", ignored)
    )
    source = open_source(data, "train", columns=columns)
    is_chosen = config is None
    if config is None:
        config = suggest_preset(source, init_from=init_from, task=options.get("task"))
    name = config if isinstance(config, str) else None
    config = preset(config, init_from=init_from) if isinstance(config, str) else config
    config = _with_precision(config.override(**options))
    configured_task(config).check_source(source)
    if init_from is not None and config.model.branches != "none":
        raise ConfigError(
            f"branches is {config.model.branches}, but given weights (init_from) have none: new ones beside them would "
            "change what the network has learned. Leave one of them out."
        )
    config = with_statistics_of_teacher(config)
    _check_network(config)
    check_installed(config.run.log)
    division = Division.of(config, source, open_validation(data, source, columns) if config.data.val_fraction else None)
    if shown:
        print(first_line(data, division, config, columns, preset=name, is_chosen=is_chosen), file=sys.stderr)
    preprocess = make_preprocess(config, source, progress=shown)
    config = with_color_axes(config, source, preprocess)
    _check(config, preprocess)
    teacher = check_teacher(config, source.classes, preprocess)
    inputs = Inputs.of(config, division, preprocess, progress=shown)
    copies = near_copies(data, division, columns, progress=True) if shown else None
    if copies and (note := near_copies_line(data, copies)):
        print(note, file=sys.stderr)
    _check_shares(inputs, ranks)
    model = _new_model(inputs)
    fresh: tuple[str, ...] = tuple(model.state_dict())
    if init_from is not None:
        fresh = transfer(load(init_from, in_channels=config.model.in_channels, width=config.model.width), model)
    _check_frozen(config, fresh)
    description = {
        "data": str(data),
        "preset": name,
        "init_from": None if init_from is None else str(init_from),
        "teacher": teacher,
        "classes": source.classes,
        "images": len(source),
        "train_images": len(division.train_indices),
        "val_images": len(division.val_indices),
        "near_copies": copies,  # of images to train on, by split; None if they were not counted
        "fingerprint": source.fingerprint,
        "contents": source.contents,
        "pixels": source.pixels_key,
        "split_rule": "content",
        "val_split": None if division.val_source is source else division.val_source.split,
        "val_pixels": division.val_source.pixels_key,
        "preprocess": preprocess.as_dict(),
        "environment": environment(choose_device(config.run.device)) | {"processes": ranks.size},
        "config": config.as_dict(),
    }
    return inputs, model, description


def reopen(
    run: Run, config: TrainConfig, data: str | Path | Source | None, ranks: Ranks, progress: Progress
) -> tuple[VGG, Inputs]:
    """The network and the images of a run.  Raises: DataError, RunError, ConfigError."""
    try:
        columns = configured_columns(config)
        source = open_source(data or run.data, "train", rule=run.split_rule, columns=columns)
        division = Division.of(
            config,
            source,
            open_validation(data or run.data, source, columns) if run.val_split else None,
            rule=run.split_rule,
        )
    except DataError as error:
        moved = "" if data else " If the images have moved, say where they are now (data)."
        raise DataError(f"{error}{moved}") from error
    _check_same(run, division, data)
    check_same_teacher(config, run.description.get("teacher"))
    if run.description.get("init_from") and not run.has_checkpoint:
        raise RunError(
            f"{run.folder} was stopped before its given weights were saved. Start it again into another folder."
        )
    inputs = Inputs.of(config, division, run.preprocess, progress=progress is True and ranks.is_first)
    _check_shares(inputs, ranks)
    return _new_model(inputs), inputs


def _check_same(run: Run, division: Division, data: str | Path | Source | None) -> None:
    """Raises: RunError if these are not the images that the run was started with."""
    was, source = run.description, division.source
    same = list(source.classes) == was["classes"] and len(source) == was["images"]
    if "pixels" in was:  # copies of the same files are the same
        same &= (source.pixels_key, division.val_source.pixels_key) == (was["pixels"], was["val_pixels"])
    else:
        same &= source.contents == was.get("contents", source.contents)  # older runs have none
        same &= data is not None or source.fingerprint == was["fingerprint"]
    if not same:
        raise RunError(
            f"{data or run.data} is not what {run.folder} was started with: {len(source)} images of "
            f"{len(source.classes)} classes, then {was['images']} of {len(was['classes'])}, or files have changed. "
            "Restore them."
        )


def _with_precision(config: TrainConfig) -> TrainConfig:
    """The configuration with the precision that "auto" means on this CPU, so that a run goes on in the same one."""
    on_cpu = choose_device(config.run.device).type == "cpu"
    return config.override(precision=best_precision()) if on_cpu and config.run.precision == "auto" else config


def _new_model(inputs: Inputs) -> VGG:
    """The network before its first step."""
    model = build_model(inputs.config, len(inputs.source.classes))
    model.classes, model.preprocess = inputs.source.classes, inputs.preprocess
    inputs.task.initialize(model, inputs.task.take(inputs.targets, torch.from_numpy(inputs.train_indices)))
    return model


def _check_network(config: TrainConfig) -> None:
    """Find what cannot work before images are read.  Raises: ConfigError, InputError."""
    choose_device(config.run.device)
    with torch.device("meta"):
        build_model(config, 2)(torch.empty((2, config.model.in_channels, config.data.crop, config.data.crop)))


def _check(config: TrainConfig, preprocess: Preprocess) -> None:
    """Find what cannot work before targets are read.  Raises: ConfigError, InputError."""
    if config.augment.name == "torchvision" and not preprocess.is_small:
        raise ConfigError(
            f'augment "torchvision" is for images of {SMALL} pixels or fewer, but crop is {config.data.crop}.'
        )
    shape = (2, config.model.in_channels, config.data.crop, config.data.crop)
    make_prepare(config, preprocess)(torch.zeros(shape, dtype=torch.uint8), torch.arange(2), 0)


def _check_shares(inputs: Inputs, ranks: Ranks) -> None:
    """Raises: ConfigError if there are batches of which some process would get no image."""
    images, batch_size = len(inputs.train_indices), inputs.config.optimizer.batch_size
    smallest = images // ceil(images / batch_size)
    if smallest < ranks.size:
        raise ConfigError(
            f"{ranks.size} processes share each batch, but with batch_size {batch_size} the smallest one has "
            f"{smallest} images; start fewer, or take larger batches."
        )


def _check_frozen(config: TrainConfig, fresh: Iterable[str]) -> None:
    """Raises: ConfigError if layers that would be frozen are among those that start afresh."""
    freeze = config.model.freeze
    random = [name for name in fresh if is_frozen(name, freeze)]
    if random:
        raise ConfigError(
            f"freeze is {freeze}, but {len(random)} tensors of these blocks, the first {random[0]}, are random and "
            "would never learn. Start from weights that have them (init_from), or set freeze to 0."
        )
