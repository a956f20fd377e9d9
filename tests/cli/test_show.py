"""`vgg show`: what is printed, and the page in a browser."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vggnet.cli.main import main
from vggnet.interpret.summary import layer_table
from vggnet.report.layer_table_text import layer_table_dict
from vggnet.report.text import to_json

PATIENCE = 300_000  # milliseconds, for a machine that is busy with other work
OVERLAPS = """
() => {
  const found = [];
  const places = [...document.querySelectorAll("svg text, dl div")].map(
    element => [element, element.getBoundingClientRect()]);
  for (const [i, [one, a]] of places.entries())
    for (const [other, b] of places.slice(i + 1))
      if (a.left + 0.5 < b.right && b.left + 0.5 < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
        found.push(one.textContent + " | " + other.textContent);
  return found;
}
"""


@pytest.fixture
def vgg(capsys, tmp_path, monkeypatch):
    """The command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def command(*arguments, columns=None):
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as ended:
            main(["show", *map(str, arguments)])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return command


@pytest.mark.parametrize("columns", [80, 140, None])
def test_the_table_fits_the_terminal(vgg, columns):
    """Oracle: no line is longer than the terminal, and no cell is cut."""
    code, out, err = vgg(columns=columns)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= (columns or 140)
    assert "…" not in out
    lines = [line.split() for line in out.splitlines()]
    if columns == 80:
        assert ["conv3_1", "256x56x56", "3x3/1/1", "295,168", "924.8", "3,136", "24"] in lines
        assert ["total", "138,357,544", "15,470.3", "59,620"] in lines
    else:
        assert [
            "block",
            "3",
            "conv3_1",
            "256x56x56",
            "3x3/1/1",
            "256",
            "ReLU",
            "295,168",
            "924.8",
            "3,136",
            "24",
        ] in lines
    assert "head: 123,642,856 parameters (89.4 %), 0.8 % of the MACs" in out


def test_options_reach_the_table(vgg):
    """Oracle: the library, asked the same."""
    code, out, _ = vgg("A_bn", "--input", 96, "--head", "gap", "--width", 0.5, "--classes", 7, "--json")
    expected = layer_table("A_bn", size=96, head="gap", width=0.5, num_classes=7)
    assert code == 0
    assert json.loads(out) == json.loads(to_json(layer_table_dict(expected)))


@pytest.mark.parametrize("network", ["vgg19", "vgg8_bn-cifar10-fast"])
@pytest.mark.parametrize(("width", "scheme", "paper"), [(360, "light", 255), (1400, "dark", 20)])
def test_the_page_in_a_browser(vgg, browser, network, width, scheme, paper):
    """Oracle: Chromium: no error, no request, nothing wider than the window, no text on another, the right colors."""
    code, _, err = vgg(network, "--html", "page.html", "--svg", "drawing.svg")
    assert (code, err) == (0, "written: drawing.svg\nwritten: page.html\n")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    told, requests = [], []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(Path("page.html").absolute().as_uri())
    assert told == []
    assert [url for url in requests if not url.startswith("data:")] == [page.url]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(OVERLAPS) == []
    for selector in ("body", "svg.network .sheet"):
        color = "e => { const s = getComputedStyle(e); return e.matches('rect') ? s.fill : s.backgroundColor; }"
        assert page.eval_on_selector(selector, color).startswith(f"rgb({paper},")
    assert page.locator("tbody tr").count() == len(layer_table(network).rows)
    page.goto(Path("drawing.svg").absolute().as_uri())
    assert told == []
    page.close()


def test_paper(vgg):
    """Oracle: the paper: a line each of Tables 1 to 6."""
    code, out, _ = vgg("--paper", columns=80)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert ["LRN", *["conv3-64"] * 4] in lines
    assert ["E", "144", "M", "143,667,240"] in lines
    assert ["C", "256", "to", "512", "384", "dense", "27.3", "8.8"] in lines
    assert ["B", "256", "224,", "256,", "288", "dense", "28.2", "9.6"] in lines
    assert ["E", "256", "to", "512", "256,", "384,", "512", "multi-crop", "and", "dense", "24.4", "7.1"] in lines
    assert ["D", "and", "E", "256", "to", "512", "256,", "384,", "512", "dense", "24.0", "7.1"] in lines
    found = json.loads(vgg("--paper", "--json")[1])
    assert list(found) == [f"table_{number}" for number in range(1, 7)]
    assert found["table_2"]["E"] == {"paper_millions": 144, "parameters": 143_667_240}
    assert found["table_3"][0]["network"] == "A"
    assert found["table_6"][0]["top5_error"] == 7.1


def test_where_the_claims_went(vgg):
    """Oracle: the contract: exit code 2, and one line that names the new command."""
    code, out, err = vgg("--claims", "--data", "cifar10")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "python -m experiments.tutorial.run" in err


def test_receptive_field(vgg):
    """Oracle: the file that is named."""
    code, out, err = vgg("--receptive-field", "fields.png")
    assert (code, out, err) == (0, "", "drawn: fields.png\n")
    assert Path("fields.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["vgg12"], "vgg12"),
        (["--input", "20"], "20 pixels"),
        (["--paper", "--receptive-field", "fields.png"], "--paper and --receptive-field"),
        (["vgg16", "--paper", "--html", "page.html"], "--html"),
        (["vgg16", "--data", "cifar10"], "--data"),
        (["--svg", "file/drawing.svg"], "file/drawing.svg"),
    ],
)
def test_mistakes(vgg, tmp_path, arguments, named):
    """Oracle: the documented exit code, and one line that names the culprit."""
    (tmp_path / "file").touch()
    code, _, err = vgg(*arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert named in err


@pytest.mark.parametrize("arguments", [["show", "vgg16"], ["predict", "photo.png"]])
def test_tables_and_predictions_take_no_heavy_library(arguments, tmp_path):
    """Oracle: the interpreter's list of modules. torchvision and torch._dynamo alone double the time to start."""
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    heavy = ("matplotlib", "torchvision", "torch._dynamo", "scipy", "jinja2")
    program = (
        "import sys; from vggnet.cli.main import main\n"
        f"try: main({[*arguments, '--json']})\n"
        f"finally: print([m for m in {heavy} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert len(result.stdout.splitlines()) > 1
    assert result.stdout.splitlines()[-1] == "[]"
