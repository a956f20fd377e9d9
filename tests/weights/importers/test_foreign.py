"""Files as people have them: inside checkpoints, with prefixes, and with heads of their own."""

import argparse
import collections
import datetime
import enum
import functools
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import vggnet
from vggnet.errors import WeightsError
from vggnet.weights.conversion import convert

WRAPPED = {
    "parallel.pth": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "parallel-features.pth": lambda state: {n.replace("features.", "features.module."): t for n, t in state.items()},
    "compiled.pt": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "both.pt": lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    "imagenet.pth.tar": lambda state: {
        "epoch": 3,
        "arch": "vgg11",
        "best_acc1": torch.tensor(0.5),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
    },
    "lightning.ckpt": lambda state: {
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
    },
    "nested.ckpt": lambda state: {"state_dict": {f"net._orig_mod.model.{name}": t for name, t in state.items()}},
    "numpy.pth": lambda state: {"model": state, "acc": np.float64(0.5), "args": argparse.Namespace(lr=0.1)},
    "net.pth": lambda state: {"net": state, "acc": 93.1, "epoch": 7},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_state_dicts(name, torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: torchvision's network itself."""
    theirs = torchvision_network("vgg11")
    torch.save(WRAPPED[name](theirs.state_dict()), tmp_path / name)
    convert(tmp_path / name, tmp_path / "ours.safetensors")
    assert_equal_answers(vggnet.load(tmp_path / "ours.safetensors"), theirs)


class Settings:
    """What a module was made with, of a class that is not installed where the file is read."""

    def __init__(self, **options):
        self.options = options


class Color(enum.Enum):
    RED = "red"


def test_objects_beside_the_weights(torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: torchvision's network. What lies beside it, as Lightning's hyper-parameters do, is not made."""
    theirs = torchvision_network("vgg11")
    settings = Settings(folder=Path("/data"), make=functools.partial(nn.ReLU, inplace=True))
    settings.extra = collections.defaultdict(list)
    content = {
        "hyper_parameters": {"settings": settings, Color.RED: Path("x"), "network": nn.Linear(1, 1)},
        "callbacks": {"EarlyStopping": {"stopped": datetime.date(2026, 1, 1)}},
        "state_dict": {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()},
    }
    torch.save(content, tmp_path / "lightning.ckpt")
    convert(tmp_path / "lightning.ckpt", tmp_path / "ours.safetensors")
    assert_equal_answers(vggnet.load(tmp_path / "ours.safetensors"), theirs)


def test_weights_of_a_loss_beside_the_network(torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: torchvision's network. `CrossEntropyLoss(weight=...)` is a part of the module that was saved."""
    theirs = torchvision_network("vgg11")
    state = {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(10)}}, tmp_path / "lightning.ckpt")
    convert(tmp_path / "lightning.ckpt", tmp_path / "ours.safetensors")
    assert_equal_answers(vggnet.load(tmp_path / "ours.safetensors"), theirs)
    torch.save({"state_dict": {**state, "other.weight": torch.ones(10, 2)}}, tmp_path / "two.ckpt")
    with pytest.raises(WeightsError, match=r"other.weight does not belong"):
        convert(tmp_path / "two.ckpt", tmp_path / "two.safetensors")


LIGHTNING = """
import sys
import lightning, torch
from pathlib import Path
from torchvision.models import vgg

class Module(lightning.LightningModule):
    def __init__(self, lr=0.1, folder=Path("data"), options=None):
        super().__init__()
        self.save_hyperparameters()
        vgg.cfgs["A"] = [4 if isinstance(size, int) else size for size in vgg.cfgs["A"]]
        self.model = vgg.vgg11()
        self.model.features, self.model.classifier = vgg.make_layers(vgg.cfgs["A"]), torch.nn.Linear(4, 10)
        self.loss = torch.nn.CrossEntropyLoss(weight=torch.ones(10))

    def training_step(self, batch):
        return self.loss(self.model.classifier(self.model.features(batch[0]).mean((2, 3))), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

images = torch.rand(2, 3, 32, 32)
quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet)
module = Module(options={"names": ["a"]})
dataset = torch.utils.data.TensorDataset(images, torch.tensor([0, 1]))
trainer.fit(module, torch.utils.data.DataLoader(dataset, batch_size=2))
trainer.save_checkpoint(sys.argv[1] + "/last.ckpt")
with torch.no_grad():
    outputs = module.model.classifier(module.model.features(images).mean((2, 3)))
torch.save((images, outputs), sys.argv[1] + "/outputs.pt")
"""


def test_checkpoints_of_lightning(tmp_path, monkeypatch):
    """Oracle: the module that Lightning has trained and saved."""
    if not find_spec("lightning"):
        pytest.skip("lightning is not installed")
    subprocess.run([sys.executable, "-c", LIGHTNING, tmp_path], check=True, capture_output=True)
    monkeypatch.setattr("vggnet.models.table1.WIDTHS", (4,) * 5)
    convert(tmp_path / "last.ckpt", tmp_path / "ours.safetensors")
    images, expected = torch.load(tmp_path / "outputs.pt")
    with torch.inference_mode():
        torch.testing.assert_close(vggnet.load(tmp_path / "ours.safetensors")(images), expected)


def test_bare_features(torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: torchvision's features: `torch.save(model.features.state_dict())`."""
    theirs = torchvision_network("vgg16_bn").features
    torch.save(theirs.state_dict(), tmp_path / "features.pth")
    convert(tmp_path / "features.pth", tmp_path / "ours.safetensors")
    assert_equal_answers(vggnet.load(tmp_path / "ours.safetensors"), theirs)


@pytest.mark.parametrize("layer", ["classifier", "fc", "classifier.1", "head.fc"])
def test_one_linear_layer(layer, torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: the features, the mean over places and the linear layer, by PyTorch. kuangliu's maps have one place."""
    features = torchvision_network("vgg19_bn").features
    linear = nn.Linear(5, 10)
    state = {f"module.features.{name}": tensor for name, tensor in features.state_dict().items()}
    state |= {f"module.{layer}.{name}": tensor for name, tensor in linear.state_dict().items()}
    torch.save({"net": state, "acc": 93.1, "epoch": 7}, tmp_path / "ckpt.pth")
    convert(tmp_path / "ckpt.pth", tmp_path / "ours.safetensors")
    ours = vggnet.load(tmp_path / "ours.safetensors")
    assert (ours.architecture.head, ours.preprocess.crop) == ("gap", 32)
    assert_equal_answers(ours, lambda images: linear(features(images).mean((2, 3))), sizes=((32, 32), (64, 96)))


def test_a_foreign_head(torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: its layers, made by hand; the rest is torchvision's features."""
    theirs = torchvision_network("vgg11")
    theirs.classifier = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match=r"its head is classifier.0.weight \(7, 5\), .*--features-only") as error:
        convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert "\n" not in str(error.value)
    convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", features_only=True)
    assert_equal_answers(vggnet.load(tmp_path / "ours.safetensors"), theirs.features)


def test_two_networks_in_one_file(torchvision_network, tmp_path):
    """Oracle: the contract: which one would be taken is not clear."""
    state = torchvision_network("vgg11").state_dict()
    torch.save({**state, **{f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "two.pth")
    with pytest.raises(WeightsError, match="two networks"):
        convert(tmp_path / "two.pth", tmp_path / "ours.safetensors")


def hdf5(group, layers):
    """Keras 3's layout of layers: {name: variables or layers}."""
    for name, found in layers.items():
        inner = group.create_group(f"layers/{name}")
        if isinstance(found, dict):
            hdf5(inner, found)
        else:
            variables = inner.create_group("vars")
            for number, array in enumerate(found):
                variables[str(number)] = array


@pytest.mark.parametrize("kind", ["mine.weights.h5", "mine.keras", "old.h5"])
@pytest.mark.parametrize("dense", [1, 2])
def test_keras_with_a_head_of_ones_own(kind, dense, tiny, assert_equal_answers, tmp_path):
    """Oracle: PyTorch's layers with these weights: VGG16 without its top inside a Sequential, GAP, and Dense."""
    h5py = pytest.importorskip("h5py")
    import io
    import zipfile

    rng = np.random.default_rng(0)
    layers, channels, modules = {}, 3, []
    for width, count in zip((2, 3, 4, 5, 5), (2, 2, 3, 3, 3), strict=True):
        for _ in range(count):
            bound = (6 / (9 * channels)) ** 0.5
            kernel = rng.uniform(-bound, bound, (3, 3, channels, width)).astype("float32")
            layers[f"conv2d_{len(layers)}" if layers else "conv2d"] = [kernel, np.full(width, 0.1, "float32")]
            conv = nn.Conv2d(channels, width, 3, padding=1)
            conv.weight.data, conv.bias.data = torch.tensor(kernel).permute(3, 2, 0, 1), torch.full((width,), 0.1)
            modules += [conv, nn.ReLU()]
            channels = width
        modules.append(nn.MaxPool2d(2))
    sizes = [(5, 4)] if dense == 1 else [(5, 6), (6, 4)]
    heads = [[rng.normal(size=size).astype("float32"), np.zeros(size[1], "float32")] for size in sizes]
    names = {f"dense_{i}" if i else "dense": head for i, head in enumerate(heads)}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        if kind == "old.h5":
            file.attrs["layer_names"] = [b"vgg16", b"global_average_pooling2d", *map(str.encode, names)]
            file.create_group("global_average_pooling2d").attrs["weight_names"] = []
            for layer, arrays in {"vgg16": sum(layers.values(), []), **names}.items():  # noqa: RUF017 (few)
                group = file.create_group(layer)
                group.attrs["weight_names"] = [f"w{i:02d}".encode() for i in range(len(arrays))]
                for i, array in enumerate(arrays):
                    group[f"w{i:02d}"] = array
        else:
            hdf5(file, {"functional": layers, "global_average_pooling2d": {}, **names} if dense else layers)
    path = tmp_path / kind
    if kind.endswith(".keras"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", content.getvalue())
    else:
        path.write_bytes(content.getvalue())
    features = nn.Sequential(*modules)
    out = tmp_path / "ours.safetensors"
    if dense == 2:
        with pytest.raises(WeightsError, match=r"its head is dense layer 1 \(5, 6\).*--features-only"):
            convert(path, out)
        convert(path, out, keep_bgr=True, features_only=True)
        assert_equal_answers(vggnet.load(out), features)
        return
    convert(path, out, keep_bgr=True)
    weight = torch.tensor(heads[0][0])
    assert_equal_answers(vggnet.load(out), lambda images: features(images).mean((2, 3)) @ weight)


@pytest.mark.parametrize("content", [b"no zip", None])
def test_keras_archives_without_weights(content, tmp_path):
    """Oracle: the contract: one line."""
    import zipfile

    pytest.importorskip("h5py")
    path = tmp_path / "mine.keras"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as HDF5") as error:
        convert(path, tmp_path / "ours.safetensors")
    assert "\n" not in str(error.value)
