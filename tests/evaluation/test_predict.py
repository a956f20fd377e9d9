import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, DataError, ImageError, NonFiniteError, WeightsError
from vggnet.evaluation.predict import predict
from vggnet.models.vgg import build
from vggnet.weights import checkpoint as files


class Tiny(nn.Module):
    """Three classes from the pixels, with everything that differs between training and testing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(3)
        )
        self.layers(torch.rand(4, 3, 16, 16))
        self.classes = ("ant", "bee", "cow")
        self.num_classes = 3
        self.preprocess = Preprocess(resize=20, crop=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))

    def forward(self, images):
        return 5 * self.layers(images)


class Fixed(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)
        self.classes, self.num_classes = None, len(logits)
        self.preprocess = Preprocess(resize=8, crop=8)

    def forward(self, images):
        return self.logits.expand(len(images), -1)


@pytest.fixture
def model():
    return Tiny()


@pytest.fixture
def pictures(tmp_path):
    """Seven PNG files of seven sizes."""
    random = np.random.default_rng(0)
    paths = [tmp_path / "pictures" / f"{index}.png" for index in range(7)]
    paths[0].parent.mkdir()
    for index, path in enumerate(paths):
        Image.fromarray(random.integers(0, 256, (20 + 5 * index, 40, 3), dtype=np.uint8)).save(path)
    return paths


def by_hand(model, path):
    """One image at a time with NumPy: [(probability, class), ...], best first."""
    with Image.open(path) as image:
        width, height = image.size
        scale = 20 / min(width, height)
        small = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    left, upper = round((small.width - 16) / 2), round((small.height - 16) / 2)
    pixels = np.asarray(small.crop((left, upper, left + 16, upper + 16)), dtype=np.float32) / 255
    normal = (pixels - np.float32([0.5, 0.4, 0.3])) / np.float32([0.2, 0.3, 0.4])
    model.eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(normal.transpose(2, 0, 1)[None]))[0].double().numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum()
    return sorted(zip(probabilities, model.classes, strict=True), reverse=True)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_predictions_match_one_image_at_a_time(model, pictures, batch_size):
    """Oracle: Pillow and NumPy on single images, from the preprocessing's four numbers."""
    predictions = predict(model, pictures, batch_size=batch_size)
    assert [prediction.name for prediction in predictions] == [str(path) for path in pictures]
    for prediction, path in zip(predictions, pictures, strict=True):
        probabilities, classes = zip(*by_hand(model, path), strict=True)
        assert prediction.classes == classes
        assert prediction.probabilities == pytest.approx(probabilities, abs=1e-5)
        assert prediction.error is None


def test_one_picture_gives_one_prediction_however_it_is_given(model, pictures):
    """Oracle: an invariant over path, text, bytes, PIL image, folder, and without a list."""
    path = pictures[3]
    with Image.open(path) as image:
        image.load()
    given = [path, str(path), path.read_bytes(), image]
    predictions = predict(model, given)
    predictions += predict(model, path.parent)[3:4]
    predictions += predict(model, str(path))
    assert [prediction.name for prediction in predictions] == [str(path)] * 2 + ["image 3", "image 4"] + [str(path)] * 2
    assert {prediction.classes for prediction in predictions} == {predictions[0].classes}
    for prediction in predictions:
        assert prediction.probabilities == pytest.approx(predictions[0].probabilities, abs=1e-6)


def test_orientation_of_a_photograph_is_respected(model):
    """Oracle: the same picture stored upright. EXIF orientation 6 is a quarter turn."""
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = io.BytesIO()
    upright.rotate(90, expand=True).save(stored, "PNG", exif=exif)
    turned = Image.open(stored)
    predictions = predict(model, [upright, turned, stored.getvalue()])
    assert predictions[1].probabilities == predictions[2].probabilities == predictions[0].probabilities


def test_unreadable_files_do_not_stop_the_others(model, pictures, tmp_path):
    """Oracle: the predictions for the readable files alone."""
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(pictures[0].read_bytes()[:200])
    alone = predict(model, pictures[:2])
    predictions = predict(model, [broken, pictures[0], b"", missing, pictures[1]], batch_size=2)
    assert [predictions[1].classes, predictions[4].classes] == [alone[0].classes, alone[1].classes]
    for index, name in ((0, str(broken)), (2, "image 3"), (3, str(missing))):
        assert (predictions[index].name, predictions[index].classes, predictions[index].probabilities) == (name, (), ())
        assert predictions[index].error.startswith(name)
        assert "\n" not in predictions[index].error


def test_no_form_of_a_bad_picture_stops_the_others(model, pictures):
    """Oracle: the prediction for the readable file alone."""
    cut = Image.open(io.BytesIO(pictures[0].read_bytes()[:200]))
    bad = [np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), b"none", io.StringIO("text"), cut, Image.new("L", (0, 3)), None]
    predictions = predict(model, [*bad, pictures[0]], batch_size=3)
    assert predictions[-1] == predict(model, pictures[0])[0]
    for number, prediction in enumerate(predictions[:-1], start=1):
        assert prediction.name == f"image {number}"
        assert prediction.error.startswith(f"image {number}: ")


def test_an_unreadable_file_is_raised_if_asked(model, pictures, tmp_path):
    """Oracle: the contract."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    with pytest.raises(ImageError, match=r"broken\.png"):
        predict(model, [*pictures[:3], broken], batch_size=2, on_error="raise")


def test_progress_counts_pictures(model, pictures):
    """Oracle: by hand: seven pictures, three at a time."""
    seen = []
    predict(model, pictures, batch_size=3, progress=lambda *counts: seen.append(counts))
    assert seen == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize(("top", "kept"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_top_is_clipped_to_the_classes(model, pictures, top, kept):
    """Oracle: by hand."""
    prediction = predict(model, pictures[:1], top=top)[0]
    assert len(prediction.classes) == len(prediction.probabilities) == kept
    assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)


def test_ties_and_missing_names():
    """Oracle: by hand."""
    prediction = predict(Fixed(0.0, 1.0, 0.0, 1.0), Image.new("RGB", (9, 9)))[0]
    assert prediction.classes == ("class 1", "class 3", "class 0", "class 2")
    assert sum(prediction.probabilities) == pytest.approx(1)


def test_modes_are_as_they_were(model, pictures):
    """Oracle: the modes before: training, but with frozen statistics. The statistics are untouched."""
    model.train()
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict(model, pictures)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_file_predicts_as_the_model(pictures, tmp_path):
    """Oracle: the model that was saved."""
    network = build("vgg11", num_classes=3, head="gap", width=0.1)
    network.classes, network.preprocess = ("ant", "bee", "cow"), Preprocess(resize=32, crop=32)
    files.save(network, tmp_path / "run" / "weights.safetensors")
    expected = predict(network, pictures)
    for source in (tmp_path / "run", str(tmp_path / "run" / "weights.safetensors")):
        found = predict(source, pictures)
        for ours, theirs in zip(found, expected, strict=True):  # loaded from a file it runs channels-last
            assert (ours.name, ours.classes, ours.error) == (theirs.name, theirs.classes, theirs.error)
            assert ours.probabilities == pytest.approx(theirs.probabilities, rel=1e-4)


def test_nothing_to_predict(model):
    """Oracle: by hand."""
    assert predict(model, []) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top": 0}, "top is 0"), ({"batch_size": 0}, "batch_size is 0"), ({"device": "quantum"}, "device 'quantum'")],
)
def test_options_that_cannot_work(model, pictures, options, message):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match=message):
        predict(model, pictures, **options)


def test_a_folder_without_images_is_an_error(model, tmp_path):
    """Oracle: the contract."""
    with pytest.raises(DataError, match="no images"):
        predict(model, tmp_path)


def test_a_model_without_preprocessing_is_refused(model, pictures):
    """Oracle: the contract."""
    model.preprocess = None
    with pytest.raises(WeightsError, match="no preprocessing"):
        predict(model, pictures)


def test_non_finite_output_is_refused():
    """Oracle: the contract."""
    with pytest.raises(NonFiniteError, match="1 of 1 images"):
        predict(Fixed(0.0, float("nan")), Image.new("RGB", (9, 9)))
