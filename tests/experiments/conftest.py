"""What tests of experiments share: their command line, and tables of Markdown as cells."""

import pytest

from experiments import page


@pytest.fixture
def command(monkeypatch):
    """Call a script's `main` by its command line; returns the exit code."""

    def run(main, *arguments, **options):
        words = [str(argument) for argument in arguments]
        for name, value in options.items():
            given = [] if value is True else list(value) if isinstance(value, tuple) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, given)]
        monkeypatch.setattr("sys.argv", ["run.py", *words])
        try:
            page.run(main)
        except SystemExit as ended:
            return ended.code
        return 0

    return run


@pytest.fixture
def cells():
    """The lines of all tables in a text, as cells without the rules below the headings."""

    def read(text):
        lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in line] for line in lines if set("".join(line)) - set("-: ")]

    return read
