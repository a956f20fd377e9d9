"""The study of depth: its entries, what it has is not run again, and its verdicts."""

import json
from statistics import mean, stdev

import pytest
from scipy.stats import ttest_ind_from_stats

import vggnet
from vggnet.cli.study import Depth, Drawbacks, main
from vggnet.errors import ConfigError, NonFiniteError
from vggnet.studies import depth, drawbacks
from vggnet.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("own_cache")
TINY = {"width": 0.05, "epochs": 1, "batch_size": 512, "flip": "random"}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Column A, column D from A, and A with batch norm, tiny, on the digits."""
    entries = (depth.Entry("vgg11"), depth.Entry("vgg16", from_a=True), depth.Entry("vgg11_bn"))
    monkeypatch.setattr(depth, "ENTRIES", entries)

    def run(**options):
        return depth.study_depth("digits", out=tmp_path / "runs", rows=tmp_path / "rows.jsonl", **TINY, **options)

    return run


def test_entries_are_those_of_the_paper():
    """Oracle: the columns of Table 1, section 4.1's shallow net, section 3.1's cure for deep ones, and batch norm."""
    labels = [entry.label for entry in depth.ENTRIES]
    assert labels[:7] == ["A", "A-LRN", "B", "C", "D", "E", "B-5x5"]
    assert labels[7:] == ["D, from A", "E, from A", *(f"{letter} with batch norm" for letter in "ADE")]


def test_rows_are_what_the_runs_and_their_tests_say(study, tmp_path):
    """Oracle: `vggnet.evaluate` by itself, and a second call, which trains nothing."""
    found = study(seeds=1)
    assert [row["label"] for row in found.rows] == ["A", "D, from A", "A with batch norm"]
    folders = [next((tmp_path / "runs").glob(f"{name}-0-*")) for name in ("A", "D-from-A", "A-with-batch-norm")]
    for row, folder in zip(found.rows, folders, strict=True):
        assert 1 - row["top1_error"] == pytest.approx(vggnet.evaluate(folder, data="digits").top1)
    description = json.loads((folders[1] / "config.json").read_text())
    assert description["init_from"] == str(folders[0])
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert study(seeds=1).rows == found.rows
    assert {path: path.stat().st_mtime_ns for path in marks} == marks


def test_a_loss_that_is_no_number_is_a_row(study, monkeypatch):
    """Oracle: a training that raises; the table counts it apart."""

    def fail(*arguments, **options):
        raise NonFiniteError("the loss became nan")

    monkeypatch.setattr(depth, "train_or_resume", fail)
    found = study(seeds=1)
    assert [row["diverged"] for row in found.rows] == [True] * 3
    assert "| A | 9 | 1 | - | - | 1 of 1 |" in found.as_table()


def rows_of(label, errors, diverged=()):
    config = TrainConfig().as_dict()
    return [
        {"label": label, "seed": seed, "weight_layers": 9, "diverged": seed in diverged, "top1_error": error,
         "top5_error": 0.01, "seconds": 3600.0, "config": config}
        for seed, error in enumerate(errors)
    ]  # fmt: skip


def test_verdicts_by_hand():
    """Oracle: Welch's test from means and deviations alone; runs that learnt nothing do not count."""
    rows = [
        *rows_of("A", (0.30, 0.31, 0.32)), *rows_of("B", (0.20, 0.21, 0.22, 0.9), diverged=(3,)),
        *rows_of("D", (0.19, 0.22, 0.23)), *rows_of("E", (0.5, 0.9, 0.9), diverged=(1, 2)),
    ]  # fmt: skip
    said = {line.partition(":")[0]: line for line in depth.verdicts(rows)}
    a, b = ([30, 31, 32], [20, 21, 22])
    chance = ttest_ind_from_stats(mean(a), stdev(a), 3, mean(b), stdev(b), 3, equal_var=False).pvalue
    assert "**agrees**: +10.00 points" in said["deeper is better (B against A)"]
    assert f"{chance:.2g}" in said["deeper is better (B against A)"]
    assert "**not decided**" in said["deeper is better (D against B)"]
    assert "cannot be said" in said["deeper is better (E against D)"]
    assert "cannot be said" in said["LRN does not help (A against A-LRN)"]
    reverse = [*rows_of("A", (0.20, 0.21, 0.22)), *rows_of("B", (0.30, 0.31, 0.32))]
    assert any("**disagrees**: -10.00" in line for line in depth.verdicts(reverse))


def test_table_by_hand():
    """Oracle: typed: mean and deviation of two errors, hours of three runs."""
    table = depth.DepthStudy(rows=[*rows_of("B", (0.2, 0.22)), *rows_of("A", (0.3,))], finished=True).as_table()
    assert table.index("| A |") < table.index("| B |")
    assert "| B | 9 | 2 | 21.00 ± 1.41 | 1.00 ± 0.00 | 0 of 2 | 60.0 |" in table
    assert "took 3.0 hours" in table


def test_command_draws_and_prints(study, tmp_path, capsys):
    """Oracle: the rows that the command wrote, and the picture beside them."""
    folders = ["--out", str(tmp_path / "runs"), "--rows", str(tmp_path / "r.jsonl")]
    small = ["--width", "0.05", "--epochs", "1"]
    assert main(["depth", "--data", "digits", "--seeds", "1", *small, *folders, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in printed["rows"]] == ["A", "D, from A", "A with batch norm"]
    assert (tmp_path / "r.png").stat().st_size > 5_000


@pytest.mark.parametrize(("options", "budget"), [(Depth, depth.BUDGET), (Drawbacks, drawbacks.BUDGET)])
def test_the_commands_offer_the_budgets(options, budget):
    """Oracle: the budgets of the studies, in which a run is looked for."""
    given = options(data="digits")
    assert (given.width, given.epochs) == (budget.width, budget.epochs)


def test_mistakes_are_named():
    """Oracle: the message names what was given."""
    with pytest.raises(ConfigError, match="seeds is 0"):
        depth.study_depth("digits", seeds=0)
    with pytest.raises(ConfigError, match="epochs is 0"):
        depth.study_depth("digits", epochs=0)
