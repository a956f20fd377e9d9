"""The tutorial's claims: the verdicts, and the numbers that they rest on."""

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.tutorial import claims as tutorial_claims
from experiments.tutorial import run, step_timing
from experiments.tutorial.claims import Deviations, Inference, check_claims, measure_deviations, measure_inference
from vggnet.benchmarking.timing import NCHW, OURS, Bench

MACHINE = {"device": "A processor", "threads": 2, "torch": "2.9", "date": "2026-01-01"}
INFERENCE = Inference(
    milliseconds={"PyTorch": 250.0, "vggnet": 100.0}, rounds=3, macs=15_470_264_320, environment=MACHINE
)
CIFAR10 = Deviations(of_pixels=(0.2470, 0.2435, 0.2616), mean_of_images=(0.2023, 0.1994, 0.2010), images=50_000)


@pytest.fixture(scope="module")
def claims():
    return {claim.claim: claim for claim in check_claims(INFERENCE, CIFAR10).claims}


# Start of the claim, verdict, and numbers, each computed by hand.
EXPECTED = (
    ("two 3x3 convolutions have", "true", ["5x5", "7x7", "18 weights", "25 weights", "27 weights", "49 weights"]),
    ("one 3x3 filter on 64", "true", ["577", "7,745"]),
    ("two 3x3 filters in place", "partly true", ["1,154", "7,745", "5x5", "11x11", "takes 5", "2,885"]),
    ("VGG-16's fully connected", "wrong", ["102.76 M", "16.78 M", "4.10 M", "14.71 M"]),
    ("convolutions have 14.7 M", "true", ["14,714,688 (10.6 %)", "123,642,856 (89.4 %)"]),
    ("the output of block 5", "wrong", ["98 KiB"]),
    ("the weights file", "true", ["553.4 MB", "527.8 MiB"]),
    ("an image of 224x224", "doubtful", ["PyTorch 250 ms", "vggnet 100 ms", "2.0 %"]),
    ("depth takes the top-5", "partly true", ["10.4 %", "7.3 %", "8.0 %"]),
    ("local response", "true", ["29.7 %", "29.6 %"]),
    ("3x3 convolutions beat", "true", ["27.0 against 28.1", "26.8 against 28.1", "25.6 against 27.3"]),
    ("deeper is better", "partly true", ["A 29.6 %", "E 27.3 %", "D has the fewest"]),
    ("the standard deviation", "wrong", ["(0.2470, 0.2435, 0.2616)", "(0.2023, 0.1994, 0.2010)"]),
    # 3 x 19.632e9 x 74 x 1281167 = 5.584e18 MACs; at 7.85e12 a second 8.23 days, at 1.547e11 a second 1.14 years
    ("training VGG-19", "doubtful", ["four Titan Black", "5.6e+18", "8.2 days", "1.1 years"]),
)


@pytest.mark.parametrize(("start", "verdict", "numbers"), EXPECTED)
def test_verdicts(claims, start, verdict, numbers):
    """Oracle: the paper's tables and hand-worked numbers."""
    (claim,) = [claim for text, claim in claims.items() if text.startswith(start)]
    assert claim.verdict == verdict
    for number in numbers:
        assert number in claim.finding
    assert claim.source


def test_every_claim_is_expected_above(claims):
    """Oracle: their number."""
    assert len(claims) == len(EXPECTED)


def test_without_the_data_one_claim_is_open():
    """Oracle: the option that is missing is named."""
    (claim,) = [claim for claim in check_claims(INFERENCE).claims if claim.verdict == "not checked"]
    assert "--data" in claim.finding


def test_the_numbers_behind_the_text(claims):
    """Oracle: 512 x 7 x 7 x 4 bytes; the machine as given."""
    assert next(one for text, one in claims.items() if text.startswith("the output")).numbers == {"kibibytes": 98.0}
    assert INFERENCE.machine == "A processor, 2 threads, PyTorch 2.9"


def test_inference_is_the_median_of_both_ways(monkeypatch):
    """Oracle: medians by hand of the rounds that a benchmark gives; VGG-11's multiply-adds at 64 pixels by hand."""
    seconds = {OURS: [0.5, 0.1, 0.2], NCHW: [0.4, 0.9, 0.3], "PyTorch, channels-last": [0.01] * 3}
    asked = []

    def bench(model, **options):
        asked.append((model, options))
        return Bench(work="", batch=1, seconds=seconds, environment={})

    monkeypatch.setattr(tutorial_claims, "bench_infer", bench)
    found = measure_inference("vgg11", size=64, rounds=3)
    assert asked == [("vgg11", {"size": 64, "width": 1.0, "rounds": 3, "peers": False, "bfloat16": False})]
    assert found.milliseconds == {"PyTorch": pytest.approx(400), "vggnet": pytest.approx(200)}
    layers = [(3, 64, 64), (64, 128, 32), (128, 256, 16), (256, 256, 16), (256, 512, 8), (512, 512, 8)]
    layers += 2 * [(512, 512, 4)]
    assert found.macs == sum(9 * c * k * side**2 for c, k, side in layers) + 25088 * 4096 + 4096**2 + 4096 * 1000


def test_inference_is_measured_here(own_cache):
    """Oracle: this machine's own numbers are those of a benchmark: positive, of one round each."""
    found = measure_inference("vgg11", size=32, width=0.05, rounds=1)
    assert list(found.milliseconds) == ["PyTorch", "vggnet"]
    assert min(found.milliseconds.values()) > 0
    assert found.environment["device"]


def test_a_step_of_either_script_learns(own_cache, monkeypatch):
    """Oracle: the weights of both networks change at the preset's rate, on images of both pipelines."""
    monkeypatch.setattr(step_timing, "BATCH", 2)
    monkeypatch.setattr(step_timing, "IMAGES", 4)
    rates, images = [], []
    real = torch.optim.SGD

    def watched(parameters, **options):
        rates.append(options)
        return real(parameters, **options)

    def build(name, **options):
        network = real_build(name, width=0.05, **options)
        network.register_forward_hook(lambda module, inputs, output: images.append(inputs[0]))
        networks.append((network, [value.clone() for value in network.parameters()]))
        return network

    real_build, networks = step_timing.build, []
    monkeypatch.setattr(step_timing, "build", build)
    monkeypatch.setattr(torch.optim, "SGD", watched)
    bench = step_timing.bench_tutorial(rounds=1)
    assert list(bench.seconds) == ["vggnet", "the tutorial's script"]
    assert rates == [{"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}] * 2
    assert {tuple(batch.shape) for batch in images} == {(2, 3, 32, 32)}
    assert all(1 < batch.abs().max() < 3 for batch in images)  # normalized
    for network, before in networks:
        assert all(not torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))


def test_the_page_has_a_line_for_each_claim(tmp_path, cells, command):
    """Oracle: the claims by hand above; the speed of the committed measurement."""
    path = tmp_path / "rows.jsonl"
    path.write_text(run.ROWS.read_text())
    assert command(run.main, rows=path) == 0
    text = path.with_name("README.md").read_text()
    lines = {line[0]: line[1] for line in cells(text)}
    for start, verdict, _ in EXPECTED:
        assert any(claim.startswith(start) and found == f"**{verdict}**" for claim, found in lines.items())
    assert "12.8 h: an estimate, 50 epochs at this speed" in text
    assert "**4.07 times as fast**" in text


def test_deviations(tmp_path, own_cache):
    """Oracle: numpy on the pixels that were written; test images do not count."""
    generator = np.random.default_rng(0)
    written = []
    for split in ("train", "test"):
        for number in range(6):
            low = generator.integers(0, 100)
            pixels = generator.integers(low, 255, (32, 32, 3), dtype=np.uint8)
            path = tmp_path / "data" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            written += [pixels / 255] * (split == "train")
    images = np.stack(written)
    found = measure_deviations(tmp_path / "data")
    assert found.images == 6
    np.testing.assert_allclose(found.of_pixels, images.std((0, 1, 2)))
    np.testing.assert_allclose(found.mean_of_images, images.std((1, 2), ddof=1).mean(0))
