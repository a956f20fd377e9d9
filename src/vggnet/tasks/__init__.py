"""What a network is trained to predict. One module for each task; `get_task` finds it by its name.

This module imports no PyTorch: the names and the options are known to the command line before that is loaded.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from vggnet.errors import ConfigError

if TYPE_CHECKING:
    from vggnet.tasks.task import Task

TaskName = Literal["classify", "localize"]
DEFAULT: TaskName = "classify"

# Options of training that a task alone reads; with another task they cannot act.
OWN_OPTIONS: Mapping[str, TaskName] = {
    "boxes": "localize",
    "label_smoothing": "classify",
    "class_weights": "classify",
}
# The one value that an option must have with a task, and why.
_FIXED: Mapping[TaskName, tuple[tuple[str, Any, str], ...]] = {
    "classify": (),
    "localize": (
        *(
            (option, value, "boxes follow shift and flip alone")
            for option, value in (("augment", "batch"), ("rotation", 0.0), ("min_area", 1.0), ("max_resize", None))
        ),
        ("on_bad_image", "stop", "every image is read before training, to check its box"),
    ),
}


def get_task(name: str) -> "Task":
    """The task of this name, with its default options.

    Args:
        name: "classify" or "localize".

    Raises:
        ConfigError: there is no such task.

    Example:
        >>> get_task("classify").metrics([6.0, 3.0], images=4)
        {'loss': 1.5, 'accuracy': 0.75}
    """
    if name not in get_args(TaskName):
        raise ConfigError(f"unknown task {name!r}. The tasks are {', '.join(get_args(TaskName))}.")
    task: Task = import_module(f"vggnet.tasks.{name}").TASK
    return task


def check_task_options(name: TaskName, options: Mapping[str, Any]) -> None:
    """Raises: ConfigError for an option of training that has a value with which the task cannot be trained."""
    for option, value, why in _FIXED[name]:
        if options[option] != value:
            raise ConfigError(f'{option} is {options[option]}, but with task "{name}" it must be {value}: {why}.')
