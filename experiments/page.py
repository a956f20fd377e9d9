"""The pages of experiments: tables of facts, sections between markers that are replaced, and the command line."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from vggnet.errors import VGGError
from vggnet.files import write_text
from vggnet.report.text import table
from vggnet.training.config import TrainConfig
from vggnet.training.presets import preset

ROOT = Path(__file__).resolve().parent.parent
OF_WEIGHTS = {"model", "width", "in_channels", "mean", "std"}  # fields of a training's config that its weights decide


def run(main: Callable[..., None]) -> None:
    """Call `main` with the options of the command line. A user's mistake is one line and exit code 2."""
    try:
        tyro.cli(main)
    except VGGError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped and saved; the same command continues", file=sys.stderr)
        sys.exit(130)


def insert(page: Path, name: str, section: str) -> None:
    """Replace what stands between the markers `begin NAME` and `end NAME`; a page without them gets a new section."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{section}\n{end}"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n".lstrip()
    write_text(page, text)


def facts(values: Mapping[str, str], environment: Mapping[str, Any]) -> str:
    """A table of two columns that ends with hardware, versions and date."""
    machine = {
        "hardware": f"{environment['cores']} cores of {environment['device']}, {environment['threads']} threads",
        "versions": f"vggnet {environment['vggnet']}, torch {environment['torch']}, Python {environment['python']}",
        "date": environment["date"],
    }
    lines = {**values, **{key: value for key, value in machine.items() if key not in values}}
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in lines.items())])


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> str:
    """A table of Markdown whose first `left` columns are aligned left."""
    return table(headings, rows, left=range(left), markdown=True)


def train_command(description: Mapping[str, Any], data: str | None = None) -> str:
    """The command of a run, with the place of the data as a variable. What the initial weights decide is not repeated.

    Args:
        description: `config`, `preset`, `init_from` and `data` as in a run folder's config.json.
        data: a variable; by default made from the name of the data's folder.
    """
    data = data or f"${Path(description['data']).name.upper()}"
    name, weights = description["preset"], description["init_from"]
    config = TrainConfig.from_dict(description["config"]).as_options()
    if weights:
        config = {key: value for key, value in config.items() if key not in OF_WEIGHTS}
    given = f" --init-from {weights}" if weights else ""
    changed = changed_options(config, preset(name).as_options())
    return " ".join([f"vgg train --data {data}", f"--preset {name}{given}", *changed])


def changed_options(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The options of a command line whose values differ from the defaults."""
    return [_option(key, value) for key, value in config.items() if value != defaults[key]]


def _option(field: str, value: Any) -> str:
    name = field.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
