"""How many copies of a server there are on a Ray cluster. No PyTorch here: the command line reads it."""

from dataclasses import dataclass

from vggnet.errors import ConfigError, check_at_least


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """The replicas of a server with `--engine ray`. Each has all models, and its own queue and decoders.

    Raises:
        ConfigError: a number is out of range.

    Example:
        >>> Replicas(min_replicas=3, max_replicas=2)
        Traceback (most recent call last):
        vggnet.errors.ConfigError: max_replicas is 2; it must be at least 3.
    """

    min_replicas: int = 1  # there are always so many
    max_replicas: int = 1  # started while requests wait, as far as the cluster has processors
    replica_cpus: float = 1  # processors that a replica reserves; its network computes in as many threads

    def __post_init__(self) -> None:
        check_at_least(1, min_replicas=self.min_replicas)
        check_at_least(self.min_replicas, max_replicas=self.max_replicas)
        if not self.replica_cpus > 0:
            raise ConfigError(f"replica_cpus is {self.replica_cpus}; it must be more than 0.")
