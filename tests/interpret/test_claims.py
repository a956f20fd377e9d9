"""The tutorial's claims: the verdicts, and the numbers that they rest on."""

import json

import numpy as np
import pytest
from PIL import Image

from vggnet.interpret.claims import Deviations, Inference, check_claims, measure_deviations, measure_inference

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
    ("two 3x3 convolutions see", "true", ["5x5", "7x7", "18 weights", "with 25", "27 weights", "with 49"]),
    ("one 3x3 filter on 64", "true", ["577", "7,745"]),
    ("two 3x3 filters in place", "partly true", ["1,154", "7,745", "5x5", "11x11", "5 of them", "2,885"]),
    ("VGG-16's fully connected", "wrong", ["102.76 M", "16.78 M", "4.10 M", "14.71 M"]),
    ("convolutions have 14.7 M", "true", ["14,714,688 (10.6 %)", "123,642,856 (89.4 %)"]),
    ("the output of block 5", "wrong", ["98 KiB"]),
    ("the file of weights", "true", ["553.4 MB", "527.8 MiB"]),
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


def test_json_names_the_machine():
    """Oracle: what was given."""
    found = json.loads(check_claims(INFERENCE).as_json())
    assert found["inference"]["environment"] == MACHINE
    assert INFERENCE.machine == "A processor, 2 threads, PyTorch 2.9"
    assert found["claims"][5]["numbers"] == {"kibibytes": 98.0}


def test_inference_is_measured_both_ways(own_cache):
    """Oracle: positive times of a small network; its MACs by hand, 864 x 32 x 32 of conv1_1 among them."""
    found = measure_inference("vgg11", size=32, width=0.05, rounds=1)
    assert list(found.milliseconds) == ["PyTorch", "vggnet"]
    assert min(found.milliseconds.values()) > 0
    assert found.macs > 3 * 9 * 3 * 32 * 32
    assert found.environment["device"]


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
