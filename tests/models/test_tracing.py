"""PyTorch's tracers and wrappers take every network: torch.fx, torchvision's extractor, compile, export, vmap."""

import pytest
import torch
from torchvision.models.feature_extraction import create_feature_extractor

import vggnet
from vggnet.accel.precision import products_in
from vggnet.errors import InputError


@pytest.mark.parametrize("head", ["paper", "cifar", "gap", "grid", "dense", "none"])
def test_every_network_can_be_traced(head):
    """Oracle: the network itself."""
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11", num_classes=3, head=head, width=0.05).eval()
    images = torch.rand(2, 3, *([224, 224] if head == "dense" else [32, 32]))
    expected = model(images)
    ways = {
        "fx": torch.fx.symbolic_trace(model),
        "compile": torch.compile(model, fullgraph=True, backend="eager"),
        "export": torch.export.export(model, (images,)).module(),
        "parallel": torch.nn.DataParallel(model),
    }
    for name, found in ways.items():
        torch.testing.assert_close(found(images), expected, msg=name)
    torch.testing.assert_close(torch.vmap(model)(images[None])[0], expected)
    with pytest.raises(InputError):
        ways["fx"](images[:, :1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("head", "size"), [("unet", 32), ("fcn8", 32), ("ssd300", 300)])
def test_accelerated_heads_for_maps_are_compiled_as_one_graph(head, size, precision):
    """Oracle: the network itself. PyTorch has other kernels in bfloat16."""
    torch.manual_seed(0)
    model = vggnet.accelerate(vggnet.create_model("vgg11", num_classes=3, head=head, width=0.1).eval())
    images = torch.rand(1, 3, size, size)
    with torch.no_grad(), products_in(precision):
        expected = model(images)
        torch.compiler.reset()  # what other tests compiled of the same code counts for a limit
        found = torch.compile(model, fullgraph=True, backend="eager")(images)
    assert (found - expected).norm() < (1e-4 if precision == "float32" else 0.05) * expected.norm()


def test_torchvisions_extractor_counts_for_itself():
    """Oracle: our extractor. torchvision drops the last number of a name and counts anew, from none: relu3, relu3_1."""
    model = vggnet.create_model("vgg11", head="none", width=0.05).eval()
    images = torch.rand(1, 3, 32, 32)
    theirs = create_feature_extractor(model, ["features.relu3", "features.relu3_1"])(images)
    ours = vggnet.FeatureExtractor(model, ["relu3_1", "relu3_2"])(images)
    torch.testing.assert_close(list(theirs.values()), list(ours.values()))


def test_an_extractor_can_be_traced():
    """Oracle: the extractor itself."""
    extractor = vggnet.FeatureExtractor(vggnet.create_model("vgg11", head="none", width=0.05), "relu3_1").eval()
    images = torch.rand(1, 3, 32, 32)
    traced = torch.fx.symbolic_trace(extractor)
    torch.testing.assert_close(traced(images), extractor(images))
