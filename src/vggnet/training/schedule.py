"""Learning rates as functions of the step, so that a resumed run needs no state for them."""

from vggnet.training.config import TrainConfig


def lr_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """What to multiply `config.lr` by at optimiser step `step` (from 0) of the whole run."""
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
