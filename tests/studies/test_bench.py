"""The benchmark's arithmetic and its command. No test asserts a time."""

import json

import pytest

from vggnet.cli.bench import main
from vggnet.conv3x3 import choice
from vggnet.studies.bench import Bench


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    choice.choices.cache_clear()
    yield
    choice.choices.cache_clear()


def test_medians_and_ratio_by_hand():
    """Oracle: by hand: medians 2, 6 and 4; the fastest of the others takes twice as long."""
    seconds = {"vggnet": [1.0, 2.0, 9.0], "slow": [6.0, 6.0, 6.0], "fast": [5.0, 4.0, 3.0]}
    bench = Bench(work="step", batch=8, seconds=seconds, environment={})
    assert bench.medians == {"vggnet": 2, "fast": 4, "slow": 6}
    assert bench.ratio == 2
    lines = bench.as_table().splitlines()
    assert lines[2].split() == ["vggnet", "2000.0", "1000.0", "9000.0", "4.0"]
    assert lines[-1] == "2.00 times as fast as the fastest other way"


@pytest.mark.parametrize("work", ["train", "infer"])
def test_every_way_is_measured(capsys, work):
    """Oracle: the ways that are promised, each once a round."""
    options = ["--model", "vgg11_bn", "--width", "0.05", "--head", "gap", "--size", "32", "--batch", "2"]
    assert main([work, *options, "--rounds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["seconds"]) == {"vggnet", "PyTorch, NCHW", "PyTorch, channels-last"}
    assert all(len(values) == 2 and min(values) > 0 for values in found["seconds"].values())


def test_choices_are_shown(capsys):
    """Oracle: what was measured just now; before, a line that says what to do."""
    assert main(["choices"]) == 0
    assert "vgg bench train" in capsys.readouterr().out
    options = ["--model", "vgg11_bn", "--width", "0.25", "--head", "gap", "--size", "32", "--batch", "2"]
    main(["train", *options, "--rounds", "1"])
    capsys.readouterr()
    assert main(["choices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any(key.startswith("grad_weight n<=2 8x8 32->64") for key in found)
    assert all(entry["algorithm"] in entry["ms"] for entry in found.values())
    assert main(["choices"]) == 0
    assert "grad_weight n<=2 8x8 32->64" in capsys.readouterr().out
