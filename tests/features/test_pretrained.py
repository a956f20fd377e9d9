"""Files of bare tensors: what is read, and what is refused in one line."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vggnet
from vggnet.errors import WeightsError
from vggnet.features.pretrained import FEATURES_FILE, feature_network


@pytest.fixture
def sound(weights):
    return weights / FEATURES_FILE


def test_the_bare_convolutions_are_torchvisions(stock, sound):
    """Oracle: torchvision's layers; its preprocessing by its four numbers."""
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = stock(images)
    for source in (sound, sound.parent, str(sound)):
        assert torch.allclose(vggnet.extract_features(source, images, "pool5")["pool5"], expected, rtol=1e-4, atol=1e-4)
    preprocess = feature_network(sound).preprocess
    assert (preprocess.resize, preprocess.crop) == (256, 224)
    assert (preprocess.mean, preprocess.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop("conv3_2.bias"), "conv3_2.bias is missing"),
        (lambda tensors: tensors.update(fc=torch.ones(1)), "fc does not belong"),
        (
            lambda tensors: tensors.update({"conv1_1.bias": torch.ones(63)}),
            r"conv1_1.bias is \(63,\), expected \(64,\)",
        ),
        (
            lambda tensors: tensors["conv1_1.bias"].fill_(torch.nan),
            "conv1_1.bias is of type torch.float32 or not finite",
        ),
        (lambda tensors: tensors.update({"conv1_1.bias": torch.ones(64, dtype=torch.int8)}), "torch.int8"),
    ],
)
def test_other_tensors_are_refused(sound, tmp_path, damage, message):
    """Oracle: the contract."""
    tensors = load_file(sound)
    damage(tensors)
    save_file(tensors, tmp_path / FEATURES_FILE)
    with pytest.raises(WeightsError, match=message):
        feature_network(tmp_path)


def test_a_file_that_is_cut_short_is_refused(sound, tmp_path):
    """Oracle: the contract, at every 1/64 of the length."""
    path = Path(shutil.copy(sound, tmp_path))
    size = path.stat().st_size
    for part in reversed(range(64)):
        os.truncate(path, size * part // 64)
        with pytest.raises(WeightsError, match="not a sound safetensors file"):
            feature_network(tmp_path)
