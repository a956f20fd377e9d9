"""Other inference libraries answer as PyTorch does. No test asserts a time."""

from importlib.util import find_spec

import pytest
import torch

from vggnet.benchmarking import peers
from vggnet.models.vgg import build

PACKAGES = {"onnxruntime": ["onnxruntime", "onnx", "onnxscript"], "openvino": ["openvino"], "ncnn": ["ncnn", "pnnx"]}


@pytest.mark.parametrize("library", PACKAGES)
@pytest.mark.parametrize(("model", "head", "batch"), [("vgg11", "paper", 1), ("vgg11_bn", "gap", 3)])
def test_a_library_answers_as_pytorch(capfd, monkeypatch, library, model, head, batch):
    """Oracle: PyTorch's own logits. Conversion prints nothing, and the network stays as it was."""
    if not all(find_spec(package) for package in PACKAGES[library]):  # importorskip would wake openvino's telemetry
        pytest.skip(f"needs {' and '.join(PACKAGES[library])}")
    monkeypatch.setattr(peers, "find_spec", lambda name: find_spec(name) if name in PACKAGES[library] else None)
    torch.manual_seed(0)
    network = build(model, num_classes=10, head=head, width=0.125).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: not the identity
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.uniform_(0.5, 2)
    images = torch.randn(batch, 3, 64, 64)
    with torch.inference_mode():
        expected = network(images)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    ((name, answer),) = peers.installed_peers(network, images, threads=1).items()
    assert capfd.readouterr() == ("", "")
    assert name.split()[0] == library
    assert name.split()[1][0].isdigit()
    for _ in range(2):  # the second answer may reuse the memory of the first
        logits = answer()
        assert logits.shape == (batch, 10)
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    assert not network.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_missing_libraries_are_left_out(monkeypatch):
    """Oracle: nothing is installed, so nothing is found."""
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    network = build("vgg11", num_classes=10, head="gap", width=0.125).eval()
    assert peers.installed_peers(network, torch.randn(1, 3, 64, 64), threads=1) == {}
