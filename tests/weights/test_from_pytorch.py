"""torchvision's and timm's files: the same answers as the library that wrote them, and refusal of everything else."""

import json

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

import vggnet
from vggnet.cli.weights import main
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, WeightsError
from vggnet.models.vgg import from_dense
from vggnet.weights.checkpoint import Checkpoint, load
from vggnet.weights.conversion import convert
from vggnet.weights.file_format import sha256

NAMES = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
CLASSES = [f"class {index}" for index in range(10)]


def timm_vgg():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    return timm, timm.models.vgg


def imported(model, folder, suffix=".pth", **options):
    """What we make of a model that its library has saved."""
    source, out = folder / f"theirs{suffix}", folder / "ours.safetensors"
    if suffix == ".safetensors":
        save_file(model.state_dict(), source)
    else:
        torch.save(model.state_dict(), source)
    convert(source, out, **options)
    return load(out)


@pytest.mark.parametrize("name", NAMES)
def test_torchvision(name, torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: torchvision's own layers, at sizes where the pooling before the classifier is and is not the identity."""
    theirs = torchvision_network(name)
    ours = imported(theirs, tmp_path, classes=CLASSES)
    assert ours.architecture == vggnet.Architecture(name=name, num_classes=10)
    assert (ours.classes, ours.preprocess) == (tuple(CLASSES), Preprocess())
    assert_equal_answers(ours, theirs, sizes=[(224, 224), (64, 96)])


@pytest.mark.parametrize("name", NAMES)
def test_timm(name, configuration, randomized, tiny, assert_equal_answers, tmp_path):
    """Oracle: timm's own classes; above 224 pixels its head averages over space, and so does ours."""
    _, vgg = timm_vgg()
    with torch.device("meta"):  # its own head takes half a gigabyte
        theirs = vgg.VGG(configuration(name), num_classes=10, norm_layer=nn.BatchNorm2d if "_bn" in name else None)
        theirs.pre_logits = vgg.ConvMlp(5, 8, 7, drop_rate=0.0)
        theirs.head.fc = nn.Linear(8, 10)
    ours = imported(randomized(theirs.to_empty(device="cpu")), tmp_path, ".safetensors")
    assert ours.architecture == vggnet.Architecture(name=name, num_classes=10, head="dense")
    assert ours.preprocess == Preprocess()
    assert_equal_answers(ours, theirs, sizes=[(224, 224), (256, 288)])
    assert_equal_answers(from_dense(ours), theirs, sizes=[(64, 64)])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_torchvision_in_full(name, randomized, assert_equal_answers, tmp_path):
    """Oracle: torchvision's network as it is."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(init_weights=False)
    theirs = randomized(theirs.to_empty(device="cpu"))
    ours = imported(theirs, tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    assert_equal_answers(ours, theirs, sizes=[(224, 224), (64, 64)])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_timm_in_full(name, randomized, assert_equal_answers, tmp_path):
    """Oracle: timm's network as it is."""
    timm, _ = timm_vgg()
    with torch.device("meta"):
        theirs = timm.create_model(name)
    theirs = randomized(theirs.to_empty(device="cpu"))
    ours = imported(theirs, tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    assert_equal_answers(ours, theirs, sizes=[(224, 224), (256, 224)])


def test_without_classifier(torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: torchvision's `features`; the map of pool5."""
    theirs = torchvision_network("vgg13")
    theirs.classifier = nn.Sequential()
    ours = imported(theirs, tmp_path)
    assert ours.architecture == vggnet.Architecture(name="vgg13", head="none")
    assert_equal_answers(ours, theirs.features)


def test_old_files_do_not_count_batches(torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: torchvision, whose published files with batch norm are from before PyTorch 0.4.1."""
    theirs = torchvision_network("vgg11_bn")
    state = {name: t for name, t in theirs.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    convert(tmp_path / "old.pth", tmp_path / "ours.safetensors")
    assert_equal_answers(load(tmp_path / "ours.safetensors"), theirs)


def test_half_precision_becomes_float32(torchvision_network, assert_equal_answers, tmp_path):
    """Oracle: the rounded weights."""
    theirs = torchvision_network("vgg11").bfloat16()
    ours = imported(theirs, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "ours.safetensors").values()} == {torch.float32}
    assert_equal_answers(ours, theirs.float())


def test_the_source_is_noted(torchvision_network, tmp_path):
    """Oracle: the SHA-256 of the file, by hand."""
    imported(torchvision_network("vgg11"), tmp_path, provenance={"license": "mine"})
    found = Checkpoint.open(tmp_path / "ours.safetensors").provenance
    digest = sha256(tmp_path / "theirs.pth")
    assert found == {"library": "torchvision", "source": "theirs.pth", "sha256": digest, "license": "mine"}


def test_by_the_command(torchvision_network, tmp_path, capsys):
    """Oracle: the file and the names that were given; ten lines of text, or ImageNet's thousand, which do not fit."""
    torch.save(torchvision_network("vgg11").state_dict(), tmp_path / "theirs.pth")
    (tmp_path / "names.txt").write_text("\n".join(CLASSES) + "\n")
    command = ["convert", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors")]
    assert main([*command, "--classes", str(tmp_path / "names.txt"), "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert (printed["model"], printed["head"], printed["classes"]) == ("vgg11", "paper", 10)
    assert printed["source_sha256"] == sha256(tmp_path / "theirs.pth")
    assert load(tmp_path / "ours.safetensors").classes == tuple(CLASSES)
    assert main(command) == 0
    assert "sound, vgg11 with head paper" in capsys.readouterr().out
    for given, message in {"imagenet": "1000 class names", str(tmp_path): "no text file"}.items():
        with pytest.raises(ConfigError, match=message):
            main([*command, "--classes", given])
    with pytest.raises(ConfigError, match="BGR"):
        main([*command, "--keep-bgr"])


CHANGES = {
    "features.0.bias is missing": lambda state: state.pop("features.0.bias"),
    "more does not belong": lambda state: state.update(more=torch.zeros(1)),
    r"features.0.weight is \(2, 3, 5, 5\), expected \(2, 3, 3, 3\)": lambda state: state.update(
        {"features.0.weight": torch.zeros(2, 3, 5, 5)}
    ),
    r"classifier.0.weight is \(8, 244\), expected \(8, 245\)": lambda state: state.update(
        {"classifier.0.weight": torch.zeros(8, 244)}
    ),
    "features.3.bias has type torch.int64": lambda state: state.update({"features.3.bias": torch.zeros(3).long()}),
    "features.3.bias holds NaN": lambda state: state["features.3.bias"].fill_(torch.nan),
    "features.0.bias: no plain tensor": lambda state: state.update({"features.0.bias": torch.zeros(2).to_sparse()}),
    "x: no plain tensor": lambda state: state.update(x="y"),
}


@pytest.mark.parametrize("message", CHANGES)
def test_state_dicts_that_do_not_fit(message, torchvision_network, tmp_path):
    """Oracle: the damage, made by hand; one line names it as the file does, and nothing is written."""
    state = torchvision_network("vgg11").state_dict()
    CHANGES[message](state)
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match=message) as error:
        convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours.safetensors").exists()


class Code:
    def __reduce__(self):
        return (pytest.fail, ("the code ran",))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "state", [Code(), {"features.0.weight": Code()}, nn.Linear(2, 2)], ids=["code", "inside", "module"]
)
def test_code_in_a_pickle_does_not_run(state, zipped, tmp_path):
    """Oracle: the code ends the test."""
    torch.save(state, tmp_path / "theirs.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"more than tensors, which is never run") as error:
        convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.parametrize(
    "state", [torch.zeros(3), [torch.zeros(3)], {0: torch.zeros(3)}, {}], ids=["tensor", "list", "number", "empty"]
)
def test_other_contents_are_named(state, tmp_path):
    """Oracle: the contract."""
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match=r"expected tensors by name|is missing"):
        convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")


@pytest.mark.parametrize("name", ["", "nothing.pth", "notes.txt", "mine.pth"])
def test_files_that_are_no_weights(name, tmp_path):
    """Oracle: a folder, a missing file, text by two names."""
    for text in ("notes.txt", "mine.pth"):
        (tmp_path / text).write_text("text")
    with pytest.raises(WeightsError, match=str(tmp_path)) as error:
        convert(tmp_path / name, tmp_path / "ours.safetensors")
    assert "\n" not in str(error.value)


def test_there_is_no_bgr_to_keep(torchvision_network, tmp_path):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match="BGR"):
        imported(torchvision_network("vgg11"), tmp_path, keep_bgr=True)


def test_a_wrong_number_of_class_names(torchvision_network, tmp_path):
    """Oracle: two names for ten outputs."""
    with pytest.raises(ConfigError, match="2 class names"):
        imported(torchvision_network("vgg11"), tmp_path, classes=["a", "b"])
