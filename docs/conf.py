"""Sphinx configuration. `make docs` builds the site offline."""

import json
import os
import re
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from vggnet.cli.main import COMMANDS, main

project = "vggnet"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}  # `read_page` makes Markdown of a notebook
html_theme = "furo"
html_title = "vggnet"
html_copy_source = False
html_show_copyright = False
smartquotes = False  # options begin with two hyphens
myst_heading_anchors = 3  # levels of headings that can be linked to
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
default_role = "code"  # docstrings write `name`
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source", "Shapes"]

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"
SUBCOMMAND = re.compile(r"^ +• ([\w-]+)", re.MULTILINE)  # as the help lists it


def setup(app: Sphinx) -> None:
    """Register the page converter."""
    app.connect("source-read", read_page)


def read_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Convert notebooks to Markdown, insert what pages show of other files, and adapt links to experiments."""
    if app.env.doc2path(name).suffix == ".ipynb":
        source[0] = "\n\n".join(map(cell_as_markdown, json.loads(source[0])["cells"]))
    elif name.startswith("experiments/"):
        source[0] = experiment_page(app, name.removeprefix("experiments/"))
    elif name == "reference/commands":
        source[0] += "\n".join(help_section([command], "##") for command in COMMANDS)
    elif name == "chinese":
        app.env.note_dependency(str(ROOT / "README.zh-CN.md"))
        source[0] = readme_page((ROOT / "README.zh-CN.md").read_text(encoding="utf-8"))
    source[0] = re.sub(
        r"\]\(((?:\.\./)*)\.\./experiments/(?:(\w+)/)?README\.md",
        lambda link: f"]({link[1]}experiments/{link[2] or 'index'}.md",
        source[0],
    )


def readme_page(text: str) -> str:
    """A README with the links of a page in docs/, without the links to its translation and to the changelog."""
    body = text.partition("\n")[2].rpartition("\n\n")[0]
    return body.replace("](docs/", "](").replace("](experiments/", "](../experiments/")


def experiment_page(app: Sphinx, name: str) -> str:
    """The README.md of an experiment, or of all of them, with the links of a page in docs/experiments/."""
    page = EXPERIMENTS / ("" if name == "index" else name) / "README.md"
    app.env.note_dependency(str(page))
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"\]\((?:\.\./)?(\w+)/README\.md\)", r"](\1.md)", text)
    text = re.sub(r"\[[\w.]+\]\((\w+\.jsonl)\)", rf"{{download}}`\1 <../../experiments/{name}/\1>`", text)
    return re.sub(r"\]\(([\w-]+\.(?:png|jpg))\)", rf"](../../experiments/{name}/\1)", text)


def cell_as_markdown(cell: dict[str, Any]) -> str:
    """Convert one cell of a notebook (nbformat 4), with its text output and images."""
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return text
    parts = [f"```python\n{text}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(f"![Output of the code above](data:image/png;base64,{''.join(data['image/png']).strip()})")
        else:
            parts.append(f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts)


def help_section(words: list[str], heading: str) -> str:
    """The output of `vgg WORDS --help`, and of the help of its subcommands."""
    os.environ["COLUMNS"] = "86"  # fits the width of the page
    with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
        main([*words, "--help"])
    text = "\n".join(map(str.rstrip, printed.getvalue().splitlines())).strip()
    parts = [f"\n{heading} vgg {' '.join(words)}\n", f"```text\n{text}\n```"]
    parts += [help_section([*words, name], f"{heading}#") for name in SUBCOMMAND.findall(text)]
    return "\n".join(parts)
