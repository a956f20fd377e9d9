import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from matplotlib.patches import Rectangle

from vggnet.report import explanation_figures as explanations
from vggnet.report.explanation_figures import (
    AGAINST_FOR,
    Excitement,
    Panel,
    draw_attributions,
    draw_exciting,
    draw_maps,
)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, unsaved."""
    caught = []
    monkeypatch.setattr(explanations, "save_figure", lambda figure, path: caught.append(figure))
    return caught


def pictures_of(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def test_attributions_stand_beside_the_picture(drawn, tmp_path):
    """Oracle: by hand: where nothing counts there is the gray picture, else orange for, blue against."""
    picture = np.full((4, 4, 3), 128, dtype=np.uint8)
    values = np.zeros((4, 4), dtype=np.float32)
    values[0, 0], values[3, 3] = 2, -2
    panels = [Panel("signed", values, "logit", signed=True), Panel("heat", np.abs(values), "share", signed=False)]
    draw_attributions(picture, panels, tmp_path / "why.png", title="cat, 93 %")
    shown, signed, heat = pictures_of(drawn[0])[:3]
    assert np.array_equal(shown, picture)
    assert np.ptp(signed[1, 1]) == 0
    hues = rgb_to_hsv(np.stack([signed[0, 0], signed[3, 3], heat[0, 0], heat[3, 3]]))[:, 0]
    assert hues[0] == pytest.approx(0.075, abs=0.03)  # orange
    assert hues[1] == pytest.approx(0.6, abs=0.05)  # blue
    np.testing.assert_allclose(hues[2:], hues[0])


def test_nothing_counts(drawn, tmp_path):
    """Oracle: no division by zero, gray everywhere."""
    panels = [Panel("heat", np.zeros((4, 4), dtype=np.float32), "share", signed=False)]
    draw_attributions(np.zeros((4, 4), dtype=np.uint8), panels, tmp_path / "why.png", title="")
    assert np.ptp(pictures_of(drawn[0])[1]) == 0


def test_colors_are_told_apart_in_gray():
    """Oracle: lightness by Rec. 601: white between, and what is against is much darker than what is for."""
    against, nothing, for_it = (AGAINST_FOR(place)[:3] @ np.array([0.299, 0.587, 0.114]) for place in (0.0, 0.5, 1.0))
    assert nothing > 0.99
    assert against < for_it - 0.2 < nothing - 0.5


def test_maps_have_one_scale(drawn, tmp_path):
    """Oracle: the largest size of all maps."""
    maps = np.stack([np.full((3, 5), value, dtype=np.float32) for value in (1, 2, -4)])
    draw_maps(np.zeros((6, 10), dtype=np.uint8), maps, ["3", "7", "9"], tmp_path / "maps.png", title="relu1_1")
    _, *shown = [axes for axes in drawn[0].axes if axes.images]
    assert {axes.images[0].get_clim() for axes in shown} == {(-4, 4)}
    assert [axes.get_title() for axes in shown] == ["3", "7", "9"]


def test_fields_are_framed_and_cut_out(drawn, tmp_path):
    """Oracle: by hand."""
    picture = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    rows = [("relu1_1:0", [Excitement(picture, (2, 3, 5, 9), "7.5, cat")] * 2), ("relu2_1:4", [])]
    draw_exciting(rows, tmp_path / "exciting.png", title="")
    whole, _, part = pictures_of(drawn[0])[:3]
    assert np.array_equal(whole, picture)
    assert np.array_equal(part, picture[3:9, 2:5])
    (frame,) = [patch for patch in drawn[0].axes[0].patches if isinstance(patch, Rectangle)]
    assert frame.get_bbox().extents.tolist() == [1.5, 2.5, 4.5, 8.5]
    assert drawn[0].axes[0].get_xlabel() == "7.5, cat"
