"""Packages whose public names are imported when they are first used.

The stub beside a package's `__init__.py` is the one list of its names; type checkers read the same file.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from types import ModuleType


def attach(package: str, init: str, old: Mapping[str, str] | None = None) -> Callable[[str], object]:
    """The `__getattr__` of a package.

    Args:
        package: its name, `__name__`.
        init: the path of its `__init__.py`, `__file__`; the stub ends in `.pyi`.
        old: names of earlier versions -> where they are now, as a path below `vggnet`. They give a DeprecationWarning.
    """
    renamed = old or {}

    @cache
    def public() -> dict[str, str]:
        return read_stub(f"{init.removesuffix('.py')}.pyi")

    def get(name: str) -> object:
        if name == "__all__":
            return list(public())
        if name == "__version__" and "." not in package:
            from importlib.metadata import version

            return version(package)
        if name.startswith("__"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if name in public():
            return find(f"{package}.{public()[name]}")
        if name in renamed:
            from warnings import warn

            message = f"{package}.{name} is vggnet.{renamed[name]} now; the old name goes with version 0.3."
            warn(message, DeprecationWarning, stacklevel=2)
            return find(f"vggnet.{renamed[name]}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get


def read_stub(path: str) -> dict[str, str]:
    """The public names of a stub -> where they are, in order.

    As for type checkers `from .a.b import c as c` makes `c` public (`a.b.c`), and `d = e` makes `d` public, which is
    where the stub imports `e` from.
    """
    import ast
    from pathlib import Path

    places: dict[str, str] = {}
    public: dict[str, str] = {}
    for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                places[alias.name] = f"{node.module}.{alias.name}" if node.module else alias.name
                if alias.asname == alias.name:
                    public[alias.name] = places[alias.name]
        elif (
            isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Name)
        ):
            public[node.targets[0].id] = places[node.value.id]
    return public


def find(path: str) -> object:
    """The object or module with this path; each step is a name in a module, or a module of a package."""
    first, *names = path.split(".")
    found: object = import_module(first)
    for name in names:
        if isinstance(found, ModuleType) and name not in vars(found):
            found = _inside(found, name)
        else:
            found = getattr(found, name)
    return found


def _inside(module: ModuleType, name: str) -> object:
    try:
        return import_module(f"{module.__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{module.__name__}.{name}":
            raise
        return getattr(module, name)
