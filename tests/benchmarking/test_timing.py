"""The benchmarks' arithmetic, what each way computes, and the commands. No test asserts a time."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from vggnet.benchmarking import convolution_timing, feature_timing, timing
from vggnet.benchmarking.peak_memory import peak_bytes
from vggnet.benchmarking.timing import Bench, in_turns
from vggnet.cli.bench import bench_as_text, main
from vggnet.errors import ConfigError

pytestmark = pytest.mark.usefixtures("own_cache")
WAYS = ["vggnet", "PyTorch, NCHW", "PyTorch, channels-last"]


def test_medians_and_ratio_by_hand():
    """Oracle: by hand: medians 2, 6 and 4; the fastest of the others takes twice as long."""
    seconds = {"vggnet": [1.0, 2.0, 9.0], "slow": [6.0, 6.0, 6.0], "fast": [5.0, 4.0, 3.0]}
    bench = Bench(work="step", batch=8, seconds=seconds, environment={})
    assert bench.medians == {"vggnet": 2, "fast": 4, "slow": 6}
    assert bench.ratio == 2
    lines = bench_as_text(bench).splitlines()
    assert lines[2].split() == ["vggnet", "float32", "2000.0", "1000.0", "9000.0", "4.0"]
    assert lines[-1] == "2.00 times as fast as the fastest other way"


def test_the_ratio_is_of_the_fastest_ways_in_any_precision():
    """Oracle: by hand: 3 seconds of PyTorch in bfloat16 by 2 of ours in float32."""
    seconds = {"vggnet": [2.0], "vggnet, bfloat16": [2.5], "PyTorch, NCHW": [6.0], "PyTorch, NCHW, bfloat16": [3.0]}
    assert Bench(work="step", batch=8, seconds=seconds, environment={}).ratio == 1.5


@pytest.fixture(autouse=True)
def has_tiles(monkeypatch):
    """Machines with and without a matrix unit run the same tests."""
    for module in (timing, feature_timing, convolution_timing):
        monkeypatch.setattr(module, "has_tiles", lambda: False)


def test_bfloat16_where_the_cpu_has_a_unit_for_it(monkeypatch, watched):
    """Oracle: PyTorch's logits in float64, to the precision of each way; what is rounded differs from float32."""
    monkeypatch.setattr(timing, "has_tiles", lambda: True)
    timing.bench_infer("vgg11_bn", width=0.5, head="gap", size=32, batch=2, rounds=1, peers=False)
    torch.manual_seed(0)
    network = timing.build_network("vgg11_bn", 1000, 0.5, "gap").eval()
    with torch.no_grad():
        expected = network.double()(torch.randn(2, 3, 32, 32).double())
    assert list(watched) == [*WAYS, "vggnet, bfloat16", "PyTorch, channels-last, bfloat16"]
    for way, logits in watched.items():
        error = (logits[1] - expected).norm() / expected.norm()
        assert error < (3e-2 if way.endswith("bfloat16") else 1e-4)
    assert not torch.equal(watched["PyTorch, channels-last, bfloat16"][0], watched["PyTorch, channels-last"][0])


def test_precision_and_error_stand_beside_times():
    """Oracle: by hand."""
    seconds, errors = {"vggnet": [2.0], "vggnet, bfloat16": [1.0]}, {"vggnet": 1.2e-6, "vggnet, bfloat16": 4e-3}
    bench = Bench(
        work="step", batch=8, seconds={**seconds, "PyTorch": [3.0]}, environment={}, errors={**errors, "PyTorch": 0.0}
    )
    lines = [line.split() for line in bench_as_text(bench).splitlines()]
    assert lines[1][-1] == "error"
    assert lines[2][:2] + lines[2][-1:] == ["vggnet", "bfloat16", "4.0e-03"]
    assert lines[3][:2] + lines[3][-1:] == ["vggnet", "float32", "1.2e-06"]


def test_errors_are_those_of_each_way(monkeypatch, watched):
    """Oracle: float64 by hand for the same seed; a matrix unit that only rounds the result, to bfloat16."""
    monkeypatch.setattr(timing, "has_tiles", lambda: True)
    bench = timing.bench_infer("vgg11_bn", width=0.5, head="gap", size=32, batch=3, rounds=1, peers=False)
    torch.manual_seed(0)
    network = timing.build_network("vgg11_bn", 1000, 0.5, "gap").eval().double()
    with torch.no_grad():
        expected = network(torch.randn(3, 3, 32, 32).double())[:2]
    for way, error in bench.errors.items():
        by_hand = (watched[way][0][:2] - expected).abs().max() / expected.abs().max()
        assert error == pytest.approx(by_hand.item(), rel=0.5)
        assert (1e-4 < error < 5e-2) == way.endswith("bfloat16")


@pytest.mark.parametrize(("fastest", "turn"), [(1.0, "ab"), (0.01, "aabb")])
def test_ways_take_turns_after_two_calls_that_are_not_counted(monkeypatch, fastest, turn):
    """Oracle: the order of calls by hand, and a clock that a way moves on by its own number of seconds."""
    calls, now = [], [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])

    def way(name, seconds):
        def work():
            calls.append(name)
            now[0] += seconds

        return work

    reports = []
    ways = {"a": way("a", fastest), "b": way("b", 10.0)}
    found = in_turns(ways, 3, lambda done, total: reports.append((done, total)))
    assert "".join(calls) == "aabb" + turn * 3
    assert found == {"a": pytest.approx([fastest] * 3), "b": pytest.approx([10.0] * 3)}
    assert reports == [(1, 3), (2, 3), (3, 3)]


@pytest.fixture
def watched(monkeypatch):
    """The results of each way's calls, {way: [result]}, while the benchmark runs."""
    results = {}

    def watching(ways, rounds, progress=False):
        assert rounds == 1
        for name, work in ways.items():
            results[name] = [work(), work()]
        return {name: [1.0] for name in ways}

    monkeypatch.setattr(timing, "in_turns", watching)
    return results


def test_every_way_of_inference_computes_the_same(watched):
    """Oracle: PyTorch's own logits of the network that the seed makes, for the images that follow."""
    reports, sizes = [], {"width": 0.05, "head": "gap", "size": 32, "batch": 2, "rounds": 1, "peers": False}
    bench = timing.bench_infer("vgg11_bn", **sizes, progress=lambda done, total: reports.append((done, total)))
    assert reports == [(done, len(WAYS)) for done in range(1, len(WAYS) + 1)]  # comparing; `watching` says nothing
    torch.manual_seed(0)
    network = timing.build_network("vgg11_bn", 1000, 0.05, "gap").eval()
    with torch.no_grad():
        expected = network(torch.randn(2, 3, 32, 32))
    assert list(bench.seconds) == list(watched) == WAYS
    for logits in watched.values():
        for one in logits:
            assert torch.allclose(one, expected, atol=1e-5)


@pytest.mark.parametrize(("head", "classes"), [("gap", 1000), ("unet", 10)])
def test_inference_of_as_many_classes_as_is_usual(watched, head, classes):
    """Oracle: the number of outputs: 1,000 as in ImageNet for a classifier, few for pixels."""
    timing.bench_infer("vgg11", width=0.05, head=head, size=32, rounds=1, peers=False)
    assert {outputs.shape[1] for found in watched.values() for outputs in found} == {classes}


def test_every_way_of_training_takes_the_same_step(monkeypatch):
    """Oracle: SGD with Nesterov momentum by hand on PyTorch's own gradients, for two steps of the same network."""
    trained = {}

    def stepping(ways, rounds, progress=False):
        for name, work in ways.items():
            work()
            work()
            cells = dict(zip(work.__code__.co_freevars, (cell.cell_contents for cell in work.__closure__), strict=True))
            trained[name] = cells["forward"]
        return {name: [1.0] for name in ways}

    monkeypatch.setattr(timing, "in_turns", stepping)
    timing.bench_train("vgg11", width=0.05, head="gap", size=32, batch=4, rounds=1)
    torch.manual_seed(0)
    network = timing.build_network("vgg11", 10, 0.05, "gap").train()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    velocity = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    for _ in range(2):
        loss = nn.functional.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for (name, value), gradient in zip(network.named_parameters(), gradients, strict=True):
                velocity[name] = 0.9 * velocity[name] + gradient
                value -= 1e-3 * (gradient + 0.9 * velocity[name])
    expected = dict(network.named_parameters())
    assert list(trained) == WAYS
    for other in trained.values():
        for name, value in other.named_parameters():
            assert torch.allclose(value, expected[name], atol=1e-6), name


def test_features_of_every_way_are_the_same(watched):
    """Oracle: the network's own layers, run one by one."""
    bench = feature_timing.bench_features("vgg11_bn", layer="relu2_1", size=32, batch=2, rounds=1)
    assert list(watched) == list(bench.errors) == WAYS
    assert max(bench.errors.values()) < 5e-5
    stock = watched["PyTorch, NCHW"][0]["relu2_1"]
    assert stock.shape == (2, 128, 16, 16)
    for found in watched.values():
        assert torch.allclose(found[0]["relu2_1"], stock, atol=1e-4 * float(stock.abs().max()))


@pytest.mark.parametrize("gradient", [False, True])
def test_lpips_is_timed_against_its_package(watched, gradient):
    """Oracle: one distance for each pair, the same each time; gradients have the shape of the images."""
    pytest.importorskip("lpips", reason="the package lpips is not installed")
    torch.manual_seed(1)  # where no rounding decides another way in a ReLU or a pool
    bench = feature_timing.bench_lpips(size=16, batch=2, rounds=1, gradient=gradient)
    assert list(watched) == list(bench.errors) == WAYS
    assert max(bench.errors.values()) < 1e-3
    for first, second in watched.values():
        if gradient:
            assert first.shape == (2, 3, 16, 16)
            assert first.abs().sum() > 0
        else:
            assert torch.equal(first, second)
            assert first.numel() == 2
            assert torch.isfinite(first).all()
    if not gradient:
        assert (watched["vggnet"][0] > 0).all()  # with positive heads; the package's random ones have both signs


@pytest.mark.parametrize("work", ["train", "infer"])
def test_the_command_prints_every_way(capsys, work):
    """Oracle: the ways that are promised, each once a round."""
    options = ["--model", "vgg11_bn", "--width", "0.05", "--head", "gap", "--size", "32", "--batch", "2"]
    options += ["--no-peers"] if work == "infer" else []
    assert main([work, *options, "--rounds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["seconds"]) == WAYS
    assert all(len(values) == 2 and min(values) > 0 for values in found["seconds"].values())
    assert found["ratio"] == pytest.approx(min(found["medians"][way] for way in WAYS[1:]) / found["medians"]["vggnet"])
    assert found["precisions"] == dict.fromkeys(WAYS, "float32")
    assert all(0 < error < 1e-3 for error in found["errors"].values())
    assert list(found["errors"]) == WAYS


@pytest.mark.slow  # every way in a process of its own
def test_a_network_of_torchvision_with_its_memory(capsys):
    """Oracle: the ways that are promised; a step holds at least its images."""
    options = ["--model", "squeezenet1_1", "--size", "64", "--batch", "4", "--rounds", "1", "--memory"]
    assert main(["train", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peak_bytes"].keys() == found["seconds"].keys()
    assert min(found["peak_bytes"].values()) > 4 * 3 * 64 * 64 * 4


@pytest.mark.parametrize(("head", "size"), [("unet", 32), ("ssd300", 300)])
def test_the_step_of_other_tasks(head, size, capsys):
    """Oracle: gradients in float64, which the bench computes with PyTorch's own convolutions."""
    options = ["--model", "vgg11", "--width", "0.05", "--head", head, "--size", str(size), "--batch", "2"]
    assert main(["train", *options, "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(0 < found["errors"][way] < 1e-3 for way in WAYS)


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
    assert set(convolution_timing._shapes(32)) == {
        (32, 3, 64), (32, 64, 64), (16, 64, 128), (16, 128, 128), (8, 128, 256), (8, 256, 256), (4, 256, 512),
        (4, 512, 512), (2, 512, 512),
    }  # fmt: skip


def test_every_way_of_a_shape_computes_the_same(monkeypatch):
    """Oracle: PyTorch's convolution and its gradients; the first layer's input has none."""
    results = []

    def watching(ways, rounds, progress=False):
        results.append({name: work() for name, work in ways.items()})
        return {name: [2.0 if name == "vggnet" else 6.0] for name in ways}

    monkeypatch.setattr(convolution_timing, "in_turns", watching)
    for channels, gradients in ((3, 1), (8, 2)):
        rows = convolution_timing._rows(2, 8, channels, 16, rounds=1)
        assert [(row["pass"], row["ratio"]) for row in rows] == [("forward", 3.0), ("backward", 3.0)]
        forward, backward = results[-2:]
        for found in forward.values():
            assert torch.allclose(found, forward["PyTorch, NCHW"], atol=1e-4)
        for found in backward.values():
            assert len(found) == gradients
            for one, other in zip(found, backward["PyTorch, NCHW"], strict=True):
                assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)


def test_shapes_in_bfloat16(monkeypatch):
    """Oracle: float64 of the same tensors; rounded factors give 2^-7 of the largest value at most."""
    monkeypatch.setattr(convolution_timing, "has_tiles", lambda: True)
    rows = convolution_timing._rows(2, 8, 32, 32, rounds=1)
    assert [(row["pass"], row["precision"]) for row in rows] == [
        (work, precision) for work in ("forward", "backward") for precision in ("float32", "bfloat16")
    ]
    for row in rows:
        low, high = (1e-4, 2**-7) if row["precision"] == "bfloat16" else (0, 5e-5)
        assert low < row["errors"]["PyTorch, channels-last"] < high
        assert 0 < row["errors"]["vggnet"] < high
        assert row["ratio"] == min(ms for way, ms in row["ms"].items() if way != "vggnet") / row["ms"]["vggnet"]


def test_shapes_are_measured(capsys, monkeypatch):
    """Oracle: each shape forward and backward; the last line has the smallest ratio."""
    monkeypatch.setattr(convolution_timing, "BATCHES", {32: 1})
    monkeypatch.setattr(convolution_timing, "COLUMNS", ("A",))
    assert main(["shapes", "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["rows"]) == 2 * 7
    assert all(min(row["ms"].values()) > 0 for row in found["rows"])
    assert found["ratio"] == min(row["ratio"] for row in found["rows"])
    assert all(list(row["errors"]) == WAYS and 0 < max(row["errors"].values()) < 5e-5 for row in found["rows"])


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


def test_where_the_tutorial_s_step_went():
    """Oracle: the contract: one line that names the new command."""
    with pytest.raises(ConfigError, match=r"python -m experiments\.tutorial\.run --measure"):
        main(["article"])
