"""The networks through torch.hub, from this folder, in a process of its own."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import torch
import torchvision

import vggnet

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json, sys, torch
root, weights, names = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

def load(name, **options):
    return torch.hub.load(root, name, source="local", **options)

sizes = {name: sum(p.numel() for p in load(name, init=None).parameters()) for name in names}
model = load("vgg11_bn", weights=weights)
try:
    load("vgg16", weights=weights)
except Exception as error:
    refused = f"{type(error).__name__}: {error}"
images = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
import vggnet
print(json.dumps({
    "sizes": sizes, "logits": model(images).tolist(), "classes": model.classes, "refused": refused,
    "place": vggnet.__file__, "help": torch.hub._import_module("hubconf", root + "/hubconf.py").vgg16.__doc__,
}))
"""
NAMES = [f"vgg{layers}{norm}" for layers in (11, 13, 16, 19) for norm in ("", "_bn")]  # those of torchvision, too
OTHERS = ["vgg11_lrn", "vgg16_1x1", "vgg16_1x1_bn"]  # columns A-LRN and C


def test_every_network_of_table_1_by_torch_hub(tmp_path):
    """Oracle: torchvision's parameters and the paper's Table 2 (millions); the logits of `vggnet.load`."""
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11_bn", num_classes=2, head="gap", width=0.05).eval()
    model.classes, model.preprocess = ("cat", "dog"), vggnet.Preprocess(resize=32, crop=32)
    vggnet.save(model, tmp_path / "mine.safetensors")
    arguments = [str(ROOT), str(tmp_path / "mine.safetensors"), json.dumps(NAMES + OTHERS)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    for name in NAMES:
        with torch.device("meta"):
            theirs = torchvision.models.get_model(name, weights=None)
        assert found["sizes"][name] == sum(p.numel() for p in theirs.parameters())
    assert [round(found["sizes"][name] / 1e6) for name in OTHERS] == [133, 134, 134]
    images = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    assert torch.allclose(torch.tensor(found["logits"]), model(images), atol=1e-5)
    assert found["classes"] == ["cat", "dog"]
    assert found["refused"].startswith("WeightsError: ")
    assert found["place"] == str(ROOT / "src" / "vggnet" / "__init__.py")
    assert "create_model" in found["help"]


def test_the_dependencies_are_those_of_the_package():
    """Oracle: pyproject.toml, but for the parser of the command line; pillow is imported as PIL."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {requirement.partition(">=")[0] for requirement in project["dependencies"]} - {"tyro", "pillow"} | {"PIL"}
    listed = {}
    exec((ROOT / "hubconf.py").read_text(encoding="utf-8").partition("_SOURCE")[0], {"__name__": "hubconf"}, listed)
    assert sorted(listed["dependencies"]) == sorted(names)
