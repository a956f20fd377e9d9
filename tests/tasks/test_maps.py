"""Maps of published networks: their files, and what cannot be done with them."""

import json

import numpy as np
import pytest
from PIL import Image

import vggnet
from vggnet.cli.predict import main
from vggnet.errors import ConfigError
from vggnet.models.vgg import build

NAMES = {"craft": ("text", "link"), "hed": ("edge",)}


@pytest.fixture(params=NAMES)
def saved(request, tmp_path):
    """A narrow network with random weights."""
    network = {"craft": "vgg16_bn", "hed": "vgg16"}[request.param]
    model = build(network, num_classes=len(NAMES[request.param]), head=request.param, width=0.05)
    path = tmp_path / f"{request.param}.safetensors"
    vggnet.save(model, path, classes=NAMES[request.param], preprocess=vggnet.Preprocess.imagenet())
    return path


def test_maps_are_written_and_described(saved, tmp_path, capsys):
    """Oracle: the files, read by Pillow, against the values from Python; a small picture is enlarged."""
    random = np.random.default_rng(0)
    for name, size in {"large": (61, 45), "small": (20, 50)}.items():
        Image.fromarray(random.integers(0, 256, (*size[::-1], 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    pictures = [str(tmp_path / f"{name}.png") for name in ("large", "small", "damaged")]
    out = tmp_path / "maps"
    assert main([str(saved), *pictures, "--out", str(out), "--json"]) == 2
    written = capsys.readouterr()
    rows = json.loads(written.out)
    assert "damaged.png" in written.err
    found = vggnet.predict(saved, pictures)
    for one, row in zip(found[:2], rows, strict=False):
        assert tuple(one.maps) == NAMES[saved.stem]
        for name, values in one.maps.items():
            with Image.open(out / f"{row['name'].removesuffix('.png').rpartition('/')[2]}-{name}.png") as stored:
                expected = np.clip(values.values, 0, 1) * 255
                assert np.abs(np.array(stored) - expected).max() <= 0.5 + 1e-3
            assert row["maps"][name] == pytest.approx({"largest": values.largest, "share": values.share})
    assert [one.maps[name].values.shape for one in found[:2] for name in one.maps] == [
        shape for shape in ((45, 61), (50, 20)) for _ in NAMES[saved.stem]
    ]
    assert (out / "overlays.png").is_file()


def test_what_cannot_be_done_is_one_line(saved):
    """Oracle: the message says what can."""
    for call in (
        lambda: vggnet.evaluate(saved, "digits"),
        lambda: vggnet.predict(saved, Image.new("RGB", (40, 40)), top=3),
    ):
        with pytest.raises(ConfigError, match="gives maps"):
            call()
    with pytest.raises(ConfigError, match="the head hed is for vgg16 alone, not for vgg11"):
        build("vgg11", num_classes=1, head="hed")
