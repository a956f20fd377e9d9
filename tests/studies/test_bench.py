"""The benchmark's arithmetic and its command. No test asserts a time."""

import json

import numpy as np
import pytest

from vggnet.cli.bench import main
from vggnet.errors import ConfigError
from vggnet.studies.bench import Bench
from vggnet.studies.bench_shapes import _shapes
from vggnet.studies.memory import peak_bytes

pytestmark = pytest.mark.usefixtures("own_cache")


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
    options += ["--no-peers"] if work == "infer" else []
    assert main([work, *options, "--rounds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["seconds"]) == {"vggnet", "PyTorch, NCHW", "PyTorch, channels-last"}
    assert all(len(values) == 2 and min(values) > 0 for values in found["seconds"].values())


def test_a_network_of_torchvision_with_its_memory(capsys):
    """Oracle: the ways that are promised; a step holds at least its images."""
    options = ["--model", "squeezenet1_1", "--size", "64", "--batch", "4", "--rounds", "1", "--memory"]
    assert main(["train", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peak_bytes"].keys() == found["seconds"].keys()
    assert min(found["peak_bytes"].values()) > 4 * 3 * 64 * 64 * 4


def test_a_network_without_head_is_not_trained():
    """Oracle: the option is named."""
    with pytest.raises(ConfigError, match="head none"):
        main(["train", "--head", "none"])


def test_peak_of_memory():
    """Oracle: the size of an array that is filled and let go, whatever this process holds."""
    ballast = bytearray(300 << 20)
    found = peak_bytes(np.ones, (100 << 20) // 8)
    assert 99 << 20 <= found < 110 << 20
    assert len(ballast) == 300 << 20


def test_the_shapes_are_those_of_table_1():
    """Oracle: by hand, for 32 pixels: each distinct 3x3 convolution of columns A, B, D and E."""
    assert set(_shapes(32)) == {
        (32, 3, 64), (32, 64, 64), (16, 64, 128), (16, 128, 128), (8, 128, 256), (8, 256, 256), (4, 256, 512),
        (4, 512, 512), (2, 512, 512),
    }  # fmt: skip


def test_shapes_and_the_article_are_measured(capsys, monkeypatch):
    """Oracle: each shape forward and backward; both ways of the article's step."""
    from vggnet.studies import bench_article, bench_shapes

    monkeypatch.setattr(bench_shapes, "BATCHES", {32: 1})
    assert main(["shapes", "--rounds", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 18
    assert all(min(row["ms"].values()) > 0 and row["ratio"] > 0 for row in rows)
    monkeypatch.setattr(bench_article, "BATCH", 2)
    monkeypatch.setattr(bench_article, "IMAGES", 4)
    assert main(["article", "--rounds", "1", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["seconds"]) == {"vggnet", "the article's script"}


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


def test_features_are_measured_against_torchvision(capsys):
    """Oracle: the ways that are promised, each once a round."""
    options = ["--model", "vgg11_bn", "--layer", "relu1_1", "--size", "32", "--batch", "2", "--rounds", "1", "--json"]
    assert main(["features", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["seconds"]) == {"vggnet", "PyTorch, NCHW", "PyTorch, channels-last"}


@pytest.mark.parametrize("options", [[], ["--gradient"]])
def test_lpips_is_measured_against_its_package(capsys, options):
    """Oracle: the ways that are promised, each once a round."""
    pytest.importorskip("lpips", reason="the package lpips is not installed")
    assert main(["lpips", "--size", "16", "--batch", "2", "--rounds", "1", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["seconds"]) == {"vggnet", "PyTorch, NCHW", "PyTorch, channels-last"}
