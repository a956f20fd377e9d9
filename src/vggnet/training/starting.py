"""What a training starts from: its preset, what given weights say of its configuration, and what may be frozen."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vggnet.data.preprocess import is_small
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.models.heads import takes
from vggnet.training.config import PRESETS, TrainConfig
from vggnet.training.learner import is_frozen
from vggnet.weights.checkpoint import describe


def suggest_preset(data: str | Path, init_from: Path | str | None = None, task: str | None = None) -> str:
    """`digits` for the digits, `fast` for small images, `photos` for larger ones, `finetune` for these from weights.

    `boxes` for the task "localize" from weights, whatever the images.
    Raises: DataError.
    """
    if task == "localize" and init_from is not None:
        return "boxes"
    if str(data) == "digits":
        return "digits"
    source = open_source(data, "train")
    of_photos = "photos" if init_from is None else "finetune"
    for index in range(len(source)):
        with suppress(ImageError):
            return "fast" if is_small(min(source.read(index).size)) else of_photos
    raise DataError(f"{data}: none of its {len(source):,} training images can be read. Look at them: vgg data {data}")


def starting_config(preset: str, init_from: Path | str | None) -> TrainConfig:
    """A preset; its network, width, channels, mean and deviation are those of the given weights, if any are.

    The head as well where it is for classes and works on the preset's images.

    Raises: ConfigError if there is no such preset; WeightsError if the weights cannot be read.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}. The presets are {', '.join(PRESETS)}.")
    if init_from is None:
        return PRESETS[preset]
    given, _, preprocess = describe(init_from)
    fields: dict[str, Any] = {"model": given.name, "width": given.width, "in_channels": given.in_channels}
    preset_config = PRESETS[preset]
    if preset_config.task == "classify" and given.boxes is None and takes(given.head, preset_config.crop):
        fields["head"] = given.head
    config = replace(preset_config, **fields)
    return replace(config, **preprocess.statistics()) if preprocess else config


def check_frozen(config: TrainConfig, fresh: Iterable[str]) -> None:
    """Raises: ConfigError if layers that would be frozen are among those that start afresh."""
    random = [name for name in fresh if is_frozen(name, config.freeze)]
    if random:
        raise ConfigError(
            f"freeze is {config.freeze}, but {len(random)} tensors of these blocks, the first {random[0]}, are random "
            "and would never learn. Start from weights that have them (init_from), or set freeze to 0."
        )
