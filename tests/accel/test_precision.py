"""In which precision products may be computed."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

import vggnet
from vggnet.accel import conv3x3
from vggnet.accel.autotuning import autotuner
from vggnet.accel.kernels.tiles import has_tiles
from vggnet.accel.precision import allowed_precision, best_precision, products_in
from vggnet.cli.main import main
from vggnet.errors import InputError

needs_tiles = pytest.mark.skipif(not has_tiles(), reason="the CPU has no matrix unit for bfloat16 (AMX)")


@pytest.fixture
def _switches():
    """Those of PyTorch, as they were found."""
    conv, matmul = torch.backends.mkldnn.conv.fp32_precision, torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.mkldnn.conv.fp32_precision = conv


@pytest.mark.usefixtures("_switches")
def test_pytorchs_switches_decide():
    """Oracle: PyTorch's documentation of both switches."""
    assert allowed_precision() == "float32"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    assert allowed_precision() == "bfloat16"
    torch.backends.mkldnn.conv.fp32_precision = "ieee"
    assert allowed_precision() == "float32"
    torch.set_float32_matmul_precision("medium")
    assert allowed_precision() == "bfloat16"
    torch.set_float32_matmul_precision("high")
    assert allowed_precision() == "float32"


@pytest.mark.usefixtures("_switches")
def test_a_block_leaves_the_switches_as_they_were():
    """Oracle: what they were, also after an error."""
    with products_in("bfloat16"):
        assert allowed_precision() == "bfloat16"
        with suppress(KeyError), products_in("float32"):
            assert allowed_precision() == "float32"
            raise KeyError
        assert allowed_precision() == "bfloat16"
    assert allowed_precision() == "float32"


@pytest.mark.parametrize(("has_unit", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_what_the_cpu_is_best_at(has_unit, expected, monkeypatch):
    """Oracle: the definition."""
    monkeypatch.setattr("vggnet.accel.kernels.tiles.has_tiles", lambda: has_unit)
    assert best_precision() == expected
    with products_in("auto"):
        assert allowed_precision() == expected


def test_a_training_keeps_what_auto_was(monkeypatch, tmp_path):
    """Oracle: the configuration that is saved. On another CPU the run goes on in the same precision."""
    config = vggnet.preset("digits").override(model="vgg11_bn", width=0.05, epochs=1)
    for has_unit, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("vggnet.accel.kernels.tiles.has_tiles", lambda has_unit=has_unit: has_unit)
        run = vggnet.train("digits", config, out=tmp_path / expected)
        assert run.config.run.precision == vggnet.Run.open(run.folder).config.run.precision == expected
        explicit = config.override(precision="float32")
        assert vggnet.train("digits", explicit, out=tmp_path / f"{has_unit}").config.run.precision == "float32"


def test_by_default_nothing_is_rounded(monkeypatch):
    """Oracle: float64; the algorithm is asked for, but not allowed."""
    monkeypatch.setenv("VGGNET_CONV", "bfloat16")
    torch.manual_seed(0)
    x, weight = torch.randn(2, 32, 6, 6), torch.randn(32, 32, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    assert (conv3x3(x, weight) - exact).abs().max() < 1e-5 * exact.abs().max()


@needs_tiles
def test_all_passes_in_bfloat16(monkeypatch):
    """Oracle: convolution and gradients of the rounded factors in float64."""
    monkeypatch.setenv("VGGNET_CONV", "bfloat16")
    torch.manual_seed(0)
    x, weight = torch.randn(2, 32, 6, 6, requires_grad=True), torch.randn(64, 32, 3, 3, requires_grad=True)
    grad = torch.randn(2, 64, 6, 6)
    with products_in("bfloat16"):
        y = conv3x3(x, weight)
        y.backward(grad)
    a, w, g = (tensor.detach().bfloat16().double() for tensor in (x, weight, grad))
    pairs = [
        (y, F.conv2d(a, w, padding=1)),
        (x.grad, conv2d_input(x.shape, w, g, padding=1)),
        (weight.grad, conv2d_weight(a, weight.shape, g, padding=1)),
    ]
    for found, expected in pairs:
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def test_choices_of_one_precision_do_not_serve_the_other():
    """Oracle: by hand: the key of the measurement names the precision."""
    x, weight = torch.randn(2, 32, 6, 6), torch.randn(32, 32, 3, 3)
    with autotuner().fixed({}):
        conv3x3(x, weight)
        with products_in("bfloat16"):
            conv3x3(x, weight)
        keys = [key for key in autotuner().chosen() if key.endswith("forward n<=2 6x6 32->32")]
    assert keys == ["bfloat16 forward n<=2 6x6 32->32", "forward n<=2 6x6 32->32"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("command", "arguments"), [
    ("predict", ["vgg8_bn-cifar10-fast", "photo.png"]), ("evaluate", ["vgg8_bn-cifar10-fast", "--data", "digits"]),
])  # fmt: skip
def test_commands_compute_in_the_precision_that_is_asked_for(command, arguments, precision, monkeypatch):
    """Oracle: PyTorch's switch while the library works, and after it."""
    seen = []

    def work(*_, **__):
        seen.append(allowed_precision())
        raise InputError("enough was seen.")

    monkeypatch.setattr(f"vggnet.evaluation.{command}.{command}", work)
    name = "test" if command == "evaluate" else command
    with pytest.raises(SystemExit):
        main([name, *arguments, "--precision", precision])
    assert seen == [precision]
    assert allowed_precision() == "float32"


def test_a_test_says_that_it_was_computed_in_bfloat16():
    """Oracle: the contract: numbers that rounding may change say so."""
    model = vggnet.create_model("vgg11_bn", num_classes=10, head="gap", width=0.05)
    model.preprocess = vggnet.Preprocess(resize=32, crop=32)
    assert vggnet.evaluate(model, "digits").notes == ()
    with products_in("bfloat16"):
        assert vggnet.evaluate(model, "digits").notes == ("convolutions with products in bfloat16",)


@pytest.mark.integration
def test_a_cpu_without_the_unit():
    """Oracle: float64; a process that is told that its CPU lacks the unit computes without it."""
    script = """
import torch
import torch.nn.functional as F
import llvmlite.binding as binding
features = binding.get_host_cpu_features()
features["amx-tile"] = features["amx-bf16"] = False
binding.get_host_cpu_features = lambda: features
import vggnet.accel
from vggnet.accel.autotuning import autotuner
from vggnet.accel.precision import products_in
torch.manual_seed(0)
x, weight = torch.randn(2, 32, 6, 6), torch.randn(32, 32, 3, 3)
with products_in("bfloat16"), autotuner().fixed({}):
    y = vggnet.accel.conv3x3(x, weight)
    (choice,) = autotuner().chosen().values()
exact = F.conv2d(x.double(), weight.double(), padding=1)
assert (y - exact).abs().max() < 2e-2 * exact.abs().max()
assert "bfloat16" not in choice["ms"], choice
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
