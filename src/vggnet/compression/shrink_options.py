"""The options of `vggnet.compression.shrink`, and which steps they belong to. It imports no PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

from vggnet.errors import ConfigError, check_at_least

Criterion = Literal["l1", "l2", "bn", "taylor", "chip"]

# Step -> its place among the others, None for anywhere before the weights are stored. Pruning and folding change the
# layers that are factorized, and what is rounded for storage is changed no more.
STEPS: dict[str, int | None] = {
    "prune": 0, "fold": 0, "factorize": 1, "head": None, "tune": None, "distill": None, "half": 2, "quantize": 2,
}  # fmt: skip
TRAINED = ("head", "tune", "distill")  # these train, so they need images
_STEPS_OF = {
    "to_macs": ("prune",), "to_size": ("prune",), "max_drop": ("prune",), "criterion": ("prune",), "floor": ("prune",),
    "multiple": ("prune",),
    "rounds": ("prune",), "round_epochs": ("prune",), "energy": ("factorize",), "rank": ("factorize",),
    "head": ("head",), "epochs": TRAINED, "rate": ("tune", "distill", "prune"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ShrinkOptions:
    """What the steps are told. Pruning takes `to_macs`, `to_size` or both of them, or `max_drop`.

    Args:
        to_macs: prune: the share of multiply-adds that may remain, in (0, 1).
        to_size: prune: bytes of the file to write.
        max_drop: prune: percentage points of validation accuracy that the pruned network, after the training that
            follows, may lose; the smallest network that does not lose more is searched by bisection.
        criterion: prune: "l1", "l2", "bn", "taylor" or "chip"; see `vggnet.compression.scores`.
        floor: prune: share of each layer's channels that remains at least, in [0, 1].
        multiple: prune: channels remain in multiples of it; see `prune`.
        rounds: prune: in how many rounds channels are removed.
        round_epochs: prune: epochs of training between two rounds.
        energy: factorize: share of the squares of singular values, or with images of the variance of the outputs,
            weighted by how much the network's outputs depend on them, that is kept, in (0, 1).
        rank: factorize: of all layers, instead of `energy`.
        head: head: the new one, "gap" or "cifar".
        epochs: head, tune, distill: of the training.
        rate: tune, distill, and between rounds: share of the recipe's learning rates, below 1 for a recipe that starts
            from random weights, at whose rates a trained network forgets.

    Raises:
        ConfigError: an option is out of range.

    Example:
        >>> ShrinkOptions(to_macs=0.5).check(["prune", "half"])
    """

    to_macs: float | None = None
    to_size: int | None = None
    max_drop: float | None = None
    criterion: Criterion = "l2"
    floor: float = 0.1
    multiple: int = 32
    rounds: int = 1
    round_epochs: int = 1
    energy: float | None = None
    rank: int | None = None
    head: Literal["gap", "cifar"] | None = None
    epochs: int = 10
    rate: float = 0.25

    def __post_init__(self) -> None:
        check_at_least(
            1, multiple=self.multiple, rounds=self.rounds, round_epochs=self.round_epochs, epochs=self.epochs
        )
        if self.rate <= 0:
            raise ConfigError(f"rate is {self.rate}; it must be above 0, such as 0.25.")
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise ConfigError(f"max_drop is {self.max_drop}; it is in percentage points, from 0 to below 100.")

    def check(self, steps: Sequence[str]) -> None:
        """Raises: ConfigError for steps in an order that makes no sense, and options that these steps do not have."""
        _check_order(steps)
        for option in fields(self):
            value, of = getattr(self, option.name), _STEPS_OF[option.name]
            if value != option.default and not set(of) & set(steps):
                raise ConfigError(
                    f"{option.name} is {value}, but it acts only with the step {' or '.join(of)}. Leave it out."
                )
        targets = [name for name in ("to_macs", "to_size", "max_drop") if getattr(self, name) is not None]
        if "prune" in steps and (not targets or (self.max_drop is not None and len(targets) > 1)):
            raise ConfigError(
                f"prune got {' and '.join(targets) or 'no target'}. Give to_macs (the share of multiply-adds that may "
                "remain, such as 0.5), to_size (bytes of the file) or both; or max_drop (percentage points)."
            )
        if "factorize" in steps and self.energy is None and self.rank is None:
            raise ConfigError("factorize needs energy, such as 0.9, or rank, such as 256.")
        if "head" in steps and self.head is None:
            raise ConfigError("head needs the option head: gap, or cifar for images of 32 pixels.")
        if self.max_drop is not None and not {"tune", "distill"} & set(steps[steps.index("prune") + 1 :][:1]):
            raise ConfigError("max_drop needs a training right behind prune. Give prune,distill or prune,tune.")
        if self.round_epochs > 1 and self.rounds == 1:
            raise ConfigError(
                f"round_epochs is {self.round_epochs}, but there is one round. Give rounds, or leave it out."
            )

    def needs_data(self, steps: Sequence[str]) -> str | None:
        """What cannot work without images, None if everything can."""
        for step in steps:
            if step in TRAINED:
                return f"the step {step} trains, which"
        if self.rounds > 1:
            return "pruning in rounds trains between them, which"
        return f"the criterion {self.criterion}" if self.criterion in ("taylor", "chip") else None


def _check_order(steps: Sequence[str]) -> None:
    """Raises: ConfigError."""
    if not steps:
        raise ConfigError(f"no step was given; expected some of {', '.join(STEPS)}.")
    for step in steps:
        if step not in STEPS:
            raise ConfigError(f"unknown step {step!r}. The steps are {', '.join(STEPS)}.")
        if steps.count(step) > 1:
            raise ConfigError(f"the step {step} was given {steps.count(step)} times; give it once.")
    if {"half", "quantize"} <= set(steps):
        raise ConfigError("half and quantize are two ways to store weights; give one of them.")
    placed = [(STEPS[step], step) for step in steps if STEPS[step] is not None]
    for (place, before), (other, after) in pairwise(placed):
        if place > other:  # type: ignore[operator]
            raise ConfigError(f"{before} comes before {after}, but must follow it. Give {after},{before}.")
    for before, after in pairwise(steps):
        if STEPS[before] == STEPS["half"]:
            raise ConfigError(f"{before} comes before {after}, but must be last. Give {after},{before}.")
