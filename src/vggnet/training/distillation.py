"""Knowledge distillation: a network also learns what another one, its teacher, answers for the same images."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, RunError
from vggnet.models.vgg import VGG
from vggnet.tasks.task import Task
from vggnet.training.config import TrainConfig
from vggnet.weights.checkpoint import Checkpoint, frozen
from vggnet.weights.file_format import sha256


@dataclass(frozen=True)
class Teacher:
    """A trained network whose answers are learned beside the targets.

    Source: Hinton, Vinyals & Dean (2015, arXiv:1503.02531).
    """

    forward: Callable[[Tensor], Tensor]
    share: float  # of the loss, in [0, 1]
    temperature: float

    def mixed(self, minimized: Tensor, outputs: Tensor, images: Tensor, task: Task) -> Tensor:
        """The loss of a batch with the teacher's share, summed over its images, 0-d with gradient.

        Args:
            minimized: the loss by the targets, summed over the images.
            outputs: of the network that learns.
            images: float (n, C, H, W), as it has seen them.
            task: of both.
        """
        with torch.no_grad():
            answers = self.forward(images)
        return (1 - self.share) * minimized + self.share * task.imitation(outputs, answers, self.temperature)


def open_teacher(config: TrainConfig) -> VGG | None:
    """The teacher of a training, without gradients and in eval mode; None if it has none.  Raises: WeightsError."""
    name = config.optimizer.teacher
    return None if name is None else frozen(Checkpoint.open(name).build())


def with_statistics_of_teacher(config: TrainConfig) -> TrainConfig:
    """The configuration with its teacher's mean and deviation, unless it has some.  Raises: WeightsError."""
    if config.optimizer.teacher is None or config.data.mean is not None:
        return config
    preprocess = Checkpoint.open(config.optimizer.teacher).preprocess
    return config if preprocess is None else config.override(**preprocess.statistics())


def check_teacher(config: TrainConfig, classes: tuple[str, ...], preprocess: Preprocess) -> str | None:
    """The SHA-256 of the teacher's file, once it is sure that it can teach; None without a teacher.

    Raises:
        ConfigError: it was trained for another task or other classes, or sees images otherwise.
        WeightsError: it cannot be read.
    """
    name = config.optimizer.teacher
    if name is None:
        return None
    teacher = Checkpoint.open(name)
    if teacher.task != config.task.name:
        raise ConfigError(f"the teacher {name} was trained to {teacher.task}, not to {config.task.name}.")
    if teacher.classes != tuple(classes):
        raise ConfigError(
            f"the teacher {name} has the classes {_few(teacher.classes)}, but the data {_few(classes)}. Take one that "
            "was trained on the same classes."
        )
    own = preprocess.statistics()
    if teacher.preprocess is None or teacher.preprocess.statistics() != own:
        found = teacher.preprocess and teacher.preprocess.statistics()
        raise ConfigError(
            f"the teacher {name} sees images with {found}, this training with {own}. Leave mean and std out, and start "
            "from weights (init_from) that have the teacher's, or from none."
        )
    assert teacher.path is not None
    return sha256(teacher.path)


def check_same_teacher(config: TrainConfig, digest: str | None) -> None:
    """Raises: RunError if the teacher's file is not the one that the run was started with; WeightsError."""
    name = config.optimizer.teacher
    if name is None:
        return
    path = Checkpoint.open(name).path
    assert path is not None
    if sha256(path) != digest:
        raise RunError(f"the teacher {name} is not the one that this run was started with. Restore its file.")


def _few(names: tuple[str, ...] | None) -> str:
    """Some of the names, as words."""
    if not names:
        return "without names"
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
