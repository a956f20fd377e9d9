"""SSD: against torchvision's own model, and its paper."""

import pytest
import torch
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.ssd import SSD300_VGG16_Weights

import vggnet
from vggnet.accel.api import accelerate
from vggnet.compression.prune import macs_limit, prune
from vggnet.errors import ConfigError, InputError, WeightsError
from vggnet.interpret.summary import layer_table
from vggnet.models.detection_heads import DESIGNS
from vggnet.models.heads import takes
from vggnet.models.vgg import build, empty
from vggnet.weights.adaptation import transfer
from vggnet.weights.conversion import convert


@pytest.mark.parametrize(("head", "boxes"), [("ssd300", 8732), ("ssd512", 24564)])
def test_the_boxes_of_the_paper(head, boxes):
    """Oracle: arXiv:1512.02325: 8,732 boxes (section 3.4), 24,564 (table 8); the maps of its figure 2."""
    network = build("vgg16", num_classes=3, head=head, width=0.05, init="he").eval()
    size = DESIGNS[head].size
    with torch.inference_mode():
        maps = list(network.head._maps(*network.tapped(torch.rand(1, 3, size, size), network.head.taps)))
        outputs = network(torch.rand(1, 3, size, size))
    assert [tuple(x.shape[2:]) for x in maps] == [(side, side) for side in DESIGNS[head].maps]
    assert outputs.shape == (1, boxes, 8)
    assert outputs.isfinite().all()
    assert takes(head, size)
    assert not takes(head, size + 1)


def test_names_and_sizes():
    """Oracle: torchvision's count of its own parameters, for the 91 outputs of COCO."""
    network = empty(vggnet.Architecture(name="vgg16", head="ssd300", num_classes=90))
    expected = SSD300_VGG16_Weights.COCO_V1.meta["num_params"]
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert {"head.norm4_3.weight", "head.fc6.weight", "head.conv11_2.bias"} < set(network.state_dict())
    assert (network.task, network.architecture.outputs) == ("detect", "detections")


@pytest.fixture(scope="module")
def theirs():
    """Torchvision's model with random weights; made on the meta device, as its unused classifier takes seconds."""
    random = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4).eval()
    state = {
        name: torch.randn(like.shape, generator=random) * (2 / like[0].numel()) ** 0.5
        if like.ndim == 4
        else torch.rand(like.shape, generator=random)
        for name, like in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    return model


def test_the_file_of_torchvision_gives_its_outputs(theirs, tmp_path):
    """Oracle: torchvision's model with random weights of the published layout, on the same pixels."""
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", classes=("a", "b", "c"))
    ours = vggnet.load(tmp_path / "ours.safetensors")
    assert (ours.architecture.head, ours.classes, ours.task) == ("ssd300", ("a", "b", "c"), "detect")
    images = torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        prepared, _ = theirs.transform([images[0] / 255])
        features = list(theirs.backbone(prepared.tensors).values())
        expected = torch.cat([theirs.head(features)[name] for name in ("cls_logits", "bbox_regression")], 2)
        found = ours(ours.preprocess.normalize(images))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_a_damaged_file_of_torchvision_is_named(theirs, tmp_path):
    """Oracle: what was taken out."""
    state = theirs.state_dict()
    del state["backbone.extra.2.0.weight"]
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match=r"theirs\.pth: .*extra\.2\.0\.weight"):
        convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")


def test_what_a_head_for_objects_cannot():
    """Oracle: one line that says what can."""
    network = build("vgg11_bn", num_classes=2, head="ssd300", width=0.05)
    with pytest.raises(InputError, match="takes images of 300x300 pixels, but got 64x64"):
        network(torch.rand(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="cannot be pruned"):
        prune(network, [macs_limit(network, 0.5, 300)])
    with pytest.raises(ConfigError, match="make no table"):
        layer_table(network)
    with pytest.raises(ConfigError, match="the head ssd300 gives detections"):
        vggnet.Architecture(head="ssd300", boxes="shared")
    with pytest.raises(ConfigError, match=r"has no pools"):
        vggnet.Architecture(name="repvgg_a0", head="ssd300")


def test_the_head_of_other_classes_is_kept_but_for_its_scores():
    """Oracle: the names of the tensors."""
    given, model = (build("vgg11", num_classes=count, head="ssd300", width=0.05) for count in (2, 5))
    given.classes, model.classes = ("a", "b"), tuple("vwxyz")
    kept = transfer(given, model)
    assert {name.split(".")[1] for name in kept} == {"scores"}
    torch.testing.assert_close(model.head.boxes["fc7"].weight, given.head.boxes["fc7"].weight, rtol=0, atol=0)
    assert vggnet.weights.adaptation.adapt(given, num_classes=7)(torch.zeros(1, 3, 300, 300)).shape == (1, 8732, 12)


def test_a_checkpoint_holds_the_network(tmp_path):
    """Oracle: the outputs before."""
    network = build("vgg16_bn", num_classes=2, head="ssd300", width=0.05).eval()
    assert set(network.head.norm4_3.weight.tolist()) == {20.0}
    preprocess = vggnet.Preprocess(resize=300, crop=300, stretch=True)
    vggnet.save(network, tmp_path / "a.safetensors", classes=("a", "b"), preprocess=preprocess)
    images = torch.rand(1, 3, 300, 300)
    loaded = vggnet.load(tmp_path / "a.safetensors")
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(loaded(images), expected, rtol=0, atol=0)
        close = {"rtol": 1e-3, "atol": 1e-3 * expected.abs().max().item()}
        torch.testing.assert_close(accelerate(loaded)(images), expected, **close)
    assert loaded.preprocess == preprocess
