"""Training and testing on streams: the same images by another way, and colors of a few of them."""

import io

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from trainings import train

import vggnet
from vggnet.data.sources import stream
from vggnet.data.sources.opening import open_source
from vggnet.training.inputs import make_preprocess, with_color_axes
from vggnet.training.presets import preset, suggest_preset

TINY = {"model": "vgg11_bn", "width": 0.05, "head": "gap", "epochs": 1, "batch_size": 8, "workers": 0}


def make_shards(folder, side):
    """Forty noisy images in three files, in row groups of five; one class is bright."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, count in enumerate((20, 12, 8)):
        images = []
        for place in range(count):
            data = io.BytesIO()
            pixels = random.integers(0, 100, (side, side + 9, 3), dtype=np.uint8) + np.uint8(155 * (place % 2))
            Image.fromarray(pixels).save(data, "PNG")
            images.append({"bytes": data.getvalue()})
        table = pyarrow.table({"image": images, "label": np.arange(count) % 2})
        for split in ("train", "test"):
            pyarrow.parquet.write_table(table, folder / f"{split}-0000{number}-of-00003.parquet", row_group_size=5)
    return folder


@pytest.fixture
def photos(tmp_path):
    return make_shards(tmp_path / "photos", 90)


@pytest.fixture
def small(tmp_path):
    return make_shards(tmp_path / "small", 32)


def test_small_images_of_a_stream_are_trained_and_tested_on(small, tmp_path):
    """Oracle: the same files without stream:, for the images and their number; the preset and mean are documented."""
    assert suggest_preset(open_source(f"stream:{small}", "train")) == "fast"
    run = train(f"stream:{small}", out=tmp_path / "run", val_fraction=0.2, **TINY)
    assert run.finished
    assert {"val_accuracy", "train_accuracy"} <= run.history[0].keys()
    assert run.preprocess.mean == (0.485, 0.456, 0.406)
    tested = [vggnet.evaluate(run.folder, data=data, workers=0) for data in (f"stream:{small}", small)]
    assert tested[0].images == tested[1].images == 40
    assert tested[0].confusion == tested[1].confusion
    assert tested[0].loss == pytest.approx(tested[1].loss)


ARTICLE = {"preset": "article", "init": "he", "optimizer": "sgd"}
PHOTOS = {"preset": "photos", "crop": 72, "resize": 80}


@pytest.mark.parametrize(("size", "options"), [("small", ARTICLE), ("photos", PHOTOS)])
def test_augmentation_is_of_the_image_and_not_of_the_way_it_is_read(size, options, request, tmp_path, monkeypatch):
    """Oracle: the same training without stream:, its images in the order of the stream."""
    folder = request.getfixturevalue(size)
    fields = {**options, **TINY, "epochs": 2, "val_fraction": 0.0}
    streamed = train(f"stream:{folder}", out=tmp_path / "streamed", **fields)
    source = open_source(f"stream:{folder}", "train")

    def chunks(self, epoch):
        return list(torch.from_numpy(source.order(np.arange(40), seed=0, epoch=epoch)).tensor_split(5))

    monkeypatch.setattr("vggnet.data.loading.TrainBatches._epoch_chunks", chunks)
    other = train(folder, out=tmp_path / "other", **fields)
    found, expected = (load_file(run.weights) for run in (streamed, other))
    assert all(found[name].numpy().tobytes() == expected[name].numpy().tobytes() for name in expected)


def test_colors_are_those_of_a_few_groups(photos, monkeypatch):
    """Oracle: numpy's covariance of the pixels of all images; with fewer images, no more groups than hold them."""
    source = open_source(f"stream:{photos}", "train")
    config = preset("paper")
    preprocess = make_preprocess(config, source)
    axes = np.array(with_color_axes(config, source, preprocess).augment.color_axes).reshape(3, 3)
    colors = np.concatenate([preprocess.pixels(source.read(index)).flatten(1).T for index in range(40)]) / 255
    covariance = np.cov(colors.T, bias=True)
    np.testing.assert_allclose(axes @ axes.T, covariance @ covariance, rtol=1e-3, atol=1e-9)
    monkeypatch.setattr("vggnet.training.inputs.COLOR_IMAGES", 5)
    monkeypatch.setattr(stream, "BUFFER", 5)
    reads, read = [], type(source._groups[0]).read
    monkeypatch.setattr(type(source._groups[0]), "read", lambda group: reads.append(group) or read(group))
    with_color_axes(config, open_source(f"stream:{photos}", "train"), preprocess)
    assert len(reads) <= 3
