"""Training what the steps have changed, each time in a run folder of its own, and looking at images on the way."""

import copy
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggnet.accel import api as accel
from vggnet.errors import ConfigError
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.tasks.task import Targets
from vggnet.training.config import TrainConfig
from vggnet.training.distributed import ALONE
from vggnet.training.inputs import Inputs
from vggnet.training.loop import make_validator
from vggnet.training.preparation import prepare
from vggnet.training.presets import preset, suggest_preset
from vggnet.training.run import CONFIG
from vggnet.training.train import resume, train_with
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.file_format import checksum

CPU = torch.device("cpu")


def recipe_of(checkpoint: Checkpoint, data: str | Path) -> TrainConfig:
    """How a network was trained, as its file says; for other files the preset that fits the data.

    Raises: ConfigError, DataError.
    """
    run = checkpoint.provenance.get("run", {})
    if "config" in run:
        return TrainConfig.from_dict(run["config"])
    from vggnet.data.sources.opening import open_source

    assert checkpoint.path is not None
    source = open_source(data, "train")
    name = suggest_preset(source, init_from=checkpoint.path, task=checkpoint.task)
    return preset(name, init_from=checkpoint.path)


@dataclass(frozen=True)
class Tuner:
    """Trains networks by one recipe on one data set.

    Args:
        data: as `vggnet.train` takes it.
        recipe: the training; network, epochs and start are replaced each time.
        folder: where the run folders are made.
        progress: of the trainings.
    """

    data: str | Path
    recipe: TrainConfig
    folder: Path
    progress: Progress = False

    def tune(self, network: VGG, name: str, *, epochs: int, rate: float, **options: Any) -> VGG:
        """The network after a training. One that was interrupted goes on, one that is there is taken as it is.

        Args:
            network: where it starts; it is not changed.
            name: what the run folder's name begins with.
            epochs: of the training.
            rate: share of the recipe's learning rates.
            options: they replace those of the recipe.

        Raises:
            KeyboardInterrupt: Ctrl-C came; the training is saved.
            ConfigError, DataError, NonFiniteError, StorageError: as `vggnet.train`.
        """
        optimizer = self.recipe.optimizer
        names = ("lr", "kernel_lr") if optimizer.name == "muon" else ("lr",)
        rates = {name: rate * getattr(optimizer, name) for name in names}
        config = self._config(network, epochs=epochs, **rates, **options)
        tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        facts = json.dumps([config.as_options(), checksum({}, tensors)])
        folder = self.folder / f"{name}-{hashlib.blake2b(facts.encode(), digest_size=4).hexdigest()}"
        if self.progress is True:
            print(f"{name}: {epochs} epochs into {folder}", file=sys.stderr)
        if (folder / CONFIG).is_file():
            run = resume(folder, progress=self.progress)
        else:
            start = folder.with_name(f"{folder.name}-start.safetensors")
            start.parent.mkdir(parents=True, exist_ok=True)
            Checkpoint.of(network).save(start)
            run = train_with(self.data, config, {}, init_from=start, out=folder, progress=self.progress)
        if not run.finished:
            raise KeyboardInterrupt
        return Checkpoint.open(run.folder).build()

    def _config(self, network: VGG, **options: Any) -> TrainConfig:
        made = network.architecture
        of_network = {
            "model": made.name, "head": made.head, "width": made.width, "channels": made.channels,
            "ranks": made.ranks, "in_channels": made.in_channels, "dropout": made.dropout,
        }  # fmt: skip
        if network.preprocess is None:
            raise ConfigError("the network has no preprocessing, so nothing can be trained. Leave data out.")
        fixed: dict[str, Any] = {"branches": "none", "restarts": (), "patience": 0, "teacher": None}
        return self.recipe.override(**fixed | of_network | network.preprocess.statistics() | options)

    @cached_property
    def _inputs(self) -> Inputs:
        unfrozen = self.recipe.override(freeze=0)  # as the network that comes with the images has random weights
        inputs, _, _ = prepare(self.data, unfrozen, {}, None, ALONE, False)
        return inputs

    def batches(self, images: int, *, repeat: bool = False) -> Iterator[tuple[Tensor, Targets]]:
        """At least so many training images, if there are, as a training sees them, and their targets.

        repeat: whether to go on with other views of the same images if there are fewer.
        """
        prepared, batches, left = self._inputs.prepare(CPU), self._inputs.train_batches(), images
        for epoch in count() if repeat else (0,):
            for batch in batches.epoch(epoch):
                yield prepared(batch, epoch)
                left -= len(batch.indices)
                if left <= 0:
                    return

    @torch.no_grad()
    def renew_statistics(self, network: VGG, images: int = 2048) -> None:
        """Measure mean and variance of each batch norm anew, on training images."""
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over batches
            norm.train()
        for batch, _ in self.batches(images):
            network(batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    def accuracy(self, network: VGG) -> float | None:
        """What the task compares networks by, 0..1, on the validation images; None without any."""
        inputs = self._inputs
        fast = accel.accelerate(copy.deepcopy(network))
        validate = make_validator(
            inputs.task,
            inputs.val_batches(),
            preprocess=inputs.preprocess,
            targets=inputs.val_targets,
            images=len(inputs.val_indices),
            device=CPU,
        )
        row = validate(fast)
        return inputs.task.score(row) if row else None

    @property
    def has_unseen_images(self) -> bool:
        """Whether the recipe keeps validation images apart."""
        return len(self._inputs.val_indices) > 0
