"""The drawing of a network."""

import xml.etree.ElementTree as ET

import pytest

from vggnet.interpret.summary import layer_table
from vggnet.report.layer_table_text import layer_table_dict, layer_table_title
from vggnet.report.network_page import network_svg

SVG = "{http://www.w3.org/2000/svg}"


def draw(name, **options):
    table = layer_table(name, **options)
    return ET.fromstring(network_svg(layer_table_dict(table)["rows"], title=layer_table_title(table)))


def rectangles(drawing, layer):
    """Breadth and height of a layer's box and bars, in the order drawn."""
    return [
        (float(rect.get("width")), float(rect.get("height")))
        for rect in drawing.iter(f"{SVG}rect")
        if rect.find(f"{SVG}title") is not None and rect.find(f"{SVG}title").text.startswith(f"{layer}:")
    ]


def words(drawing):
    return [text.text for text in drawing.iter(f"{SVG}text")]


def test_boxes_are_to_scale():
    """Oracle: VGG-16's outputs: conv1_1 64x224x224, conv3_1 256x56x56, conv5_1 512x14x14, fc6 4096x1x1."""
    drawing = draw("D")
    boxes = [rectangles(drawing, layer)[0] for layer in ("conv1_1", "conv3_1", "conv5_1", "fc6")]
    breadths, heights = zip(*boxes, strict=True)
    assert [breadth / breadths[0] for breadth in breadths] == pytest.approx([1, 4, 8, 64], rel=0.03)
    assert [height / heights[0] for height in heights] == pytest.approx([1, 1 / 4, 1 / 16, 1 / 224], rel=0.03)


def test_bars_are_to_scale():
    """Oracle: fc6 has 102,764,544 parameters, fc7 16,781,312; conv1_2 has twice the MACs of conv2_1."""
    drawing = draw("D")
    (_, _), (_, fc6), (_, _) = rectangles(drawing, "fc6")
    (_, _), (_, fc7), (_, _) = rectangles(drawing, "fc7")
    assert fc6 / fc7 == pytest.approx(102_764_544 / 16_781_312, rel=0.02)
    (*_, (_, conv1_2)), (*_, (_, conv2_1)) = rectangles(drawing, "conv1_2"), rectangles(drawing, "conv2_1")
    assert conv1_2 / conv2_1 == pytest.approx(2, rel=0.02)


def test_shares_and_labels():
    """Oracle: the head has 123.6 of 138.4 million parameters, the blocks all but 0.8 % of the work."""
    told = words(draw("D"))
    assert "124M, 89.4 %" in told
    assert "124M, 0.8 %" in told
    assert {"conv1_1 · 64x224x224", "pool5 · 512x7x7", "fc8 · 1000", "103M", "1.79k", "1.85G"} <= set(told)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("A-LRN", {"width": 0.1}),
        ("vgg8_bn", {}),
        ("D", {"head": "none"}),
        ("E", {"head": "dense", "size": 400}),
        ("D", {"head": "folded"}),
    ],
)
def test_every_network_fits_its_sheet(name, options):
    """Oracle: no rectangle leaves the sheet, and every layer with parameters has a box and two bars."""
    drawing = draw(name, **options)
    width, height = float(drawing.get("width")), float(drawing.get("height"))
    for rect in drawing.iter(f"{SVG}rect"):
        x, y, breadth, tall = (float(rect.get(key, 0)) for key in ("x", "y", "width", "height"))
        assert min(x, y, breadth, tall) >= 0
        assert x + breadth <= width
        assert y + tall <= height
    for row in layer_table(name, **options).rows:
        if row.parameters:
            assert len(rectangles(drawing, row.layer)) == 3


def test_titles_are_escaped():
    """Oracle: the file is well formed."""
    rows = layer_table_dict(layer_table("A"))["rows"]
    assert words(ET.fromstring(network_svg(rows, title="a < b & c")))[0] == "a < b & c"
