"""Where tensors live."""

import torch

from vggnet.errors import ConfigError


def choose_device(name: str | None = None) -> torch.device:
    """The device asked for, else a GPU if there is one.  Raises: ConfigError for a device that cannot be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # PyTorch's answers to an unknown device and to one not built in
        raise ConfigError(f'device {name!r} cannot be used ({str(error).splitlines()[0]}); try "cpu".') from error
