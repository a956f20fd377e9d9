"""Folders for timm and transformers, and model cards."""

import json
import shutil
from importlib.util import find_spec

import pytest
import safetensors.torch
import torch
from PIL import Image

import vggnet
from vggnet import Preprocess
from vggnet.errors import WeightsError
from vggnet.models.vgg import Architecture
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.model_card import model_card

# As timm publishes its vgg16.
PUBLISHED = {
    "architecture": "vgg16",
    "num_classes": 1000,
    "num_features": 4096,
    "pretrained_cfg": {
        "tag": "tv_in1k", "custom_load": False, "input_size": [3, 224, 224], "fixed_input_size": False,
        "interpolation": "bilinear", "crop_pct": 0.875, "crop_mode": "center", "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225], "num_classes": 1000, "pool_size": [7, 7], "first_conv": "features.0",
        "classifier": "head.fc",
    },
}  # fmt: skip


def folder(path, config):
    path.mkdir()
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    safetensors.torch.save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path / "model.safetensors")
    return path


def test_a_published_folder_is_described(tmp_path):
    """Oracle: what timm's page says: ImageNet, 256 to 224, its mean; the weights do not fit, which is found later."""
    found = Checkpoint.open(folder(tmp_path / "a", PUBLISHED))
    assert found.architecture == Architecture(name="vgg16")
    assert found.preprocess == Preprocess.imagenet()
    assert (found.classes[0], found.classes[-1], len(found.classes)) == ("tench", "toilet tissue", 1000)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        found.build()
    larger = json.loads(json.dumps(PUBLISHED))
    larger["pretrained_cfg"].update(input_size=[3, 288, 288], crop_pct=1.0)
    found = Checkpoint.open(folder(tmp_path / "b", {**larger, "num_classes": 2, "label_names": ["cat", "dog"]}))
    assert (found.architecture.head, found.classes, found.preprocess.resize) == ("dense", ("cat", "dog"), 288)


@pytest.mark.parametrize(("config", "message"), [
    ("{", "not a VGG of timm"),
    ("[]", "not a VGG of timm"),
    ({**PUBLISHED, "architecture": "resnet50"}, "architecture is 'resnet50'; expected vgg11, "),
    ({**PUBLISHED, "num_classes": 3, "label_names": ["cat"]}, "label_names do not name the 3 classes"),
    ({**PUBLISHED, "num_classes": "3"}, "num_classes is '3'"),
    ({**PUBLISHED, "pretrained_cfg": {"input_size": [3, 224, 192], "mean": [0, 0, 0]}}, "input_size"),
    ({"architecture": "vgg16"}, "not a VGG of timm"),
])  # fmt: skip
def test_a_config_that_is_wrong_is_one_line(config, message, tmp_path):
    """Oracle: the message."""
    with pytest.raises(WeightsError, match=message) as caught:
        Checkpoint.open(folder(tmp_path / "a", config))
    assert "\n" not in str(caught.value)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("side", [32, 48, 224])
def test_preprocessing_survives_timm(side):
    """Oracle: the preprocessing, for sizes whose ratio is no short number."""
    for resize in range(side, side + 60):
        preprocess = Preprocess(resize=resize, crop=side, interpolation="bicubic")
        assert Preprocess.from_timm(json.loads(json.dumps(preprocess.as_timm()))) == preprocess
    stretched = Preprocess(resize=side, crop=side, stretch=True)
    assert Preprocess.from_timm(json.loads(json.dumps(stretched.as_timm()))) == stretched


def test_a_card_says_what_is_known_and_names_no_folder(tmp_path):
    """Oracle: the provenance and the test result by hand."""
    model = vggnet.create_model("vgg11", num_classes=2, head="gap", width=0.05)
    model.preprocess = Preprocess(resize=36, crop=32)
    run = {"data": "/home/me/secret", "config": {"training": {"epochs": 7, "lr": 0.1}, "preset": "fast"}}
    Checkpoint.of(model, provenance={"run": run}).save(tmp_path / "weights.safetensors")
    text = model_card(Checkpoint.open(tmp_path), "me/net", is_timm=False)
    for part in ("| data | not named |", "preset fast, epochs 7, lr 0.1", "| accuracy | not tested |", "2 classes",
                 "resized to 36", 'pull_from_hub("me/net")', "library_name: vggnet"):  # fmt: skip
        assert part in text
    assert "secret" not in text
    assert "timm" not in text
    (tmp_path / "test.json").write_text(json.dumps({"top1": 0.875, "images": 1000, "split": "test"}))
    assert "| 87.50 % of 1,000 images, split test |" in model_card(Checkpoint.open(tmp_path), "me/net", is_timm=True)
    shipped = model_card(Checkpoint.open("vgg8_bn-cifar10-fast"), "me/net", is_timm=False)
    assert "| data | cifar10 |" in shipped
    assert "| 93.42 % of 5,000 test images |" in shipped


@pytest.mark.slow
def test_what_is_pushed_is_loaded_by_timm_and_transformers(tmp_path, monkeypatch):
    """Oracle: the network's own probabilities; the client of the hub is replaced by two folders."""
    if not (find_spec("timm") and find_spec("transformers")):
        pytest.skip("timm and transformers are not installed")
    import timm
    from transformers import pipeline

    from vggnet.weights import hub

    class Api:
        def create_repo(self, repo_id, **_):
            return f"hub/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
            assert delete_patterns == ["weights.safetensors"]
            shutil.copytree(folder_path, tmp_path / "hub")

        def model_info(self, *_, **__):
            return None

    def download(repo_id, name, **_):
        if not (tmp_path / "hub" / name).exists():
            raise hub.hub_errors.EntryNotFoundError(name)
        return tmp_path / "hub" / name

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11", num_classes=3).eval()
    model.classes, model.preprocess = ("ant", "bee", "cow"), Preprocess.imagenet(resize=40, crop=32)
    hub.push_to_hub(model, "me/net")
    assert sorted(file.name for file in (tmp_path / "hub").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert 'timm.create_model("hf-hub:me/net", pretrained=True)' in (tmp_path / "hub" / "README.md").read_text()
    image = Image.effect_noise((60, 50), 90).convert("RGB")
    with torch.no_grad():
        expected = model(model.preprocess(image)[None])
        pulled = hub.pull_from_hub("me/net")
        torch.testing.assert_close(pulled(pulled.preprocess(image)[None]), expected, rtol=1e-5, atol=1e-6)
        assert (pulled.classes, pulled.preprocess) == (model.classes, model.preprocess)
        assert pulled.architecture == model.architecture
        theirs = timm.create_model(f"local-dir:{tmp_path}/hub", pretrained=True).eval()
        torch.testing.assert_close(theirs(model.preprocess(image)[None]), expected, rtol=1e-5, atol=1e-5)
    answers = pipeline("image-classification", f"{tmp_path}/hub")(image)
    found = {answer["label"]: answer["score"] for answer in answers}
    assert found == pytest.approx(dict(zip(model.classes, expected.softmax(1)[0].tolist(), strict=True)), abs=1e-5)
