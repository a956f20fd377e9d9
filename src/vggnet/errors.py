"""The errors that a user can cause, as one tree.

    VGGError
    ├── ConfigError      an option or argument that cannot work
    ├── InputError       a tensor of the wrong shape or type for a model
    ├── DataError        a data set that is missing, empty or malformed
    │   └── ImageError   one image that cannot be read
    ├── WeightsError     a weights file that is damaged or belongs to another network
    ├── RunError         a run folder or checkpoint that cannot be used
    ├── NonFiniteError   training met a NaN or an infinity
    ├── StorageError     the disk refused a write
    └── MissingDependencyError   an optional package is not installed

Every message says what was found, what was expected and what to do next. The command line prints it as one
line and exits with code 2.
"""

from importlib import import_module
from types import ModuleType


class VGGError(Exception):
    """Base of every error that a user can cause."""


class ConfigError(VGGError, ValueError):
    """An option or argument that cannot work."""


class InputError(VGGError, ValueError):
    """A tensor of the wrong shape or type for a model."""


class DataError(VGGError, ValueError):
    """A data set that is missing, empty or malformed."""


class ImageError(DataError):
    """One image that cannot be read."""


class WeightsError(VGGError, ValueError):
    """A weights file that is damaged or belongs to another network."""


class RunError(VGGError, ValueError):
    """A run folder or checkpoint that cannot be used."""


class NonFiniteError(VGGError, ArithmeticError):
    """Training met a NaN or an infinity."""


class StorageError(VGGError, OSError):
    """The disk refused a write."""


class MissingDependencyError(VGGError, ImportError):
    """An optional package is not installed."""


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
        raise MissingDependencyError(f"{package} is not installed; pip install 'vggnet[{extra}]'") from error


def check_at_least(least: int, **options: int) -> None:
    """Raises: ConfigError naming the first option that is smaller than `least`."""
    for name, value in options.items():
        if value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}.")
