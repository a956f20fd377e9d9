"""Fill the templates of HTML pages and SVG drawings; everything but markup of ours is escaped."""

from vggnet.errors import require

require("jinja2", "report")

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The text of a page or drawing. `template` is a file of `TEMPLATES`; markup is given as `markupsafe.Markup`."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = lambda value, digits=2: (
        "–" if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"
    )
    environment.filters["number"] = lambda value, digits=0: "–" if value is None else f"{value:,.{digits}f}"
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    environment.filters["plain"] = _plain
    for name in ("page.css", "page.js"):
        environment.globals[name.replace(".", "_")] = (TEMPLATES / name).read_text(encoding="utf-8")
    return environment


def _plain(value: Any) -> str:
    """A value of a configuration."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)
