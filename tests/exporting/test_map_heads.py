"""Networks with heads for pixels, objects and maps as exported files: they name their task, and run or are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

import vggnet
from vggnet.errors import ConfigError
from vggnet.models.vgg import build
from vggnet.weights.checkpoint import Checkpoint

NETWORKS = {"fcn8": ("vgg11", "segment"), "unet": ("vgg11", "segment"),
            "segnet": ("vgg11", "segment"), "ssd300": ("vgg11", "detect"),
            "hed": ("vgg16", "maps"), "craft": ("vgg16_bn", "maps")}  # fmt: skip
SUFFIXES = {"torch-export": ".pt2", "onnx": ".onnx", "openvino": ".xml", "ncnn": ".param"}


def make(head):
    """A narrow network with random weights; its classes are called a and b."""
    torch.manual_seed(0)
    model = build(NETWORKS[head][0], num_classes=2, head=head, width=0.05).eval()
    size = model.head.size or 64
    model.preprocess = vggnet.Preprocess(resize=size, crop=size, stretch=head == "ssd300")
    model.classes = ("a", "b")
    return model


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))


def exported(model, folder, kind):
    path = folder / f"network{SUFFIXES[kind]}"
    vggnet.export(model, path, to=kind)  # compares its outputs
    checkpoint = Checkpoint.open(path)
    assert (checkpoint.task, checkpoint.classes) == (NETWORKS[model.architecture.head][1], ("a", "b"))
    return path


@pytest.mark.parametrize(
    "head", [pytest.param(head, marks=() if head == "fcn8" else pytest.mark.slow) for head in NETWORKS]
)
def test_an_exported_program_predicts_as_its_network(head, tmp_path):
    """Oracle: the network that was exported."""
    model = make(head)
    found = vggnet.predict(exported(model, tmp_path, "torch-export"), picture())[0]
    expected = vggnet.predict(model, picture())[0]
    if head in ("hed", "craft"):
        for name in "ab":
            np.testing.assert_allclose(found.maps[name].values, expected.maps[name].values, rtol=1e-4, atol=1e-4)
    elif head == "ssd300":
        assert [one.label for one in found.objects] == [one.label for one in expected.objects]
        np.testing.assert_allclose(
            [one.box for one in found.objects], [one.box for one in expected.objects], rtol=1e-4, atol=1e-2
        )
    else:
        assert (found.mask == expected.mask).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino", "ncnn"])
@pytest.mark.parametrize("head", NETWORKS)
def test_graphs_of_one_image_size(head, kind, tmp_path):
    """Oracle: the export's own comparison, and the network; whole images of any size are refused in one line."""
    pytest.importorskip(kind, reason="needs vggnet[export]")
    model = make(head)
    if (head, kind) == ("segnet", "ncnn"):
        with pytest.raises(ConfigError, match="pnnx cannot convert a network with the head segnet"):
            exported(model, tmp_path, kind)
        return
    path = exported(model, tmp_path, kind)
    if head == "ssd300":
        found, expected = (vggnet.predict(source, picture())[0].objects for source in (path, model))
        assert [one.label for one in found] == [one.label for one in expected]
        np.testing.assert_allclose([one.box for one in found], [one.box for one in expected], rtol=1e-4, atol=1e-2)
    else:
        with pytest.raises(ConfigError, match="an exported file takes images of 64x64 pixels, but masks and maps"):
            vggnet.predict(path, picture())
