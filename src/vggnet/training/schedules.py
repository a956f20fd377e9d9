"""Learning rates as functions of the step and the epochs before it, so that a resumed run needs no state for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from vggnet.training.config import TrainConfig

MOST_DROPS = 3  # of the schedule "plateau" (paper, section 3.1)


def lr_factor(config: TrainConfig, steps_per_epoch: int, step: int, rows: Sequence[Mapping[str, Any]] = ()) -> float:
    """What to multiply `config.lr` by at optimizer step `step` (from 0) of the whole run, after the epochs `rows`."""
    if config.schedule == "plateau":
        return float(0.1 ** drops([row["val_accuracy"] for row in rows], config.plateau_epochs))
    if config.schedule == "step":
        return 0.1 ** (step // steps_per_epoch // config.step_epochs)
    return one_cycle(step / (config.epochs * steps_per_epoch), config.warmup)


def one_cycle(progress: float, warmup: float) -> float:
    """From 0.2 linearly up to 1 at `warmup`, then linearly down to 0 (Smith & Topin, arXiv:1708.07120).

    `progress` in [0, 1] is the share of the run that is done.
    """
    if progress < warmup:
        return 0.2 + 0.8 * progress / warmup
    return max(0.0, (1 - progress) / (1 - warmup))


def drops(accuracies: Sequence[float], patience: int) -> int:
    """How often `patience` epochs in a row, since the last time, brought no accuracy above the best; at most thrice."""
    count, waited, best = 0, 0, -1.0
    for accuracy in accuracies:
        waited = 0 if accuracy > best else waited + 1
        best = max(best, accuracy)
        if waited == patience:
            count, waited = count + 1, 0
    return min(count, MOST_DROPS)
