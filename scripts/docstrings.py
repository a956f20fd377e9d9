"""Print the share of public callables whose docstring has Args (if they have parameters) and a doctest.

Public are the names of `vggnet` and what its public modules define; exceptions, and dataclasses in those modules, which
are results that users do not construct, are left out.

python scripts/docstrings.py [--missing]
"""

import inspect
import sys
from dataclasses import is_dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from test_api import public_callables


def main() -> None:
    found = {path: thing for path, thing in public_callables().items() if not is_result(path, thing)}
    has_args, has_doctest = {}, {}
    for path, thing in found.items():
        text = inspect.getdoc(thing) or ""
        has_args[path] = not set(inspect.signature(thing).parameters) - {"self"} or "Args:" in text
        has_doctest[path] = ">>>" in text
    for title, facts in (("Args", has_args), ("doctest", has_doctest)):
        print(f"{title}: {sum(facts.values())} of {len(facts)} ({100 * sum(facts.values()) / len(facts):.0f} %)")
        if "--missing" in sys.argv:
            print("  without:", ", ".join(path for path, has in facts.items() if not has))


def is_result(path: str, thing: object) -> bool:
    """Whether it is an exception, or a dataclass of a public module."""
    return isinstance(thing, type) and (
        issubclass(thing, Exception) or (is_dataclass(thing) and path.count(".") > 1) or hasattr(thing, "_fields")
    )


if __name__ == "__main__":
    main()
