"""How Sphinx builds the site: `make docs`, without a network."""

import json
import os
import re
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Any

from sphinx.application import Sphinx

from vggnet.cli.main import COMMANDS, main

project = "vggnet"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
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

# A line that begins a paragraph of its own in our docstrings: "Raises: ...", "width: ...", "scales, flip: ...".
NAMED = re.compile(r"(?P<names>[\w`]+(?:, [\w` ]+)*): (?P<text>.*)")
SUBCOMMAND = re.compile(r"^ +• ([\w-]+)", re.MULTILINE)  # as the help lists it


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", write_docstring)


def read_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Notebooks become Markdown; the page of commands gets what they say of themselves."""
    if app.env.doc2path(name).suffix == ".ipynb":
        source[0] = "\n\n".join(map(cell_as_markdown, json.loads(source[0])["cells"]))
    elif name == "reference/commands":
        source[0] += "\n".join(help_section([command], "##") for command in COMMANDS)


def cell_as_markdown(cell: dict[str, Any]) -> str:
    """A cell of a notebook (nbformat 4), with its text and pictures."""
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return text
    parts = [f"```python\n{text}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(f"![What the code above draws](data:image/png;base64,{''.join(data['image/png']).strip()})")
        else:
            parts.append(f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts)


def help_section(words: list[str], heading: str) -> str:
    """What `vgg WORDS --help` prints, and the same of its subcommands."""
    os.environ["COLUMNS"] = "86"  # what fits on a page
    with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
        main([*words, "--help"])
    text = "\n".join(map(str.rstrip, printed.getvalue().splitlines())).strip()
    parts = [f"\n{heading} vgg {' '.join(words)}\n", f"```text\n{text}\n```"]
    parts += [help_section([*words, name], f"{heading}#") for name in SUBCOMMAND.findall(text)]
    return "\n".join(parts)


def write_docstring(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are plain text: mark the names that begin a paragraph, and what lies between backticks."""
    paragraphs: list[str] = []
    inside = named = False  # a paragraph; one that began with a name
    for line in "\n".join(lines).replace(".  Raises: ", ".\n\nRaises: ").splitlines():
        begins = NAMED.fullmatch(line)
        ended = named and line[:1].isupper()  # what follows the indented lines of a name
        if inside and line and not begins and not ended:
            paragraphs[-1] += f" {line.strip()}"
        elif line:
            paragraphs.append(f"**{begins['names'].replace('`', '')}:** {begins['text']}" if begins else line)
            named = begins is not None
        inside = bool(line)
    lines[:] = [line for paragraph in paragraphs for line in (as_rest(paragraph), "")]


def as_rest(text: str) -> str:
    """Code between single backticks becomes reStructuredText's, and what has a meaning there is escaped."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"(?<!\*)\*(?!\*)|[\\|]|_\b", r"\\\g<0>", piece) for piece in pieces[::2]]
    return "``".join(pieces)
