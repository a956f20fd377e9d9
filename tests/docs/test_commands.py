"""The commands of the documentation are commands of the program."""

import ast
import re
import shlex
import tomllib
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest

from vggnet.cli import main as cli
from vggnet.cli import parsing

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
GUIDES = [path for path in sorted(ROOT.glob("docs/**/*.md")) if path.name != "log.md"]
PAGES = [ENGLISH, CHINESE, *GUIDES, *sorted(ROOT.glob("experiments/**/*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Parsed(Exception):  # noqa: N818 (no error)
    """A command was understood; nothing has been done yet."""


def blocks(path, language):
    return [text for found, text in BLOCK.findall(path.read_text(encoding="utf-8")) if found == language]


def inline(path):
    """What stands between single backticks, in one line each."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def typed(path):
    """The lines of blocks to be typed, without comments, as words."""
    lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def mentioned(path):
    """Commands named in the text: `vgg data`, `vgg test --views 6`; not `vgg COMMAND`."""
    found = [code.split() for code in inline(path)]
    return [words for words in found if words[0] == "vgg" and len(words) > 1 and not words[1].isupper()]


@pytest.fixture
def only_parsed(monkeypatch):
    """Commands end once their options are read, before anything is opened."""
    parse = parsing.tyro.cli

    def understand(*arguments, **options):
        found = parse(*arguments, **options)
        if options.get("return_unknown_args"):
            return found
        raise Parsed

    monkeypatch.setattr(parsing.tyro, "cli", understand)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_to_be_typed_is_understood(path, only_parsed):
    """Oracle: the program's own parser."""
    for words in typed(path):
        if words[0] == "torchrun":
            words = words[words.index("vgg") :]
        if words[0] == "vgg":
            assert words[1] in cli.COMMANDS, words
            with pytest.raises(Parsed):
                import_module(f"vggnet.cli.{words[1]}").main(words[2:])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_the_text_mentions_exists(path):
    """Oracle: the help of the command and of its subcommands, where every option is listed."""
    for _, command, *rest in mentioned(path):
        assert command.startswith("--") or command in cli.COMMANDS, command
        subcommands = re.findall(r"• ([\w-]+)", help_of(command))
        named = [[command, word] for word in subcommands if word in rest[:1]]
        helps = (help_of(*words) for words in named or [[command], *([command, word] for word in subcommands)])
        listed = {option for text in helps for option in re.findall(r"--[\w-]+", text)}
        assert {word for word in rest if word.startswith("--")} <= listed, (command, *rest)


@cache
def help_of(*words):
    with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
        cli.main([*words, "--help"])
    return printed.getvalue()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_extras_exist(path):
    """Oracle: pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"(?:vggnet|\.)\[([\w,]+)\]", path.read_text(encoding="utf-8"))
    assert {extra for group in named for extra in group.split(",")} <= extras.keys()


def test_the_chinese_readme_has_the_commands_of_the_english_one():
    """Oracle: the English one; only comments, headings and text are translated."""
    assert typed(CHINESE) == typed(ENGLISH)
    trees = [[ast.dump(ast.parse(block)) for block in blocks(path, "python")] for path in (ENGLISH, CHINESE)]
    assert trees[0] == trees[1]
    assert sorted(set(inline(CHINESE))) == sorted(set(inline(ENGLISH)))


def test_the_readmes_have_the_same_sections_tables_and_links():
    """Oracle: the English one, without its line that leads to the Chinese one and back."""
    texts = [BLOCK.sub("", path.read_text(encoding="utf-8")) for path in (ENGLISH, CHINESE)]
    headings = [[len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)] for text in texts]
    rows = [re.findall(r"^\|", text, re.MULTILINE) for text in texts]
    links = [sorted(set(re.findall(r"\]\(([^)]+)\)", text)) - {ENGLISH.name, CHINESE.name}) for text in texts]
    assert headings[0] == headings[1]
    assert len(rows[0]) == len(rows[1])
    assert links[0] == links[1]
