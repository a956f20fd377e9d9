"""Weights that come with the package: found by name, described, and used by every command that takes weights."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

import vggnet
from vggnet.cli.test import main as measure
from vggnet.cli.weights import main
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, WeightsError
from vggnet.models.vgg import build
from vggnet.weights import registry
from vggnet.weights.checkpoint import save
from vggnet.weights.registry import PUBLISHED, shipped_names

NOTES = {"data": "digits", "preset": "quick", "top1": 0.5, "top1_six_views": 0.625, "test_images": 8}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """One network in a folder of its own, as the package's folder is."""
    torch.manual_seed(0)
    model = build("vgg11_bn", num_classes=10, head="cifar", width=0.05)
    model.classes = tuple("0123456789")
    save(model.half(), tmp_path / "tiny-digits-quick.safetensors", preprocess=Preprocess.cifar10(), provenance=NOTES)
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path)
    monkeypatch.setattr(registry, "DEFAULT_WEIGHTS", "tiny-digits-quick")


def test_list_says_what_the_files_say(shipped, capsys, tmp_path):
    """Oracle: the notes typed above, and the file's size."""
    assert main(["list", "--json"]) == 0
    size = (tmp_path / "tiny-digits-quick.safetensors").stat().st_size
    network = {"name": "tiny-digits-quick", "model": "vgg11_bn", "width": 0.05, "num_classes": 10}
    listed = json.loads(capsys.readouterr().out)
    assert listed[0] == {**network, **NOTES, "megabytes": round(size / 1e6, 2), "here": True}
    assert [entry["name"] for entry in listed[1:]] == list(PUBLISHED)
    assert main(["list"]) == 0
    assert "50.00 % of 8 test images, 62.50 % by six views" in capsys.readouterr().out


def test_a_name_loads_the_file(shipped, tmp_path):
    """Oracle: the same tensors by the file's path; float16 becomes float32."""
    by_name, by_path = vggnet.load("tiny-digits-quick"), vggnet.load(tmp_path / "tiny-digits-quick.safetensors")
    for name, tensor in by_path.state_dict().items():
        assert torch.equal(by_name.state_dict()[name], tensor)
    assert by_name.features.conv1_1.weight.dtype == torch.float32


def test_test_takes_a_name_and_its_data(shipped, capsys):
    """Oracle: `vggnet.evaluate` on the digits that the notes name."""
    assert measure(["tiny-digits-quick", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["top1"] == vggnet.evaluate(vggnet.load("tiny-digits-quick"), data="digits").top1


def test_a_picture_needs_no_model(shipped, capsys, tmp_path):
    """Oracle: the answer by the name."""
    from vggnet.cli.predict import main as predict_command

    photo = tmp_path / "photo.png"
    Image.effect_noise((60, 40), 80).save(photo)
    assert predict_command([str(photo), "--json"]) == 0
    without = json.loads(capsys.readouterr().out)
    assert predict_command(["tiny-digits-quick", str(photo), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == without
    assert len(without[0]["classes"]) == 5


@pytest.mark.parametrize("name", ["tiny", "../tiny-digits-quick", "tiny-digits-quick.safetensors"])
def test_other_names_are_no_weights(shipped, name, tmp_path, monkeypatch):
    """Oracle: the list of names; a path is no name."""
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(WeightsError, match="vgg weights list"):
        vggnet.load(name)


def test_unknown_commands_are_named():
    """Oracle: the message names what was given."""
    with pytest.raises(ConfigError, match="steal"):
        main(["steal"])
    with pytest.raises(ConfigError, match="no name was given"):
        main(["fetch"])


@pytest.mark.skipif(not shipped_names(), reason="no weights in this tree")
def test_the_packages_own_weights_answer_a_photo(tmp_path):
    """Oracle: a process with nothing but the package; a class of CIFAR-10 is named."""
    photo = tmp_path / "photo.jpg"
    Image.effect_noise((200, 300), 90).save(photo)
    program = f"from vggnet.cli.main import main; main(['predict', {str(photo)!r}, '--json'])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (answer,) = json.loads(result.stdout)
    known = "airplane automobile bird cat deer dog frog horse ship truck"
    assert len(answer["classes"]) == 5
    assert set(answer["classes"]) < set(known.split())
