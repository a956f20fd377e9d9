"""What a network is trained to predict. One module for each task; `get_task` finds it by its name.

This module imports no PyTorch: the names and the options are known to the command line before that is loaded.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from vggnet.errors import ConfigError
from vggnet.models.table1 import DETECTION_HEADS, FULLY_CONNECTED, MAP_HEADS, MASK_HEADS

if TYPE_CHECKING:
    from vggnet.data.sources.source import Source
    from vggnet.tasks.task import Task

TaskName = Literal["classify", "localize", "segment", "detect"]
DEFAULT: TaskName = "classify"
TASKS = (*get_args(TaskName), "maps")  # the last one is not trained: networks of others give maps

# Options of training that some tasks alone read; with others they cannot act.
OWN_OPTIONS: Mapping[str, tuple[TaskName, ...]] = {
    "boxes": ("localize",),
    "label_smoothing": ("classify",),
    "class_weights": ("classify", "segment"),
    "ignore_index": ("segment",),
}
_OF_IMAGES = tuple(head for head in FULLY_CONNECTED if head not in MAP_HEADS)
# The values that an option may have with a task, and why.
_ALLOWED: Mapping[TaskName, tuple[tuple[str, tuple[Any, ...], str], ...]] = {
    "classify": (
        ("head", _OF_IMAGES, "the others give classes of pixels or objects"),
        ("augment", ("batch", "torchvision"), "the others are for objects"),
    ),
    "localize": (
        ("head", _OF_IMAGES, "the others give classes of pixels or objects"),
        *(
            (option, (value,), "boxes follow shift and flip alone")
            for option, value in (("augment", "batch"), ("rotation", 0.0), ("min_area", 1.0), ("max_resize", None))
        ),
        ("on_bad_image", ("stop",), "every image is read before training, to check its box"),
    ),
    "segment": (
        ("head", MASK_HEADS, "the others give one answer for an image"),
        ("augment", ("batch",), "masks do not follow the transforms of torchvision"),
        ("sampling", ("shuffled",), "an image has pixels of several classes"),
    ),
    "detect": (
        ("head", DETECTION_HEADS, "the others give no objects"),
        ("augment", ("ssd", "batch"), "objects do not follow the transforms of the tutorial"),
        *(
            (option, (value,), "objects follow flip, and the augmentation ssd")
            for option, value in (("shift", 0), ("rotation", 0.0), ("min_area", 1.0), ("max_resize", None))
        ),
        ("sampling", ("shuffled",), "an image has objects of several classes"),
    ),
}


def get_task(name: str) -> "Task":
    """The task of this name, with its default options.

    Args:
        name: "classify", "localize", "segment" or "detect"; or "maps", which is for predictions alone.

    Raises:
        ConfigError: there is no such task.

    Example:
        >>> get_task("classify").metrics([6.0, 3.0], images=4)
        {'loss': 1.5, 'accuracy': 0.75}
    """
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}. The tasks are {', '.join(TASKS)}.")
    task: Task = import_module(f"vggnet.tasks.{name}").TASK
    return task


def check_task_options(name: TaskName, options: Mapping[str, Any]) -> None:
    """Raises: ConfigError for an option of training that has a value with which the task cannot be trained."""
    for option, values, why in _ALLOWED[name]:
        if options[option] not in values:
            expected = " or ".join(map(str, values))
            raise ConfigError(f'{option} is {options[option]}, but with task "{name}" it must be {expected}: {why}.')


def suggest_task(source: "Source") -> TaskName:
    """The first task that is trained on what the images of a source are annotated with.

    Args:
        source: of the training images.
    """
    return next(name for name in get_args(TaskName) if get_task(name).annotation == source.annotation)
