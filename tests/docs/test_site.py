"""The site: complete, and built without a warning."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import vggnet
from vggnet.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


REFERENCE = re.compile(r"^\.\. auto\w+:: vggnet\.([\w.]+)$", re.MULTILINE)


def test_the_reference_has_every_public_name_once():
    """Oracle: the public names of `vggnet` and `vggnet.interpret`; the public functions of the other modules."""
    listed = REFERENCE.findall((ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8"))
    modules = {name: module for name in vggnet.__all__ if isinstance(module := getattr(vggnet, name), ModuleType)}
    assert sorted(name for name in listed if "." not in name) == sorted({*vggnet.__all__} - modules.keys() | {"errors"})
    assert {f"interpret.{name}" for name in vggnet.interpret.__all__} <= {*listed}
    assert modules.keys() - {"errors"} <= {name.split(".")[0] for name in listed}
    assert len({*listed}) == len(listed)


def test_every_experiment_has_a_page_of_the_site():
    """Oracle: the folders of experiments/; the index of experiments and the table of contents name each."""
    names = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/README.md"))
    pages = sorted(path.stem for path in (ROOT / "docs" / "experiments").glob("*.md"))
    assert pages == sorted([*names, "index"])
    listed = re.findall(r"\[(\w+)\]\((\w+)/README\.md\)", (ROOT / "experiments" / "README.md").read_text())
    assert sorted(listed) == [(name, name) for name in names]
    contents = re.findall(r"^experiments/(\w+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(contents) == pages


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_or_a_network(tmp_path):
    """Oracle: Sphinx; the pages themselves, which load nothing from elsewhere and have what was printed by the help."""
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ROOT / "docs", tmp_path], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//", html), page
    commands = (tmp_path / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f"usage: vgg {command}" in commands for command in (*COMMANDS, "weights fetch", "bench train"))
    assert "Create a VGG by name" in (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
