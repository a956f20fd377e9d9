"""The study of depth: its entries, what it has is not run again, and its verdicts."""

import json
from statistics import mean, stdev

import pytest
from scipy.stats import ttest_ind_from_stats

import vggnet
from experiments.depth import run as depth
from vggnet.errors import ConfigError, NonFiniteError
from vggnet.training.presets import preset

pytestmark = pytest.mark.usefixtures("own_cache")
TINY = {"width": 0.05, "epochs": 1, "batch_size": 512, "flip": "random"}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Column A, column D from A, and A with batch norm, tiny, on the digits."""
    entries = (depth.Entry("vgg11"), depth.Entry("vgg16", from_a=True), depth.Entry("vgg11_bn"))
    monkeypatch.setattr(depth, "ENTRIES", entries)

    def run(**options):
        return depth.measure("digits", out=tmp_path / "runs", rows=tmp_path / "rows.jsonl", **TINY, **options)

    return run


def test_entries_are_those_of_the_paper():
    """Oracle: the columns of Table 1, section 4.1's shallow net, section 3.1's cure for deep ones, and batch norm."""
    labels = [entry.label for entry in depth.ENTRIES]
    assert labels[:7] == ["A", "A-LRN", "B", "C", "D", "E", "B-5x5"]
    assert labels[7:] == ["D, from A", "E, from A", *(f"{letter} with batch norm" for letter in "ADE")]


def test_rows_are_what_the_runs_and_their_tests_say(study, tmp_path):
    """Oracle: `vggnet.evaluate` by itself, and a second call, which trains nothing."""
    found = study(seeds=1)
    assert [row["label"] for row in found] == ["A", "D, from A", "A with batch norm"]
    folders = [next((tmp_path / "runs").glob(f"{name}-0-*")) for name in ("A", "D-from-A", "A-with-batch-norm")]
    for row, folder in zip(found, folders, strict=True):
        assert 1 - row["top1_error"] == pytest.approx(vggnet.evaluate(folder, data="digits").top1)
    description = json.loads((folders[1] / "config.json").read_text())
    assert description["init_from"] == str(folders[0])
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert study(seeds=1) == found
    assert {path: path.stat().st_mtime_ns for path in marks} == marks


def test_a_loss_that_is_no_number_is_a_row(study, monkeypatch, cells):
    """Oracle: a training that raises; the table counts it apart."""

    def fail(*arguments, **options):
        raise NonFiniteError("the loss became nan")

    monkeypatch.setattr(depth, "train_or_resume", fail)
    found = study(seeds=1)
    assert [row["diverged"] for row in found] == [True] * 3
    assert ["A", "9", "1", "-", "-", "1 of 1", "0.0"] in cells(depth.table(found))


def rows_of(label, errors, diverged=()):
    config = preset("fast").as_options()
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
    assert "no verdict" in said["deeper is better (E against D)"]
    assert "no verdict" in said["LRN does not help (A against A-LRN)"]
    reverse = [*rows_of("A", (0.20, 0.21, 0.22)), *rows_of("B", (0.30, 0.31, 0.32))]
    assert any("**disagrees**: -10.00" in line for line in depth.verdicts(reverse))


def test_table_by_hand(cells):
    """Oracle: typed: mean and deviation of two errors, minutes of a run."""
    table = cells(depth.table([*rows_of("B", (0.2, 0.22)), *rows_of("A", (0.3,))]))
    assert table[1:] == [
        ["A", "9", "1", "30.00", "1.00", "0 of 1", "60.0"],
        ["B", "9", "2", "21.00 ± 1.41", "1.00 ± 0.00", "0 of 2", "60.0"],
    ]


def test_the_command_trains_and_writes_the_page(study, tmp_path, command, cells):
    """Oracle: the rows that it wrote; the page and the figure beside them."""
    path = tmp_path / "page" / "rows.jsonl"
    options = {"width": 0.05, "epochs": 1, "seeds": 1, "out": tmp_path / "runs", "rows": path}
    assert command(depth.main, data="digits", **options) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["label"] for row in rows] == ["A", "D, from A", "A with batch norm"]
    text = path.with_name("README.md").read_text()
    assert [row[0] for row in cells(text) if row[0] in ("A", "D, from A", "A with batch norm")] == [
        row["label"] for row in rows
    ]
    assert "--width 0.05 --epochs 1`" in text
    assert path.with_name("figure.png").stat().st_size > 5_000


def test_mistakes_are_named(tmp_path, command, capsys):
    """Oracle: exit code 2 and one line with what was given."""
    for option in ("seeds", "epochs"):
        assert command(depth.main, data="digits", rows=tmp_path / "rows.jsonl", **{option: 0}) == 2
        assert capsys.readouterr().err.count("\n") == 1
        with pytest.raises(ConfigError, match=f"{option} is 0"):
            depth.measure("digits", out=tmp_path, rows=tmp_path / "rows.jsonl", **{"seeds": 1, option: 0})
