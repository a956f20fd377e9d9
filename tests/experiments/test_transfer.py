"""The study of transfer: its vectors and scores by other ways, what it has is not computed again, what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.svm import LinearSVC

import vggnet
from experiments.transfer import run as transfer
from vggnet.data.sources.opening import open_source
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.weights.checkpoint import open_model

CLASSES, TRAIN, TEST = ("blue", "green", "red"), 7, 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Plain colors with much noise, of changing sizes."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 200, (40 + 3 * index, 50, 3))
                pixels[..., 2 - label] += 55
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11", num_classes=2, head="gap", width=0.0625).eval()
    model.preprocess = vggnet.Preprocess(resize=36, crop=32)
    path = tmp_path_factory.mktemp("run") / "weights.safetensors"
    vggnet.save(model, path)
    return path


@pytest.fixture
def study(photos, weights, tmp_path):
    def run(**options):
        options = {"weights": weights, "scales": (32, 48), "per_class": 5, "seeds": 1, **options}
        return transfer.measure(photos, out=tmp_path / "features", rows=tmp_path / "rows.jsonl", **options)

    return run


def by_hand(weights, photos, scale):
    """Oracle: the network's own layers on each whole image and its mirror image, in NumPy: (N, 3 layers, C) each."""
    network = vggnet.load(weights)
    source = open_source(photos, "test")
    vectors = []
    for index in range(len(source)):
        image = source.read(index)
        width, height = (round(side * scale / min(image.size), 6) for side in image.size)
        small = image.resize((int(width), int(height)), Image.Resampling.BILINEAR)
        pixels = np.asarray(small).astype(np.float32) / 255
        normal = (pixels - np.float32(network.preprocess.mean)) / np.float32(network.preprocess.std)
        views = torch.from_numpy(np.stack([normal, normal[:, ::-1]])).permute(0, 3, 1, 2)
        parts = []
        with torch.no_grad():
            for name, layer in network.features.named_children():
                views = layer(views)
                if name in ("relu4_2", "relu5_1", "relu5_2"):
                    part = np.cbrt((views.double().numpy() ** 3).mean((2, 3))).mean(0)
                    parts.append(part / np.linalg.norm(part) / np.sqrt(3))
        vectors.append(np.concatenate(parts))
    return np.stack(vectors)


@pytest.mark.parametrize("combine", ["average", "stack"])
def test_vectors_are_those_by_hand(photos, weights, tmp_path, combine):
    """Oracle: `by_hand`; scales averaged or side by side, and the length of the whole."""
    source = open_source(photos, "test")
    found = transfer._vectors(open_model(weights).network, source, (32, 48), combine, tmp_path)
    small, large = (by_hand(weights, photos, scale) for scale in (32, 48))
    whole = small + large if combine == "average" else np.concatenate([small, large], axis=1)
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    assert np.allclose(found, expected, atol=2e-4)


def test_scores_by_hand():
    """Oracle: by hand: two right of three in one class, all in the other; scikit-learn's classifier sees no order."""
    vectors = np.array([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5, np.float32)
    labels = np.repeat([0, 1], 5)
    test_vectors = np.array([[1, 0], [0.9, 0.1], [0.2, 0.8], [0, 1], [0.1, 0.9]], np.float32)
    score = transfer._score(LinearSVC(), vectors, labels, test_vectors, np.array([0, 0, 0, 1, 1]))
    assert score["class_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    # ranked for class 0: 0, 0, 0, 1, 1: precision 1; for class 1: 1, 1, 0, 0, 0: 1
    assert score["map"] == pytest.approx(1)
    assert (score["validation_accuracy"], score["test_images"]) == (1, 5)
    swapped = transfer._score(LinearSVC(), vectors, labels, test_vectors[[0, 1, 3, 2, 4]], np.array([0, 0, 0, 1, 1]))
    # for class 0: 0, 0, 1, 1, 0: (1 + 1 + 3/5) / 3; for class 1: 0, 1, 1, 0, 0: (1/2 + 2/3) / 2
    assert swapped["map"] == pytest.approx(((1 + 1 + 3 / 5) / 3 + (1 / 2 + 2 / 3) / 2) / 2)


def test_each_seed_chooses_its_images():
    """Oracle: counts; other seeds choose others, the same seed the same."""
    labels = np.repeat([2, 0, 1], 9)
    first, again, other = (transfer._choose(labels, 4, seed) for seed in (0, 0, 1))
    assert np.bincount(labels[first]).tolist() == [4, 4, 4]
    assert len(set(first)) == 12
    assert (first == again).all()
    assert set(first) != set(other)


def test_what_is_there_is_not_computed_again(study, tmp_path, monkeypatch):
    """Oracle: a network that is not asked any more; other data, weights or options are."""
    first = study()
    assert [row["seed"] for row in first] == [0]
    monkeypatch.setattr(transfer, "_pooled", None)
    assert study(seeds=2, classifier="logistic", combine="stack")[0] == first[0]
    assert [row["seed"] for row in study(seeds=2)] == [0, 0, 1, 1]
    assert [row["seed"] for row in study(seeds=2)] == [0, 0, 1, 1]
    with pytest.raises(TypeError):  # not there yet
        study(scales=(40,))
    (tmp_path / "features" / "test-48.safetensors").write_bytes(b"damaged")
    with pytest.raises(TypeError):
        study(seeds=3)


def test_ctrl_c_keeps_what_is_done(study, tmp_path, monkeypatch):
    """Oracle: the file of the first scale is there, and the second is computed by the next call."""

    def stop(network, data, scale, pooled=transfer._pooled):
        if scale == 48:
            raise KeyboardInterrupt
        return pooled(network, data, scale)

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_pooled", stop)
        with pytest.raises(KeyboardInterrupt):
            study()
    assert not (tmp_path / "rows.jsonl").exists()
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["train-32.safetensors"]
    assert len(study()) == 1


def test_the_table(study, cells):
    """Oracle: by hand from the rows."""
    rows = [*study(seeds=2)]
    for row, accuracy in zip(rows, (0.5, 0.7), strict=True):
        row["class_accuracy"] = row["map"] = accuracy
    (line,) = cells(transfer.table(rows))[1:]
    assert line[2:] == ["32, 48", "average", "svm", "5", "0, 1", "60.00 ± 14.14", "60.00 ± 14.14"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "scales is"),
        ({"scales": (16,)}, "at least 32 pixels"),
        ({"combine": "sum"}, "unknown combine 'sum'"),
        ({"classifier": "tree"}, "unknown classifier 'tree'"),
        ({"per_class": 4}, "per_class is 4"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_what_cannot_work(study, options, message):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match=message):
        study(**options)


def test_data_that_cannot_serve(study, photos, tmp_path, weights):
    """Oracle: the contract."""
    with pytest.raises(DataError, match="blue has 7 training images; 8 of each"):
        study(per_class=8)
    other = tmp_path / "other"
    for split, name in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "cow")):
        (other / split / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (40, 40)).save(other / split / name / f"{index}.png")
    options = {"weights": weights, "scales": (32,), "per_class": 5, "out": tmp_path / "f", "rows": tmp_path / "r"}
    with pytest.raises(DataError, match="other classes"):
        transfer.measure(other, **options)
    (other / "test" / "cow").rename(other / "test" / "dog")
    (other / "test" / "dog" / "3.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"dog/3\.png"):
        transfer.measure(other, **options)


def test_the_command(photos, weights, tmp_path, command, cells, monkeypatch):
    """Oracle: the rows on disk, and their page."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "page" / "rows.jsonl"
    options = {"scales": 32, "per_class": 5, "seeds": 2, "rows": path}
    assert command(transfer.main, data=photos, weights=weights, **options) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["data"], row["seed"]) for row in rows] == [(photos.name, 0), (photos.name, 1)]
    assert rows[0]["class_accuracy"] > 0.34
    assert cells(path.with_name("README.md").read_text())[-1][:3] == [photos.name, str(weights), "32"]
