import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import vggnet
from vggnet.cli.main import main
from vggnet.errors import ConfigError, ImageError, WeightsError
from vggnet.evaluation.predict import predict
from vggnet.interpret.explanation import METHODS, explain
from vggnet.interpret.feature_visualization import visualize_channels
from vggnet.interpret.layers import feature_maps
from vggnet.interpret.top_activations import find_top_activations


def hooks(network):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


def state(network):
    """What an explanation might leave changed."""
    modes = [module.training for module in network.modules()]
    wishes = [parameter.requires_grad for parameter in network.parameters()]
    gradients = [None if parameter.grad is None else parameter.grad.clone() for parameter in network.parameters()]
    return hooks(network), modes, wishes, gradients, [tensor.clone() for tensor in network.state_dict().values()]


def assert_same(before, after):
    assert before[:3] == after[:3]
    for old, new in zip(before[3] + before[4], after[3] + after[4], strict=True):
        assert (old is None and new is None) or torch.equal(old, new)


@pytest.fixture
def folder(tmp_path, photo):
    for label in ("cat", "dog"):
        for number in range(3):
            path = tmp_path / "data" / "test" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo.rotate(40 * number).save(path)
    return tmp_path / "data"


def works(network, photo, folder, progress=False):
    """Everything that looks into a network."""
    yield lambda: explain(network, photo, steps=4, window=12, progress=progress)
    yield lambda: find_top_activations(network, folder, "relu2_1:3", progress=progress)
    yield lambda: visualize_channels(network, "relu2_1:3", steps=2, progress=progress)
    if not progress:
        yield lambda: feature_maps(network, photo, "relu2_1")


def mixed(network):
    """Layers in both modes, and weights that learn and that do not; one has a gradient already."""
    network.train()
    network.features.bn1_1.eval()
    network.features.conv1_1.weight.requires_grad_(False)
    network.head.fc.weight.grad = torch.ones_like(network.head.fc.weight)
    network.features.relu1_1.register_forward_hook(lambda *arguments: None)  # the user's own
    return network


def test_the_network_is_left_as_it_was(network, photo, folder):
    """Oracle: its hooks, modes, gradients and weights before."""
    before = state(mixed(network))
    assert before[0] == 1
    for work in works(network, photo, folder):
        work()
        assert_same(before, state(network))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_network_is_left_as_it_was_when_stopped(network, photo, folder, error):
    """Oracle: the same, after an interruption or a failure within the work."""

    def stop(done, total):
        raise error

    before = state(mixed(network))
    for work in works(network, photo, folder, stop):
        with pytest.raises(error):
            work()
        assert_same(before, state(network))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_was_when_a_layer_fails(network, photo, method, error):
    """Oracle: the same; the head fails where the method, not the answer before it, runs it."""
    answers = []

    def fail(feature_map):
        answers.append(feature_map)
        if len(answers) > 1:
            raise error
        return network.head.fc(feature_map.mean((2, 3)))

    before = state(mixed(network))
    network.head.forward = fail
    with pytest.raises(error):
        explain(network, photo, methods=[method], steps=2, window=18)
    del network.head.forward
    assert_same(before, state(network))


def test_an_explanation_is_of_the_prediction(network, photo):
    """Oracle: `vggnet.predict`, and the pixels that its preprocessing gives."""
    (expected,) = predict(network, photo)
    found = explain(network, photo, steps=8, window=12)
    assert (found.name, found.predicted) == (expected.classes[0], expected.classes[0])
    assert found.probability == pytest.approx(expected.probabilities[0], rel=1e-5)
    assert np.array_equal(found.picture, network.preprocess.pixels(photo).movedim(0, 2).numpy())
    assert list(found.attributions) == list(METHODS)
    for one in found.attributions.values():
        assert one.values.shape == (36, 36)
        assert one.values.dtype == np.float32
        assert np.isfinite(one.values).all()
        assert one.values.any()
    facts = {method: one.facts for method, one in found.attributions.items()}
    assert facts["gradcam"] == facts["gradcam++"] == {"layer": "relu4_2"}
    assert facts["integrated-gradients"]["steps"] == 8
    assert (facts["occlusion"]["window"], facts["occlusion"]["stride"]) == (12, 6)


def test_the_camera_was_held_upright(network, photo):
    """Oracle: the same picture without an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    stored = io.BytesIO()
    photo.rotate(90, expand=True).save(stored, "PNG", exif=exif)
    found, expected = (explain(network, image, methods=["gradcam"]) for image in (stored.getvalue(), photo))
    assert np.array_equal(found.picture, expected.picture)
    assert np.array_equal(found.attributions["gradcam"].values, expected.attributions["gradcam"].values)


def test_a_class_by_name_or_number(network, photo):
    """Oracle: each other, and another class gives another map; the prediction is named too."""
    network.classes = ("cat", "0", "ship")  # a name is taken before a number
    maps = {target: explain(network, photo, target=target, methods=["integrated-gradients"]) for target in ("0", 1, 0)}
    assert [one.index for one in maps.values()] == [1, 1, 0]
    first, same, other = (one.attributions["integrated-gradients"].values for one in maps.values())
    assert np.array_equal(first, same)
    assert not np.allclose(first, other)
    unlikely = min(range(3), key=lambda index: explain(network, photo, target=index, methods=["gradcam"]).probability)
    found = explain(network, photo, target=unlikely, methods=["gradcam"])
    assert found.predicted == explain(network, photo, methods=["gradcam"]).name != found.name
    assert found.predicted_probability > found.probability


def test_gray_images(make_network, photo):
    """Oracle: the shape of the picture; without names a class has a number."""
    network = make_network(in_channels=1, num_classes=5)
    found = explain(network, photo, steps=2, window=18)
    assert found.picture.shape == (36, 36)
    assert found.name == f"class {found.index}"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"target": "bird"}, ["bird", "cat, dog, ship", "0 to 2"]),
        ({"target": 3}, ["'3'", "cat"]),
        ({"target": -1}, ["'-1'"]),
        ({"methods": ["lime"]}, ["lime", "gradcam++"]),
        ({"methods": []}, ["no method", "occlusion"]),
        ({"layer": "relu9_9"}, ["relu9_9", "relu1_1, pool1"]),
        ({"layer": "conv1_1"}, ["conv1_1", "relu1_1"]),
        ({"steps": 0}, ["steps"]),
        ({"window": 99}, ["window", "36"]),
        ({"device": "tpu9"}, ["tpu9"]),
    ],
)
def test_options_that_cannot_work(network, photo, options, named):
    """Oracle: what is there instead stands in the message."""
    with pytest.raises(ConfigError) as raised:
        explain(network, photo, **options)
    for word in named:
        assert word in str(raised.value)


def test_an_unknown_class_of_very_many(make_network, photo):
    """Oracle: similar names, not a thousand."""
    network = make_network(num_classes=200)
    network.classes = tuple(f"{kind} {number}" for kind in ("cat", "dog") for number in range(100))
    with pytest.raises(ConfigError, match="similar are cat") as raised:
        explain(network, photo, target="cad 7")
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("options", "named"),
    [({"head": "none"}, "no head"), ({"boxes": "shared"}, "boxes"), ({"init": None}, "without weights")],
)
def test_networks_without_classes(make_network, photo, options, named):
    """Oracle: what is missing."""
    with pytest.raises(ConfigError, match=named):
        explain(make_network(**options), photo)


def test_pictures_that_cannot_be_explained(network, tmp_path, folder):
    """Oracle: the file's or folder's name; the last is a network that does not say how pictures are prepared."""
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    for path in (tmp_path / "broken.jpg", tmp_path / "missing.jpg"):
        with pytest.raises(ImageError, match=path.name):
            explain(network, path)
    with pytest.raises(ConfigError, match="6 images"):
        explain(network, folder)
    network.preprocess = None
    with pytest.raises(WeightsError, match="preprocess"):
        explain(network, folder)


MORE = ["layercam", "scorecam", "guided-backpropagation"]


def test_more_methods(network, photo):
    """Oracle: the contract of all maps; the network, its hooks too, is left as it was."""
    before = state(mixed(network))
    done = []
    found = explain(network, photo, methods=MORE, progress=lambda *now: done.append(now))
    for one in found.attributions.values():
        assert one.values.shape == (36, 36)
        assert np.isfinite(one.values).all()
        assert one.values.any()
        assert "note" not in one.facts
    assert done[-1][0] == done[-1][1]
    assert_same(before, state(network))
    assert sum(len(module._forward_hooks) + len(module._backward_hooks) for module in network.modules()) == 1


def test_several_pictures_at_once(network, photo):
    """Oracle: each picture alone."""
    pictures = [photo, photo.rotate(90)]
    found = explain(network, pictures, methods=["gradcam", "occlusion"], window=18)
    for one, picture in zip(found, pictures, strict=True):
        alone = explain(network, picture, methods=["gradcam", "occlusion"], window=18)
        assert (one.name, one.probability) == (alone.name, alone.probability)
        for method, attribution in one.attributions.items():
            np.testing.assert_array_equal(attribution.values, alone.attributions[method].values)
    assert len(explain(network, [photo], methods=["gradcam"])) == 1


def test_one_bad_picture_leaves_the_others_their_explanation(network, photo, tmp_path, capsys):
    """Oracle: the picture alone, and the contract."""
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    bad.write_bytes(b"none")
    photo.save(good)
    alone = explain(network, good, methods=["gradcam"])
    error, one = explain(network, [bad, good], methods=["gradcam"], on_error="return")
    assert (type(error), error.name) == (ImageError, str(bad))
    np.testing.assert_array_equal(one.attributions["gradcam"].values, alone.attributions["gradcam"].values)
    with pytest.raises(ImageError, match=r"bad\.png"):
        explain(network, [bad, good], methods=["gradcam"])
    with pytest.raises(ConfigError, match="give a list"):
        explain(network, good, on_error="return")
    vggnet.save(network, tmp_path / "weights.safetensors")
    out = tmp_path / "figure.png"
    with pytest.raises(SystemExit) as ended:
        main(["explain", str(tmp_path / "weights.safetensors"), str(bad), str(good), "-o", str(out), "--json"])
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert (ended.value.code, len(facts["images"]), len(facts["unreadable"])) == (2, 1, 1)
    assert f"vgg: {bad}: " in printed.err
    assert (tmp_path / "figure-2.png").exists()
    with pytest.raises(SystemExit):
        main(["explain", str(tmp_path / "weights.safetensors"), str(bad), "-o", str(out)])
    assert capsys.readouterr().err.startswith(f"vgg: {bad}: ")


def test_a_map_of_zeros_is_said(network, photo):
    """Oracle: a head whose weights are all negative: nothing that is active supports any class."""
    with torch.no_grad():
        network.head.fc.weight.fill_(-1)
    found = explain(network, photo, methods=["gradcam"]).attributions["gradcam"]
    assert not found.values.any()
    assert found.facts["note"].startswith("zero everywhere: nothing in relu4_2 supports this class")
