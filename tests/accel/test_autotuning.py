"""The autotuner: what is measured, cached, forced and fixed."""

import json

import pytest
import torch

from vggnet.accel.autotuning import Autotuner


def counted(calls, **milliseconds):
    """Algorithms that note their names and return how long they claim to take."""
    return {
        name: (lambda name=name, value=value: calls.append(name) or torch.tensor(value))
        for name, value in milliseconds.items()
    }


@pytest.fixture
def fixed_clock(monkeypatch):
    """Each algorithm takes as long as the number it returns says."""
    monkeypatch.setattr("vggnet.accel.autotuning._milliseconds", lambda algorithm: algorithm().item())


def test_a_choice_is_measured_once_and_kept_on_the_disk(tmp_path, fixed_clock, monkeypatch):
    """Oracle: the calls, counted; a second reader of the file measures nothing."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    path, calls = tmp_path / "cache" / "choices.json", []
    algorithms = counted(calls, direct=3.0, winograd4=1.0, winograd2=2.0)
    first = Autotuner(path)
    with first.fixed({}):
        assert first.run("shape", algorithms).item() == 1
        assert calls == ["direct"] * 4 + ["winograd4"] * 4 + ["winograd2"] * 2 + ["winograd4"]  # 2.0 is far behind
        first.run("shape", algorithms)
    Autotuner(path).run("shape", algorithms)
    assert calls[11:] == ["winograd4"] * 2
    assert Autotuner(path).measured()["shape"] == {
        "algorithm": "winograd4",
        "ms": {"direct": 3.0, "winograd4": 1.0, "winograd2": 2.0},
    }


def test_long_work_is_measured_with_few_runs_and_the_likely_algorithm_is_first(fixed_clock, monkeypatch):
    """Oracle: the calls, counted: a warm-up and what half a second takes; the fastest is found at any place."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    algorithms = counted(calls := [], direct=400.0, winograd4=700.0, winograd2=300.0)
    tuner = Autotuner(None)
    with tuner.fixed({}):
        assert tuner.run("shape", algorithms, lambda: "winograd4").item() == 300
    assert calls == ["winograd4"] * 2 + ["direct"] * 3 + ["winograd2"] * 3 + ["winograd2"]


def test_a_fixed_choice_is_used_and_never_written(tmp_path, fixed_clock, monkeypatch):
    """Oracle: the choice that was given, although another is faster; the cache file, read by hand."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    calls, tuner = [], Autotuner(tmp_path / "choices.json")
    algorithms = counted(calls, direct=3.0, winograd4=1.0, winograd2=2.0)
    given = {"shape": {"algorithm": "winograd2", "ms": {}}, "not needed": {"algorithm": "direct", "ms": {}}}
    with tuner.fixed(given):
        tuner.run("shape", algorithms)
        assert calls == ["winograd2"]
        tuner.run("another", algorithms)
        assert {key: choice["algorithm"] for key, choice in tuner.chosen().items()} == {
            "another": "winograd4", "not needed": "direct", "shape": "winograd2"
        }  # fmt: skip
    assert [json.loads(line)["key"] for line in (tmp_path / "choices.json").read_text().strip().splitlines()] == [
        "another"
    ]
    assert tuner.chosen() == {}
    tuner.run("another", algorithms)
    assert tuner.chosen()["another"]["algorithm"] == "winograd4"


def test_a_server_keeps_predicted_choices(tmp_path, fixed_clock, monkeypatch):
    """Oracle: the calls, counted; a shape that is in the cache keeps its measured choice."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    monkeypatch.setattr("vggnet.accel.autotuning.MEASURE_AFTER", 2)
    calls, path = [], tmp_path / "choices.json"
    algorithms = counted(calls, direct=3.0, winograd4=1.0, winograd2=2.0)
    path.write_text('{"key": "cached", "algorithm": "winograd4", "ms": {}}\n')
    tuner = Autotuner(path)
    with tuner.without_measuring():
        assert tuner.knows("new")
        for _ in range(9):
            tuner.run("new", algorithms, lambda: "winograd2")
        tuner.run("cached", algorithms, lambda: "winograd2")
        assert tuner.settled("new", algorithms) == "winograd2"
    assert calls == ["winograd2"] * 9 + ["winograd4"]
    assert tuner.settled("new", algorithms) is None


def test_a_fixed_choice_that_cannot_run_here_is_measured(fixed_clock, monkeypatch):
    """Oracle: the fastest of those offered; the name of an algorithm that another version may bring."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    tuner = Autotuner(None)
    with tuner.fixed({"shape": {"algorithm": "bfloat16", "ms": {}}}):
        assert tuner.run("shape", counted([], direct=2.0, winograd4=1.0)).item() == 1
        assert tuner.chosen()["shape"]["algorithm"] == "winograd4"


def test_fixed_choices_end_with_an_exception(monkeypatch):
    """Oracle: what was chosen before the block."""
    tuner = Autotuner(None)
    with pytest.raises(ZeroDivisionError), tuner.fixed({"shape": {"algorithm": "winograd2", "ms": {}}}):
        raise ZeroDivisionError
    assert tuner.chosen() == {}


def test_the_environment_decides(monkeypatch):
    """Oracle: the documented variable; a name that a shape does not offer means direct; names of version 0.1."""
    calls = []
    expected = {
        "direct": "direct", "winograd4": "winograd4", "winograd9": "direct", "matmul": "matmul", "im2col": "im2col",
        "dense": "matmul", "unfold": "im2col", "halves": "float16",
    }  # fmt: skip
    for name, used in expected.items():
        monkeypatch.setenv("VGGNET_CONV", name)
        Autotuner(None).run("shape", counted(calls, direct=1.0, winograd4=1.0, matmul=1.0, im2col=1.0, float16=1.0))
        assert calls.pop() == used


VERSION_0_1 = {
    "answer relu pool n<=1 32x32 3->64": {"algorithm": "unfold", "ms": {"direct": 2.0, "unfold": 1.0}},
    "forward n<=128 2x2 512->512": {"algorithm": "dense", "ms": {"dense": 1.0, "direct": 2.0}},
    "answer linear n=1 4096->1000": {"algorithm": "halves", "ms": {"direct": 2.0, "halves": 1.0}},
    "grad_input n<=128 32x32 64->64": {"algorithm": "winograd4", "ms": {"winograd4": 1.0}},
}
TODAY = {
    "inference relu pool n<=1 32x32 3->64": {"algorithm": "im2col", "ms": {"direct": 2.0, "im2col": 1.0}},
    "forward n<=128 2x2 512->512": {"algorithm": "matmul", "ms": {"matmul": 1.0, "direct": 2.0}},
    "inference linear n=1 4096->1000": {"algorithm": "float16", "ms": {"direct": 2.0, "float16": 1.0}},
    "grad_input n<=128 32x32 64->64": {"algorithm": "winograd4", "ms": {"winograd4": 1.0}},
}


def test_choices_of_version_0_1_are_understood():
    """Oracle: a checkpoint's choices as version 0.1 wrote them, and today's names, typed by hand."""
    tuner = Autotuner(None)
    with tuner.fixed(VERSION_0_1):
        assert tuner.chosen() == TODAY


ANOTHER = '{"key": "another", "algorithm": "direct", "ms": {}}'


@pytest.mark.parametrize("content", [
    "", "[1]", '{"shape": 3}', '{"key": "shape", "algorithm": "gone", "ms": {}}', ANOTHER + '\n{"key": "sha',
    "\ufffd\0",
])  # fmt: skip
def test_a_damaged_file_is_measured_anew(tmp_path, fixed_clock, monkeypatch, content):
    """Oracle: the fastest; sound lines are kept."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    path = tmp_path / "choices.json"
    path.write_text(content)
    tuner = Autotuner(path)
    assert ("another" in tuner.measured()) == (ANOTHER in content)
    with tuner.fixed({}):
        assert tuner.run("shape", counted([], direct=2.0, winograd4=1.0)).item() == 1
    assert Autotuner(path).measured()["shape"]["algorithm"] == "winograd4"


def test_two_processes_keep_what_both_measured(tmp_path, fixed_clock, monkeypatch):
    """Oracle: both keys, whoever wrote last."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    path = tmp_path / "choices.json"
    one, other = Autotuner(path), Autotuner(path)
    for tuner, key in ((one, "first"), (other, "second"), (one, "third")):
        with tuner.fixed({}):
            tuner.run(key, counted([], direct=2.0, winograd4=1.0))
    assert set(Autotuner(path).measured()) == {"first", "second", "third"}


def test_without_a_folder_to_write_to(tmp_path, fixed_clock, monkeypatch):
    """Oracle: the fastest, measured once, with a file where the folder should be."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    (tmp_path / "file").write_text("")
    calls = []
    tuner = Autotuner(tmp_path / "file" / "choices.json")
    with tuner.fixed({}):
        for _ in range(2):
            assert tuner.run("shape", counted(calls, direct=2.0, winograd4=1.0)).item() == 1
    assert len(calls) == 2 * 4 + 2


def test_a_shape_is_predicted_until_it_has_been_used_often(tmp_path, fixed_clock, monkeypatch):
    """Oracle: the calls, counted: 500 by the prediction, one each, then the measurement."""
    monkeypatch.delenv("VGGNET_CONV", raising=False)
    calls, tuner = [], Autotuner(tmp_path / "choices.json")
    algorithms = counted(calls, direct=3.0, winograd4=2.0, winograd2=1.0)
    for _ in range(500):
        assert not tuner.knows("shape")
        assert tuner.run("shape", algorithms, lambda: "winograd4").item() == 2
    assert calls == ["winograd4"] * 500
    assert not (tmp_path / "choices.json").exists()
    assert tuner.run("shape", algorithms, lambda: "winograd4").item() == 1
    assert len(calls) == 500 + 3 * 4 + 1
    assert tuner.knows("shape")
    assert not tuner.knows("another")
    with tuner.fixed({}):
        assert tuner.knows("another")
