"""The errors that a user can cause, as one tree.

    VGGError
    ├── ConfigError      an option or argument that cannot work
    ├── InputError       a tensor of the wrong shape or type for a model
    ├── DataError        a data set that is missing, empty or malformed
    │   └── ImageError   one image that cannot be read
    ├── WeightsError     a weights file that is damaged or belongs to another network
    ├── RunError         a run folder or checkpoint that cannot be used
    ├── NonFiniteError   training met a NaN or an infinity
    ├── StorageError     the disk refused a write, or to read a file
    └── MissingDependencyError   an optional package is not installed

Every message says what was found, what was expected and what to do next. The command line prints it as one
line and exits with code 2.
"""

from importlib import import_module
from types import ModuleType
from typing import Literal

# An image that cannot be read: its error is raised, or returned in the place of its result.
OnError = Literal["raise", "return"]


class VGGError(Exception):
    """Base of every error that a user can cause."""


class ConfigError(VGGError, ValueError):
    """An option or argument that cannot work."""


class InputError(VGGError, ValueError):
    """A tensor of the wrong shape or type for a model."""


class DataError(VGGError, ValueError):
    """A data set that is missing, empty or malformed."""


class ImageError(DataError):
    """One image that cannot be read.

    Args:
        reason: what is wrong, without the name of the image.
        name: where the image is: its path, or its data set and row; None if it is not known (yet).
        may_pass: whether the same file may be read later: permission was denied, a drive is away, or a limit is set.

    One that is kept is raised as a copy: it would keep the frames that it was raised through, with all they refer to.

    Example:
        >>> error = ImageError("the file is empty.").named("photos/1.jpg")
        >>> error.name, str(error)
        ('photos/1.jpg', 'photos/1.jpg: the file is empty.')
    """

    def __init__(self, reason: str, *, name: str | None = None, may_pass: bool = False) -> None:
        super().__init__(reason if name is None else f"{name}: {reason}")
        self.reason = reason
        self.may_pass = may_pass
        self.name = name

    def named(self, name: str) -> "ImageError":
        """The same error for an image called `name`; itself if it has a name already."""
        if self.name is not None:
            return self
        error = ImageError(self.reason, name=name, may_pass=self.may_pass)
        error.__cause__ = self.__cause__
        return error


class WeightsError(VGGError, ValueError):
    """A weights file that is damaged or belongs to another network."""


class RunError(VGGError, ValueError):
    """A run folder or checkpoint that cannot be used."""


class NonFiniteError(VGGError, ArithmeticError):
    """Training met a NaN or an infinity."""


class StorageError(VGGError, OSError):
    """The disk refused a write, or to read a file."""


class MissingDependencyError(VGGError, ImportError):
    """An optional package is not installed."""


_PACKAGES = {
    "google": "protobuf", "sklearn": "scikit-learn", "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}  # fmt: skip  # top-level module -> package, where the names differ


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its full name, such as "matplotlib.pyplot".
        extra: the extra of vggnet that installs the package, such as "report".

    Returns:
        The module.

    Raises:
        MissingDependencyError: the package is not installed; the message says how to install it.

    Example:
        >>> require("json", "report").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there, but one of its own dependencies is not
        name = _PACKAGES.get(package, package)
        raise MissingDependencyError(f"{name} is not installed; pip install 'vggnet[{extra}]'") from error


def one_line(error: BaseException) -> str:
    """What another library said, for a message of ours: in one line of at most 200 characters; else the error's type.

    Args:
        error: the other library's.

    Example:
        >>> one_line(ValueError("not a number\\nat byte 7")), one_line(KeyboardInterrupt())
        ('not a number at byte 7', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_at_least(least: int, **options: int) -> None:
    """Check arguments by their names.

    Args:
        least: the smallest allowed value.
        options: name -> value.

    Raises:
        ConfigError: the first value that is smaller, with its name.

    Example:
        >>> check_at_least(1, batch_size=0)
        Traceback (most recent call last):
        vggnet.errors.ConfigError: batch_size is 0; it must be at least 1.
    """
    for name, value in options.items():
        if value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}.")
