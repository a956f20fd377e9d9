"""Ray: a cluster that exists, or one of this machine that no other machine reaches."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vggnet.errors import ConfigError, one_line, require

EXTRA = "ray"
ADDRESS = "RAY_ADDRESS"  # the environment variable that Ray's own commands read
# With "0" Ray uses the loopback interface alone; it takes 127.0.0.1 as an argument for the address of the machine.
OTHER_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Connect to the cluster that $RAY_ADDRESS names; by default start one of this machine, and end it after the block.

    That one listens at the loopback interface alone, and has no dashboard.

    Returns:
        The module `ray`.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; without it, Ray warns
    address = os.environ.get(ADDRESS)
    if not address:
        os.environ.setdefault(OTHER_MACHINES, "0")  # read when Ray is imported
    ray: Any = require("ray", EXTRA)
    options = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(**options, logging_level="error", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"there is no Ray cluster at {address or 'this machine'} ({one_line(error)}); start it, or set {ADDRESS}."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
