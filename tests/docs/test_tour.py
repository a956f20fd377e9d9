"""The tour notebook runs from start to end."""

import runpy
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "docs" / "tour.ipynb"


@pytest.mark.slow  # the README's Python blocks, which do most of it, run always
def test_the_tour_runs_from_start_to_end(tmp_path, monkeypatch, own_cache):
    """Oracle: the paper's Table 2 (138 million parameters in D); exact conversion; the picture, an eight."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "work").mkdir()
    notebook = nbformat.read(TOUR, as_version=4)
    runpy.run_path(str(ROOT / "scripts" / "tour.py"))["run"](notebook, tmp_path / "work")
    printed = [output.text for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output]
    assert any("138,357,544" in text for text in printed)
    assert any("equal outputs: True" in text for text in printed)
    assert printed[-1].endswith("('8',)\n")
    assert (tmp_path / "work" / "digits.safetensors").is_file()


def test_the_tour_has_what_it_printed():
    """Oracle: the numbers of a notebook that ran once, from start to end."""
    cells = [cell for cell in nbformat.read(TOUR, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
