"""The Python code of the documentation uses what the package has."""

import ast
import inspect
import warnings
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted(ROOT.glob("docs/**/*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


def imported(tree):
    """{name: object} of the imports from vggnet."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {item.name: import_module(item.name) for item in node.names if item.name == "vggnet"}
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "vggnet":
            found |= {item.asname or item.name: resolve(node.module, item.name) for item in node.names}
    return found


def resolve(module, name):
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        return import_module(f"{module}.{name}")


def known(node, names):
    """The object that `vggnet.x.y` stands for; None where it is not the package's."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = known(node.value, names)
        return None if owner is None else getattr(owner, node.attr)  # AttributeError: there is no such name
    return None


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_names_and_arguments_exist(path, code_blocks):
    """Oracle: the package; a deprecated name gives a warning, which is an error here."""
    names = {}
    for block in code_blocks(path, "python"):
        tree = ast.parse(block)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            names |= imported(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute):
                    known(node, names)
                elif isinstance(node, ast.Call) and (called := known(node.func, names)) is not None:
                    keywords = {word.arg: None for word in node.keywords if word.arg}
                    inspect.signature(called).bind(*([None] * len(node.args)), **keywords)
