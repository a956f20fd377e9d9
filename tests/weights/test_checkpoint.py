"""Weights files: round trip, defaults, and refusal of everything that does not fit."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, StorageError, WeightsError
from vggnet.models.vgg import build
from vggnet.weights.checkpoint import load, save


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build("vgg11_bn", num_classes=3, head="cifar", width=0.05).eval()


@pytest.fixture
def path(tmp_path, model):
    save(model, tmp_path / "weights.safetensors", classes=["cat", "dog", "eel"], notes={"epoch": 3})
    return tmp_path / "weights.safetensors"


def rewrite(path, change):
    """The same file with its tensors and metadata changed."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def test_round_trip(path, model):
    """Oracle: the model itself."""
    loaded = load(path)
    assert loaded.classes == ("cat", "dog", "eel")
    assert loaded.architecture == model.architecture
    assert not loaded.training
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))


def test_a_run_folder_stands_for_its_weights(path):
    """Oracle: the file inside."""
    assert load(path.parent).classes == load(path).classes


def test_default_preprocessing_follows_the_head(path, tmp_path):
    """Oracle: the documented defaults, typed by hand."""
    assert load(path).preprocess == Preprocess(
        resize=32, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
    )
    save(build("vgg11", num_classes=3, head="gap", width=0.05), tmp_path / "gap.safetensors")
    assert load(tmp_path / "gap.safetensors").preprocess == Preprocess(
        resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )


def test_own_preprocessing_is_kept(model, tmp_path):
    """Oracle: what was given."""
    own = Preprocess(resize=40, crop=36, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 2.0))
    save(model, tmp_path / "own.safetensors", preprocess=own)
    assert load(tmp_path / "own.safetensors").preprocess == own


def test_half_precision_files_load_as_float32(path, model):
    """Oracle: the rounded weights."""

    def halve(tensors, metadata):
        metadata["format"] = "vggnet 1"  # which has no checksum
        for name, tensor in tensors.items():
            tensors[name] = tensor.half() if tensor.is_floating_point() else tensor

    rewrite(path, halve)
    loaded = load(path)
    assert torch.equal(loaded.head.fc.weight, model.head.fc.weight.half().float())


def test_wrong_number_of_classes_is_refused(model, tmp_path):
    """Oracle: two names for three outputs."""
    with pytest.raises(ConfigError, match="2 class names"):
        save(model, tmp_path / "x.safetensors", classes=["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, metadata: tensors.pop("head.fc.bias"), "head.fc.bias is missing"),
        (lambda tensors, metadata: tensors.update(more=torch.zeros(1)), "more does not belong"),
        (lambda tensors, metadata: tensors.update({"head.fc.bias": torch.zeros(4)}), r"\(4,\), expected \(3,\)"),
        (lambda tensors, metadata: tensors.update({"head.fc.bias": torch.zeros(3).int()}), "int32"),
        (lambda tensors, metadata: tensors["head.fc.bias"].fill_(torch.nan), "head.fc.bias holds NaN"),
        (lambda tensors, metadata: tensors["head.fc.bias"].fill_(torch.inf), "head.fc.bias holds NaN"),
        (lambda tensors, metadata: metadata.pop("format"), "not one of vggnet's"),
        (lambda tensors, metadata: metadata.update(architecture="{}}"), "cannot be read"),
        (lambda tensors, metadata: metadata.update(architecture='{"name": "resnet"}'), "resnet"),
        (
            lambda tensors, metadata: metadata.update(
                architecture=json.dumps({**json.loads(metadata["architecture"]), "name": "vgg16_bn"})
            ),
            "features.bn1_2.bias is missing",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(path, change, message):
    """Oracle: the damage, made by hand; the message names it in one line."""
    rewrite(path, change)
    with pytest.raises(WeightsError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_truncated_files_are_refused(path, share):
    """Oracle: a file cut short by hand."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="not a sound safetensors file"):
        load(path)


@pytest.mark.parametrize("name", ["", "weights.safetensors", "photo.jpg"])
def test_missing_files_and_folders_are_named(tmp_path, name):
    """Oracle: an empty folder."""
    with pytest.raises(WeightsError, match=str(tmp_path)):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["vgg16", "D"])
def test_the_name_of_a_model_is_told_from_a_missing_file(name):
    """Oracle: the names of Table 1; no trained weights come with them."""
    with pytest.raises(WeightsError, match=r"model's name.*vggnet\.build\('vgg16'\)"):
        load(name)


def test_a_model_without_weights_is_not_saved(tmp_path):
    """Oracle: the meta device holds no values."""
    with pytest.raises(ConfigError, match="without weights"):
        save(build("vgg11", init=None), tmp_path / "none.safetensors")
    assert not any(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(path, model, monkeypatch):
    """Oracle: the old bytes; the disk is made to fail at the rename."""
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StorageError, match="No space left"):
        save(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
