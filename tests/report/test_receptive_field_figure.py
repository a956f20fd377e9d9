"""The picture of receptive fields."""

import numpy as np
import pytest
from PIL import Image

from vggnet.report import receptive_field_figure as receptive_fields
from vggnet.report.receptive_field_figure import Field, draw_receptive_fields


def field(label, extent):
    strength = np.zeros((9, 9), np.float32)
    half = extent // 2
    strength[4 - half : 5 + half, 4 - half : 5 + half] = 1
    return Field(label, extent**2, extent, strength)


def test_frames_are_where_the_gradient_is(monkeypatch, tmp_path):
    """Oracle: the fields that were given."""
    caught = []
    monkeypatch.setattr(receptive_fields, "save_figure", lambda figure, path: caught.append(figure))
    pairs = [(field("one", 5), field("two", 3)), (field("three", 7), field("four", 1))]
    draw_receptive_fields(pairs, tmp_path / "fields.png", title="what is seen")
    (figure,) = caught
    axes = figure.axes[:4]
    assert [found.patches[0].get_bbox().bounds for found in axes] == [
        pytest.approx((-side / 2, -side / 2, side, side)) for side in (5, 3, 7, 1)
    ]
    assert axes[2].get_title() == "three: sees 7x7\n49 weights a pair of channels"
    assert tuple(axes[0].images[0].get_extent()) == (-4.5, 4.5, -4.5, 4.5)
    assert "largest is 1" in figure.axes[4].get_ylabel()


def test_saved_as_png(tmp_path):
    """Oracle: Pillow."""
    draw_receptive_fields([(field("one", 5), field("two", 3))], tmp_path / "fields.png", title="")
    with Image.open(tmp_path / "fields.png") as image:
        assert image.format == "PNG"
