import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from matplotlib.patches import Rectangle

from vggnet.interpret.explanation import Attribution, Explanation
from vggnet.interpret.feature_visualization import Visualization
from vggnet.interpret.layers import FeatureMaps
from vggnet.interpret.top_activations import TopActivation
from vggnet.report import explanation_figures as explanations
from vggnet.report.explanation_figures import (
    AGAINST_FOR,
    Panel,
    draw_attributions,
    draw_explanation,
    draw_feature_maps,
    draw_filters,
    draw_top_activations,
    draw_visualizations,
    explanation_title,
)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, unsaved."""
    caught = []
    monkeypatch.setattr(explanations, "save_figure", lambda figure, path: caught.append(figure))
    return caught


def names_of(figure):
    return [axes.get_title() for axes in figure.axes if axes.images]


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
    maps = np.insert(maps, 1, 0, axis=0)  # channel 1 is the weakest
    found = FeatureMaps(image="a/photo.png", picture=np.zeros((6, 10), dtype=np.uint8), layer="relu1_1", maps=maps)
    assert draw_feature_maps(found, tmp_path / "maps.png", top=3) == [0, 2, 3]
    _, *shown = [axes for axes in drawn[0].axes if axes.images]
    assert {axes.images[0].get_clim() for axes in shown} == {(-4, 4)}
    assert [axes.get_title() for axes in shown] == ["0", "2", "3"]
    assert drawn[0].get_suptitle() == "relu1_1 of photo.png: the 3 strongest of 4 channels, 3 x 5 places"


def test_fields_are_framed_and_cut_out(drawn, tmp_path):
    """Oracle: by hand."""
    picture = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    one = TopActivation(image="1.png", label="cat", activation=7.5, box=(2, 3, 5, 9), picture=picture)
    draw_top_activations({"relu1_1:0": [one, one], "relu2_1:4": []}, tmp_path / "top.png")
    whole, _, part = pictures_of(drawn[0])[:3]
    assert np.array_equal(whole, picture)
    assert np.array_equal(part, picture[3:9, 2:5])
    (frame,) = [patch for patch in drawn[0].axes[0].patches if isinstance(patch, Rectangle)]
    assert frame.get_bbox().extents.tolist() == [1.5, 2.5, 4.5, 8.5]
    assert drawn[0].axes[0].get_xlabel() == "7.5, cat"


def test_an_explanation_has_a_panel_for_each_method(drawn, tmp_path):
    """Oracle: by hand: the facts of each method, and the largest value of Grad-CAM is the full color."""
    picture, values = np.full((4, 4, 3), 128, dtype=np.uint8), np.eye(4, dtype=np.float32)
    facts = {
        "gradcam": {"layer": "relu4_1"},
        "integrated-gradients": {"steps": 8, "sum": 1.5, "rise": 2.0, "delta": -0.5},
        "occlusion": {"window": 4, "stride": 2, "largest_fall": 1.0},
    }
    explanation = Explanation(
        image="1.png", picture=picture, index=0, name="cat", probability=0.25, logit=1.0, predicted="dog",
        predicted_probability=0.75,
        attributions={method: Attribution(values=7 * values, facts=found) for method, found in facts.items()},
    )  # fmt: skip
    assert explanation_title(explanation) == "cat, 25.00 % (predicted: dog, 75.00 %)"
    draw_explanation(explanation, tmp_path / "why.png")
    assert names_of(drawn[0])[1:] == [
        "Grad-CAM\nrelu4_1",
        "integrated gradients\n8 steps, sum off by -0.5 of 2",
        "occlusion\n4 x 4 pixels, every 2",
    ]
    bars = [axes for axes in drawn[0].axes if axes.get_xlabel()]
    assert [bar.get_xlabel().partition("\n")[0] for bar in bars] == [
        "share of the largest value",
        "share in the logit, a pixel",
        "fall of the logit when hidden",
    ]
    assert bars[0].get_xlim() == (0, 1)
    assert bars[2].get_xlim() == (-7, 7)


def test_visualizations_stand_six_a_row(monkeypatch, tmp_path):
    """Oracle: by hand."""
    rows = []
    monkeypatch.setattr(explanations, "draw_gallery", lambda given, path: rows.extend(given))
    pictures = [np.full((2, 2, 3), number, dtype=np.uint8) for number in range(8)]
    found = [
        Visualization(channel=f"relu1_1:{number}", picture=picture, before=0.5, after=2.25)
        for number, picture in enumerate(pictures)
    ]
    draw_visualizations(found, tmp_path / "channels.png")
    assert list(map(len, rows)) == [6, 2]
    image, caption = rows[1][0]
    assert caption == "relu1_1:6\n0.5 → 2.25"
    assert np.array_equal(image, pictures[6])


def test_tiles_in_color(drawn, tmp_path):
    """Oracle: by hand: 0 is mid-gray, the largest weight of all is 1, and its negative 0."""
    weights = np.zeros((2, 3, 3, 3), dtype=np.float32)
    weights[1, 2, 0, 1] = -2
    weights[0, 0, 2, 2] = 1
    draw_filters(weights, tmp_path / "filters.png")
    first, second = pictures_of(drawn[0])
    assert names_of(drawn[0]) == ["0", "1"]
    assert first.shape == (3, 3, 3)
    assert second[0, 1].tolist() == [0.5, 0.5, 0]
    assert first[2, 2].tolist() == [0.75, 0.5, 0.5]


@pytest.mark.parametrize(("channels", "names"), [(1, ["0", "1"]), (2, ["0, input 0", "0, input 1", "1, input 0"])])
def test_tiles_in_gray(drawn, tmp_path, channels, names):
    """Oracle: one tile for each input channel."""
    draw_filters(np.ones((2, channels, 3, 3), dtype=np.float32), tmp_path / "filters.png")
    tiles = pictures_of(drawn[0])
    assert [tile.shape for tile in tiles] == [(3, 3)] * 2 * channels
    assert names_of(drawn[0])[: len(names)] == names
    assert all((tile == 1).all() for tile in tiles)
