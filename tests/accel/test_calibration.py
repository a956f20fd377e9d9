"""The rates of this machine: fitted to made-up times, kept on the disk, and read again."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from vggnet.accel import calibration, cost_model
from vggnet.accel.algorithm import Shape
from vggnet.accel.algorithms.all import ALGORITHMS
from vggnet.accel.calibration import calibrate, fit, quality
from vggnet.accel.cost_model import SHIPPED, Rates, fastest, rates, rates_path
from vggnet.cli.bench import main


@pytest.fixture(autouse=True)
def _own_rates():
    """Of the test's own cache folder."""
    rates.cache_clear()
    yield
    rates.cache_clear()


@given(st.lists(st.sampled_from([0.0, 0.001, 0.05, 3.0]), min_size=4, max_size=4).filter(any))
def test_known_rates_are_found(true):
    """Oracle: the rates that made the times, by hand."""
    amounts = np.random.default_rng(0).uniform(1e4, 1e8, (12, 3)) * [1, 0.1, 0.01]
    times = true[0] + 1e-6 * amounts @ true[1:]
    assert fit(amounts, times) == pytest.approx(true, rel=1e-6, abs=1e-9)


@given(st.integers(0, 999))
def test_rates_are_the_best_that_are_not_negative(seed):
    """Oracle: SciPy's non-negative least squares of relative errors, for times that no rates explain."""
    random = np.random.default_rng(seed)
    amounts, times = random.uniform(1e5, 1e7, (8, 3)), random.uniform(0.1, 3, 8)
    columns = np.column_stack([np.ones(8), 1e-6 * amounts]) / times[:, None]
    expected, _ = nnls(columns, np.ones(8))
    assert fit(amounts, times) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_amounts_that_are_always_zero_have_no_rate():
    """Oracle: by hand: 2 ms and a millisecond for each million products."""
    assert fit([(1e6, 0, 0), (2e6, 0, 0), (3e6, 0, 0)], [3, 4, 5]) == pytest.approx(Rates(2, 1, 0, 0))


def test_quality_by_hand():
    """Oracle: by hand: one choice right (1 ms), one wrong (6 instead of 2): 7 / 3; bfloat16 is not looked at."""
    first, second = ("inference", Shape(1, 8, 8, 16, 16)), ("inference", Shape(1, 64, 64, 64, 64))
    measured = {first: {"direct": 1.0, "winograd4": 5.0, "bfloat16": 0.1}, second: {"direct": 6.0, "winograd4": 2.0}}
    table = {"convolution": {"direct": Rates(0, 0, 0, 0)}, "grad_weight": {}}
    assert quality(ALGORITHMS, measured, table) == pytest.approx(7 / 3)


@pytest.fixture
def machine(monkeypatch):
    """Where PyTorch's convolution takes no time by its products, and every other algorithm a second."""
    monkeypatch.setattr(calibration, "FITTED", calibration.FITTED[3:9])
    monkeypatch.setattr(calibration, "HELD_OUT", calibration.HELD_OUT[3:4])
    times = {"direct": 0.01}
    monkeypatch.setattr(
        calibration, "measure",
        lambda runs: {"algorithm": "", "ms": {name: times.get(name, 1000.0) for name in runs}},
    )  # fmt: skip


def test_choices_follow_the_machine(machine):
    """Oracle: the made-up machine: direct is always the best; the file, read by a new process."""
    shape = Shape(2, 40, 40, 64, 64)
    assert fastest(ALGORITHMS, "grad_input", shape) != "direct"
    found = calibrate()
    assert (found.kept, found.after, found.stock) == (True, 1.0, 1.0)
    assert found.before > 1000
    for _ in range(2):
        assert fastest(ALGORITHMS, "grad_input", shape) == "direct"
        assert rates()["convolution"]["direct"] == pytest.approx(Rates(0.01, 0, 0, 0))
        rates.cache_clear()
    assert json.loads(rates_path().read_text())["convolution"]["direct"] == pytest.approx([0.01, 0, 0, 0])


def test_the_command_says_how_good_choices_are(machine, capsys):
    """Oracle: the made-up machine: PyTorch is the best; the file exists."""
    assert main(["calibrate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["PyTorch,", "channels-last", "1.00"]
    assert lines[4].split() == ["predicted,", "after", "1.00"]
    assert lines[-1] == f"kept in {rates_path()}"
    assert main(["calibrate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rates"]["convolution"]["direct"]["start"] == pytest.approx(0.01)
    assert found["before"] == found["after"] == 1


def test_worse_rates_are_not_kept(machine, monkeypatch):
    """Oracle: a fit that errs, against shipped rates that are right by construction."""
    right = {"convolution": {"direct": Rates(0, 0, 0, 0)}, "grad_weight": {"direct": Rates(0, 0, 0, 0)}}
    wrong = {group: {"winograd4": Rates(0, 0, 0, 0), "direct": Rates(9, 0, 0, 0)} for group in right}
    monkeypatch.setattr(cost_model, "SHIPPED", right)
    monkeypatch.setattr(calibration, "fit_all", lambda *_: wrong)
    found = calibrate()
    assert not found.kept
    assert found.before == 1 < found.after
    assert not rates_path().exists()


GOOD = {group: {name: list(each) for name, each in table.items()} for group, table in SHIPPED.items()}


@pytest.mark.parametrize("content", [
    "", "{", "[]", "{}", json.dumps({"convolution": {"direct": [1, 2, 3, 4]}}),
    json.dumps(GOOD | {"grad_weight": {"direct": [1, 2, 3]}}), json.dumps(GOOD | {"grad_weight": {"direct": 3}}),
    json.dumps(GOOD | {"grad_weight": {"direct": [1, 2, 3, -1]}}), json.dumps(GOOD | {"grad_weight": 7}),
    json.dumps(GOOD | {"grad_weight": {"direct": [1, 2, 3, float("nan")]}}), "\ufffd\0",
])  # fmt: skip
def test_a_damaged_file_is_ignored(content):
    """Oracle: the shipped rates."""
    rates_path().parent.mkdir(parents=True, exist_ok=True)
    rates_path().write_text(content)
    assert rates() == SHIPPED


def test_rates_of_some_algorithms_leave_the_others(machine):
    """Oracle: the shipped rate of an algorithm that the file does not name."""
    rates_path().parent.mkdir(parents=True, exist_ok=True)
    rates_path().write_text(json.dumps({"convolution": {"direct": [1, 2, 3, 4]}, "grad_weight": {}}))
    assert rates()["convolution"]["direct"] == (1, 2, 3, 4)
    assert rates()["convolution"]["im2col"] == SHIPPED["convolution"]["im2col"]
    assert rates()["grad_weight"] == SHIPPED["grad_weight"]
