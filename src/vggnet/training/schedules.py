"""Learning rates as functions of the step and the epochs before it, so that a resumed run needs no state for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from vggnet.errors import ConfigError
from vggnet.tasks import get_task
from vggnet.training.config import TrainConfig

MOST_DROPS = 3  # of the schedule "plateau" (paper, section 3.1)


def lr_factor(config: TrainConfig, steps_per_epoch: int, step: int, rows: Sequence[Mapping[str, Any]] = ()) -> float:
    """The factor of all learning rates at a step.

    Args:
        config: of the run.
        steps_per_epoch: at least 1.
        step: of the whole run, counted from 0.
        rows: of the epochs before it.
    """
    schedule = config.schedule
    if schedule.name == "plateau":
        score = get_task(config.task.name).score
        return float(0.1 ** drops([score(row) for row in rows], schedule.plateau_epochs))
    if schedule.name == "step":
        return 0.1 ** (step // steps_per_epoch // schedule.step_epochs)
    epoch = step // steps_per_epoch
    first = max((restart for restart in schedule.restarts if restart <= epoch), default=0)
    end = min((restart for restart in schedule.restarts if restart > epoch), default=schedule.epochs)
    return one_cycle((step - first * steps_per_epoch) / ((end - first) * steps_per_epoch), schedule.warmup)


def extended(config: TrainConfig, epochs: int, rows: Sequence[Mapping[str, Any]]) -> TrainConfig:
    """The configuration of a run that goes on for more epochs: "onecycle" starts anew where it would have ended.

    Args:
        config: of the run.
        epochs: all that it is to have.
        rows: of the epochs that it has had.

    Raises:
        ConfigError: the run has as many, or has ended early by its patience.
    """
    schedule = config.schedule
    if epochs <= schedule.epochs:
        raise ConfigError(f"epochs is {epochs}, but the run has {schedule.epochs}; give more, or resume without it.")
    if rows and rows[-1]["epoch"] < schedule.epochs and has_ended(config, rows):
        raise ConfigError(
            f"the run ended after epoch {rows[-1]['epoch']}, as {schedule.patience} epochs brought nothing better "
            "(patience). Start another from its weights (init_from)."
        )
    restarts = (*schedule.restarts, schedule.epochs) if schedule.name == "onecycle" else ()
    return config.override(epochs=epochs, restarts=restarts)


def has_ended(config: TrainConfig, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all epochs are done, or `patience` of them brought nothing better (an equal is not better)."""
    if not rows:
        return False
    schedule = config.schedule
    waited = rows[-1]["epoch"] - max(rows, key=get_task(config.task.name).score)["epoch"]  # since the first of equals
    return rows[-1]["epoch"] >= schedule.epochs or bool(schedule.patience and waited >= schedule.patience)


def one_cycle(progress: float, warmup: float) -> float:
    """From 0.2 linearly up to 1 at `warmup`, then linearly down to 0 (Smith & Topin, arXiv:1708.07120).

    Args:
        progress: 0..1, the share of the run that is done.
        warmup: 0..1, the share of the run in which the rate rises.

    Example:
        >>> [round(one_cycle(progress, warmup=0.2), 3) for progress in (0, 0.1, 0.2, 0.6, 1)]
        [0.2, 0.6, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return 0.2 + 0.8 * progress / warmup
    return max(0.0, (1 - progress) / (1 - warmup))


def drops(scores: Sequence[float], patience: int) -> int:
    """How often `patience` epochs in a row, since the last time, brought no score above the best; at most three times.

    Example:
        >>> drops([0.3, 0.5, 0.5, 0.4, 0.6], patience=2)
        1
    """
    count, waited, best = 0, 0, -1.0
    for score in scores:
        waited = 0 if score > best else waited + 1
        best = max(best, score)
        if waited == patience:
            count, waited = count + 1, 0
    return min(count, MOST_DROPS)
