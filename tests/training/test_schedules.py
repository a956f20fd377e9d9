"""Schedules, worked by hand."""

import pytest

from vggnet.errors import ConfigError
from vggnet.training.presets import preset
from vggnet.training.schedules import drops, extended, lr_factor, one_cycle

ARTICLE = preset("article")
PAPER = preset("paper")


@pytest.mark.parametrize(("progress", "factor"), [(0, 0.2), (0.1, 0.6), (0.2, 1), (0.6, 0.5), (1, 0)])
def test_one_cycle_by_hand(progress, factor):
    """Oracle: up from 0.2 to 1 in the first fifth, straight down to 0 in the other four."""
    assert one_cycle(progress, 0.2) == pytest.approx(factor)


def test_the_tutorials_rate_drops_every_thirty_epochs():
    """Oracle: the tutorial: 0.01, times 0.1 every 30 epochs."""
    steps = 352
    rates = [0.01 * lr_factor(ARTICLE, steps, epoch * steps) for epoch in (0, 29, 30, 49)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert lr_factor(ARTICLE, steps, 30 * steps - 1) == 1


def test_plateau_by_hand():
    """Oracle: by hand, with patience 2: epochs 3 and 4 are no better than epoch 2, 5 and 6 neither, and so on."""
    accuracies = [0.3, 0.5, 0.5, 0.4, 0.45, 0.5, 0.6, 0.6, 0.1, 0.2, 0.2, 0.2]
    assert [drops(accuracies[:epochs], 2) for epochs in range(13)] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    config = PAPER.override(plateau_epochs=2)
    rows = [{"val_accuracy": accuracy} for accuracy in accuracies]
    assert 0.01 * lr_factor(config, 10, 1, rows[:6]) == pytest.approx(1e-4)


def test_one_cycle_spans_the_whole_run():
    """Oracle: by hand: 4 epochs of 25 steps, the first fifth of which rises from 0.2; without warmup it starts at 1."""
    config = ARTICLE.override(schedule="onecycle", epochs=4, warmup=0.2)
    factors = [lr_factor(config, 25, step) for step in (0, 5, 20, 60, 99)]
    assert factors == pytest.approx([0.2, 0.4, 1, 0.5, 0.0125])
    assert one_cycle(0, warmup=0) == 1


def test_restarts_by_hand():
    """Oracle: by hand: from 1 to 0 in epochs 1 and 2, then in epochs 3 to 6; 10 steps an epoch."""
    config = ARTICLE.override(schedule="onecycle", epochs=6, restarts=(2,), warmup=0.0)
    factors = [lr_factor(config, 10, step) for step in (0, 5, 19, 20, 30, 59)]
    assert factors == pytest.approx([1, 0.75, 0.05, 1, 0.75, 0.025])
    with pytest.raises(ConfigError, match=r"restarts is \(6,\); it must be ascending, above 0 and below epochs"):
        ARTICLE.override(schedule="onecycle", epochs=6, restarts=(6,))


def test_a_run_is_extended_by_its_schedule():
    """Oracle: the contract: onecycle starts anew, the others continue; fewer epochs, or an early end, are refused."""
    config = ARTICLE.override(schedule="onecycle", epochs=3)
    longer = extended(config, 5, [{"epoch": 3}])
    assert (longer.schedule.epochs, longer.schedule.restarts) == (5, (3,))
    assert extended(longer, 9, []).schedule.restarts == (3, 5)
    assert extended(ARTICLE, 70, []).schedule.restarts == ()
    with pytest.raises(ConfigError, match="epochs is 3, but the run has 3"):
        extended(config, 3, [])
    rows = [{"epoch": epoch, "val_accuracy": 0.5} for epoch in (1, 2)]
    with pytest.raises(ConfigError, match="ended after epoch 2, as 1 epochs"):
        extended(config.override(patience=1, val_fraction=0.1), 5, rows)
