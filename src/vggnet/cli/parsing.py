"""Parse a command line by tyro, and turn its error messages, boxes of many lines, into one line.

tyro has no public interface to its errors: `tyro._errors` is private and asks to pin its version, so the printed
text is read.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from typing import Annotated, Any, Literal

import tyro

from vggnet.errors import ConfigError

PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16"],
    tyro.conf.arg(
        help="of the products of convolutions on a CPU; auto: bfloat16 on CPUs with a matrix unit for it (AMX), where "
        "it is about twice as fast, else float32"
    ),
]

_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_RULE = re.compile("^[╰─╯-]{3,}$", re.MULTILINE)  # with hyphens where the output's encoding is not UTF-8
_PLAINER = {
    "Error parsing ": "",
    "Argument helptext:": "Expected",
    "no type matching": "expected",
    "could be instantiated from": "but found",
    "invalid literal for int() with base 10:": "not a whole number:",
    "could not convert string to float:": "not a number:",
    "Expected 1 values": "Expected one value",
}


def parse(kind: Any, arguments: list[str], *, prog: str, **options: Any) -> Any:
    """`tyro.cli(kind, **options)`: what is asked for, or the help and the end of the program.

    Raises: ConfigError naming the option, what was found, and what is expected.
    """
    printed = StringIO()
    asks_for_help = {"-h", "--help"} & set(arguments)
    try:
        with nullcontext() if asks_for_help else _wide(), redirect_stderr(printed):
            return tyro.cli(kind, args=arguments, prog=prog, **options)
    except SystemExit as ended:
        if not ended.code:
            raise
    raise ConfigError(f"{_in_one_line(printed.getvalue())} See {prog} --help.")


@contextmanager
def _wide() -> Iterator[None]:
    """A terminal so wide that no line is broken."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _in_one_line(box: str) -> str:
    """A sentence for each section below the title: its first paragraph, but not where help is to be found."""
    lines = [line.strip("│ ") for line in _COLORS.sub("", box).strip().splitlines()[1:]]
    paragraphs = [section.strip().split("\n\n")[0] for section in _RULE.split("\n".join(lines))]
    told = [text for text in paragraphs if text and not text.startswith("For full helptext")]
    message = " ".join(f"{' '.join(text.split()).rstrip('.')}." for text in told)
    for words, plainer in _PLAINER.items():
        message = message.replace(words, plainer)
    return message
