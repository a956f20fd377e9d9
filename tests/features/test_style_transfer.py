"""Style transfer: the paper's losses, falling; sizes, colors and shares by hand; a stop keeps the picture."""

import copy
import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import vggnet
from vggnet.cli.main import main
from vggnet.errors import ConfigError, ImageError, NonFiniteError
from vggnet.features import style_transfer as style
from vggnet.features.style_transfer import save_step, transfer

SHIFT = torch.tensor([-0.03, -0.088, -0.188]).view(3, 1, 1)
SCALE = torch.tensor([0.458, 0.448, 0.45]).view(3, 1, 1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = vggnet.create_model("vgg16", num_classes=2, head="gap", width=0.0625).eval()
    network.preprocess = vggnet.Preprocess.imagenet()
    return network


def picture(seed, size=(64, 64)):
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1


def last(steps):
    *_, step = steps
    return step


def grams(network, image, pool):
    """Oracle: the layers one after the other with these pools, and NumPy."""
    x, found = (tensor(image) - SHIFT) / SCALE, []
    with torch.no_grad():
        for name, layer in network.features.named_children():
            x = pool(x, 2) if name.startswith("pool") else layer(x)
            if name.startswith("relu") and name.endswith("_1"):
                maps = x[0].double().numpy()
                found.append(np.einsum("ahw,bhw->ab", maps, maps) / maps[0].size)
    return found


@pytest.mark.parametrize(("pooling", "pool"), [("max", F.max_pool2d), ("average", F.avg_pool2d)])
def test_the_first_losses_are_those_of_the_content_itself(network, pooling, pool):
    """Oracle: `grams`, and NumPy; nothing of the content is lost yet."""
    content, painting = picture(0, (64, 80)), picture(1, (80, 72))
    options = {"size": 80, "scales": 1, "strength": 3, "smoothness": 5}
    step = next(transfer(network, content, painting, pooling=pooling, **options))
    values = tensor(content).double().numpy()
    variation = (np.diff(values, axis=2) ** 2).mean() + (np.diff(values, axis=3) ** 2).mean()
    pairs = zip(grams(network, content, pool), grams(network, painting, pool), strict=True)
    assert step.content == pytest.approx(0, abs=1e-9)
    assert step.style == pytest.approx(np.mean([((a - b) ** 2).sum() / (b**2).sum() for a, b in pairs]), rel=1e-3)
    assert step.variation == pytest.approx(variation, rel=1e-4)
    assert step.loss == pytest.approx(3 * step.style + 5 * step.variation, rel=1e-5)
    assert (step.step, step.steps, step.size) == (1, 100, (64, 80))


@pytest.mark.parametrize(("optimizer", "pooling"), [("lbfgs", "average"), ("adam", "max")])
def test_the_loss_falls_and_the_style_comes_nearer(network, optimizer, pooling):
    """Oracle: an optimizer's purpose; the steps of two scales are counted on."""
    options = {"size": 128, "scales": 2, "steps": 12, "smoothness": 0}
    steps = list(transfer(network, picture(0), picture(1), optimizer=optimizer, pooling=pooling, **options))
    assert [step.step for step in steps] == list(range(1, 25))
    assert [step.size for step in steps] == [(64, 64)] * 12 + [(128, 128)] * 12
    for scale in (steps[:12], steps[12:]):
        assert scale[-1].loss < scale[0].loss
    assert steps[-1].style < steps[0].style
    assert steps[-1].render().size == (128, 128)


def test_shares_of_several_styles(network):
    """Oracle: a share of nothing is no style, and shares are relative."""
    first, second = picture(1), picture(2)
    options = {"size": 64, "scales": 1, "steps": 3}
    alone = last(transfer(network, picture(0), first, **options)).losses
    for styles, shares in (([first, second], [2, 0]), ([first, first], None), ([second, first], (0, 0.1))):
        found = last(transfer(network, picture(0), styles, style_weights=shares, **options)).losses
        assert found == pytest.approx(alone, rel=1e-4)
    both = last(transfer(network, picture(0), [first, second], **options)).losses
    assert both["loss"] != pytest.approx(alone["loss"], rel=1e-3)


def test_the_channel_order_of_the_network(network):
    """Oracle: the same network in the other order."""
    bgr = copy.deepcopy(network)
    bgr.preprocess = dataclasses.replace(network.preprocess, bgr=True)
    with torch.no_grad():
        bgr.features.conv1_1.weight.copy_(network.features.conv1_1.weight.flip(1))
    options = {"size": 64, "scales": 1, "steps": 3}
    expected, found = (last(transfer(model, picture(0), picture(1), **options)) for model in (network, bgr))
    assert found.losses == pytest.approx(expected.losses, rel=1e-3)
    difference = np.asarray(found.render()).astype(int) - np.asarray(expected.render())
    assert np.abs(difference).max() <= 2


def test_progress_counts_all_scales(network):
    """Oracle: by hand: two scales of two steps."""
    told = []
    options = {"size": 128, "scales": 2, "steps": 2}
    last(transfer(network, picture(0), picture(1), progress=lambda *step: told.append(step), **options))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_kept_colors(network):
    """Oracle: Pillow's blue and red differences of the content, up to the rounding of two conversions."""
    content = picture(0)
    options = {"size": 64, "scales": 1, "steps": 5}
    painted = last(transfer(network, content, picture(1), keep_color=True, **options)).render()
    for mine, given in zip(painted.convert("YCbCr").split()[1:], content.convert("YCbCr").split()[1:], strict=True):
        difference = np.abs(np.asarray(mine).astype(int) - np.asarray(given))
        assert np.median(difference) <= 1  # where lightness and color leave RGB together, Pillow clips
    lightness = (np.asarray(image.convert("L")).astype(int) for image in (painted, content))
    assert np.abs(np.subtract(*lightness)).mean() > 0.1


@pytest.mark.parametrize(
    ("original", "side", "scales", "expected"),
    [
        ((800, 600), 384, 3, [(96, 72), (192, 144), (384, 288)]),
        ((600, 800), 200, 3, [(38, 50), (75, 100), (150, 200)][1:]),
        ((100, 100), 384, 1, [(384, 384)]),
        ((1000, 500), 100, 9, [(100, 50)]),
    ],
)
def test_sizes(original, side, scales, expected):
    """Oracle: by hand."""
    assert style._sizes(original, side, scales) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 40}, "shorter one below 48"),
        ({"scales": 0}, "scales is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"optimizer": "sgd"}, "unknown optimizer 'sgd'; expected lbfgs or adam"),
        ({"pooling": "min"}, "unknown pooling 'min'"),
        ({"strength": -1}, "strength is -1"),
        ({"smoothness": float("nan")}, "smoothness is nan"),
        ({"style_weights": [1, 2]}, "expected 1, one for each style"),
        ({"style_weights": [0]}, "not all 0"),
        ({"device": "quantum"}, "device 'quantum'"),
    ],
)
def test_options_that_cannot_work(network, options, message):
    """Oracle: the contract: said before the first step is asked for."""
    with pytest.raises(ConfigError, match=message):
        transfer(network, picture(0), picture(1), **{"size": 64} | options)


def test_pictures_that_cannot_be_painted(network, tmp_path):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match="no style"):
        transfer(network, picture(0), [])
    for seed in (0, 1):
        picture(seed).save(tmp_path / f"{seed}.png")
    with pytest.raises(ConfigError, match="folder of 2 images; expected one"):
        transfer(network, tmp_path, picture(0))
    with pytest.raises(ImageError, match="nowhere"):
        transfer(network, picture(0), tmp_path / "nowhere.png")


def test_a_picture_that_is_no_longer_finite(network, monkeypatch):
    """Oracle: the contract; the first step is too long for any number."""
    monkeypatch.setitem(style.OPTIMIZERS, "adam", lambda canvas: torch.optim.SGD([canvas], lr=float("inf")))
    with pytest.raises(NonFiniteError, match="after step 1 of this scale"):
        next(transfer(network, picture(0), picture(1), size=64, optimizer="adam"))


def test_a_saved_step_carries_its_losses(network, tmp_path):
    """Oracle: Pillow."""
    step = next(transfer(network, picture(0), picture(1), size=64))
    save_step(step, tmp_path / "new" / "out.png")
    with Image.open(tmp_path / "new" / "out.png") as saved:
        assert np.array_equal(saved, step.render())
        assert float(saved.text["loss"]) == step.loss


@pytest.fixture
def command(network, tmp_path, capsys):
    """`vgg style` of two small pictures: exit code, stdout, stderr."""
    vggnet.save(network, tmp_path / "weights.safetensors")
    for seed in (0, 1):
        picture(seed).save(tmp_path / f"{seed}.png")

    def run(*options):
        given = ["style", tmp_path / "0.png", tmp_path / "1.png", "-o", tmp_path / "out.png"]
        given += ["--weights", tmp_path / "weights.safetensors", "--size", 64, "--steps", 4, *options]
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, given)))
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_command(command, tmp_path):
    """Oracle: Pillow, and the file's own losses."""
    code, out, err = command("--json")
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "out.png") as saved:
        assert saved.size == (64, 64)
        assert float(saved.text["style"]) == json.loads(out)["style"]
    code, _, err = command("-o", tmp_path / "out.jpg")
    assert code == 2
    assert ".png" in err


def test_ctrl_c_keeps_the_picture_so_far(command, tmp_path, monkeypatch):
    """Oracle: the step that the file says; the signal comes in the second."""

    def interrupted(*arguments, **options):
        for step in transfer(*arguments, **options):
            if step.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    monkeypatch.setattr(style, "transfer", interrupted)
    code, _, err = command("--save-every", 100)
    assert code == 130
    assert "stopped at step 2 of 4" in err
    with Image.open(tmp_path / "out.png") as saved:
        assert saved.text["step"] == "2 of 4"
