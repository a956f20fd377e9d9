"""What is held against VGG: skips, gradients, the rows of a tiny study, tables, the command."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vggnet
from experiments.drawbacks import figure
from experiments.drawbacks import run as drawbacks
from experiments.drawbacks.gradients import add_skips, gradient_norms
from experiments.drawbacks.run import by_part
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError
from vggnet.training.presets import preset

pytestmark = pytest.mark.usefixtures("own_cache")
TINY = {"width": 0.05, "epochs": 1, "batch_size": 512, "images": 60, "small_epochs": 2}


def test_gradient_norms_by_hand():
    """Oracle: the chain rule by hand in NumPy, for two 1x1 convolutions of one pixel and a linear layer."""
    torch.manual_seed(0)
    first, second, last = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
    images, labels = torch.randn(4, 2, 1, 1), torch.tensor([0, 1, 1, 0])
    found = gradient_norms(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), last), images, labels)

    def values(layer):
        return layer.weight.detach().double().numpy().reshape(layer.weight.shape[:2]), layer.bias.detach().numpy()

    (w1, b1), (w2, b2), (w3, b3) = map(values, (first, second, last))
    x = images.double().numpy().reshape(4, 2)
    h1 = x @ w1.T + b1
    h2 = np.maximum(h1, 0) @ w2.T + b2
    logits = np.maximum(h2, 0) @ w3.T + b3
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    d_logits = (softmax - np.eye(2)[labels.numpy()]) / 4
    d_h2 = (d_logits @ w3) * (h2 > 0)
    d_h1 = (d_h2 @ w2) * (h1 > 0)
    by_hand = [np.linalg.norm(d_h1.T @ x), np.linalg.norm(d_h2.T @ np.maximum(h1, 0))]
    assert min(by_hand) > 0
    assert found == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("name", ["vgg19", "vgg19_bn"])
def test_skips_by_hand(name):
    """Oracle: the layers of the network one by one in plain Python; the parameters are the same tensors."""
    torch.manual_seed(0)
    network = vggnet.create_model(name, num_classes=3, head="gap", width=0.1).eval()
    parameters = {id(parameter) for parameter in network.parameters()}
    layers = dict(network.features.named_children())
    images = torch.randn(2, 3, 32, 32)
    x = images
    for block, count in enumerate((2, 2, 4, 4, 4), start=1):
        for number in range(1, count + 1):
            place = f"{block}_{number}"
            y = layers[f"conv{place}"](x)
            y = layers[f"bn{place}"](y) if name.endswith("bn") else y
            keeps = number > 1 or block == 5  # blocks 4 and 5 have the same number of channels
            x = F.relu(x + y if keeps else y)
        x = F.max_pool2d(x, 2)
    expected = network.head(x).detach()
    twin = add_skips(network)
    assert torch.allclose(twin(images), expected, atol=1e-6 * float(expected.abs().max()))
    assert {id(parameter) for parameter in twin.parameters()} == parameters
    assert sum(isinstance(layer, nn.Conv2d) for layer in twin.modules()) == 16


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A few networks of each part, tiny, on the digits."""
    monkeypatch.setattr(drawbacks, "DEPTHS", ("vgg11",))
    monkeypatch.setattr(drawbacks, "TWINS", ("vgg11_bn",))
    monkeypatch.setattr(drawbacks, "INITS", ("he",))
    monkeypatch.setattr(drawbacks, "HEADS", ("gap", "cifar"))
    monkeypatch.setattr(drawbacks, "SMALL_HEAD", "folded")
    monkeypatch.setattr(drawbacks, "AT_FULL_SIZE", (("vgg16", "paper"),))

    def run(name="rows", **options):
        return drawbacks.measure("digits", out=tmp_path / name, rows=tmp_path / f"{name}.jsonl", **{**TINY, **options})

    return run


def test_rows_are_what_the_runs_say(study, tmp_path, monkeypatch):
    """Oracle: `vggnet.evaluate` by itself, counts by hand; a second call trains nothing, another seed does."""
    found = study(seeds=1)
    parts = by_part(found)
    assert list(parts) == ["memory", "gradients", "overfitting", "heads"]
    assert list(parts["gradients"]) == ["A, init he", "A with batch norm, residual, init he"]
    assert all(len(row["norms"]) == 8 and row["images"] == 512 for (row,) in parts["gradients"].values())
    assert list(parts["overfitting"]) == ["dropout 0.5", "dropout 0"]
    for (row,) in parts["overfitting"].values():
        assert (row["train_images"], row["held_out"], row["images"]) == (60, 60, 360)
        assert [epoch["epoch"] for epoch in row["history"]] == [1, 2]
        assert row["config"]["flip"] == "none"
    for (row,) in parts["heads"].values():
        (folder,) = (tmp_path / "rows").glob(f"head-{row['config']['head']}-0-*")
        assert row["top1"] == vggnet.evaluate(folder, data="digits").top1
        assert row["fully_connected"] == (26 + 1) * 10
    ((memory,),) = parts["memory"].values()
    assert (memory["parameters"], memory["pixels"]) == (138_357_544, 224)

    monkeypatch.setattr(drawbacks, "train_or_resume", None)
    monkeypatch.setattr(drawbacks, "fit_or_resume", None)
    assert study(seeds=1) == found
    with pytest.raises(TypeError):
        study(seeds=2)


def test_parts_of_train_are_apart_and_balanced():
    """Oracle: counts; other seeds choose other images."""
    source = open_source("digits", "train")
    chosen, held_out = drawbacks._two_parts(source, 200, seed=0)
    assert (len(chosen), len(held_out)) == (200, 200)
    assert not set(chosen) & set(held_out)
    for part in (chosen, held_out):
        assert np.bincount(source.labels[part]).min() >= 18
    assert set(drawbacks._two_parts(source, 200, seed=1)[0]) != set(chosen)


def row(part, label, seed, **values):
    config = {key: values.pop(key) for key in ("head", "dropout", "epochs", "init") if key in values}
    return {
        "part": part,
        "label": label,
        "seed": seed,
        "config": preset("fast").as_options() | {"seed": seed, **config},
        **values,
    }


SIZE = {"parameters": 2_000_000, "fully_connected": 500_000, "file_bytes": 8_400_000, "activation_bytes": 50_000_000}
HISTORY = [{"epoch": 1, "train_accuracy": 0.5, "val_accuracy": 0.4}]
ROWS = [
    row("heads", "head gap", 0, head="gap", top1=0.6, seconds=60, images=360, **SIZE),
    row("heads", "head gap", 1, head="gap", top1=0.8, seconds=120, images=360, **SIZE),
    row("overfitting", "dropout 0.5 on 60 images", 0, dropout=0.5, epochs=1, train_images=60, train_accuracy=0.9,
        top1=0.5, seconds=30, history=HISTORY),
    row("gradients", "E, init he", 0, init="he", network="E", images=128, norms=[0.1, 9.0, 2.0]),
    row("gradients", "E, init he", 1, init="he", network="E", images=128, norms=[0.3, 9.0, 2.0]),
    row("memory", "D, head gap", 0, head="gap", network="D", **SIZE),
]  # fmt: skip


def test_tables_by_hand(cells):
    """Oracle: typed."""
    heads, overfitting, gradients, memory = map(cells, drawbacks.tables(by_part(ROWS)).split("\n\n"))
    assert heads[1] == ["gap", "2.00", "25.0", "8.4 / 8.0", "2", "70.00 ± 14.14", "1.5"]
    assert overfitting[1] == ["0.5", "60", "1", "1", "90.00", "50.00", "40.00", "0.5"]
    assert gradients[1] == ["E", "he", "2", "2.00e-01 (1.0e-01 to 3.0e-01)", "2.00e+00 (2.0e+00 to 2.0e+00)", "0.1"]
    assert memory[1] == ["D", "gap", "2.00", "25.0", "8.4 / 8.0", "50.0", "12.8"]


def test_a_newer_configuration_replaces_the_older():
    """Oracle: by hand."""
    newer = row("heads", "head gap", 0, head="gap", epochs=9, top1=0.9, seconds=60, **SIZE)
    assert by_part([*ROWS, newer])["heads"]["head gap"] == [newer]
    more = {**ROWS[2], "label": "dropout 0.5 on 70 images", "train_images": 70}
    assert by_part([*ROWS, more])["overfitting"] == {"dropout 0.5": [more]}


def test_picture_by_hand(monkeypatch, tmp_path):
    """Oracle: the rows: percents of each seed and their mean, epochs, the geometric mean of norms."""
    drawn = []
    monkeypatch.setattr(figure, "save_figure", lambda one, path: drawn.append(one))
    figure.draw_drawbacks(by_part(ROWS), tmp_path / "figure.png")
    heads, overfitting, he, glorot = drawn[0].axes
    assert heads.collections[0].get_offsets().tolist() == [[0, 60], [0, 80]]
    assert heads.lines[0].get_ydata() == pytest.approx([70, 70])
    assert [list(line.get_ydata()) for line in overfitting.lines] == [[50], [40]]
    assert he.lines[0].get_ydata() == pytest.approx([0.03**0.5, 9, 2])
    assert not glorot.lines
    figure.draw_drawbacks({}, tmp_path / "figure.png")  # before the first row


def test_the_command_measures_and_writes_the_page(study, tmp_path, command, cells):
    """Oracle: the rows that it wrote; the page and the figure beside them."""
    path = tmp_path / "page" / "rows.jsonl"
    small = {"width": 0.05, "epochs": 1, "images": 60, "small_epochs": 1, "seeds": 1}
    assert command(drawbacks.main, data="digits", **small, out=tmp_path / "runs", rows=path) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["part"] for row in rows} == {"heads", "overfitting", "gradients", "memory"}
    headings = [line[0] for line in cells(path.with_name("README.md").read_text())]
    assert [name for name in headings if name in ("head", "dropout", "network")] == [
        "head", "dropout", "network", "network"
    ]  # fmt: skip
    assert path.with_name("figure.png").stat().st_size > 5_000


def test_mistakes_are_named(tmp_path):
    """Oracle: the message names what was given."""
    options = {"out": tmp_path, "rows": tmp_path / "rows.jsonl"}
    with pytest.raises(ConfigError, match="seeds is 0"):
        drawbacks.measure("digits", seeds=0, **options)
    with pytest.raises(ConfigError, match="images is 900"):
        drawbacks.measure("digits", images=900, **options)
