"""The public face: names, imports, and the command's manners."""

import subprocess
import sys
from pathlib import Path

import pytest

import vggnet
from vggnet.cli import main as cli

VGG = Path(sys.executable).with_name("vgg")


def run(*arguments):
    return subprocess.run([VGG, *map(str, arguments)], capture_output=True, text=True)


def test_public_names_exist_and_are_listed():
    """Oracle: the list itself, each name imported; nothing public is missing from it."""
    for name in vggnet.__all__:
        assert getattr(vggnet, name) is not None
    assert sorted(vggnet._MODULE_OF) == sorted(vggnet.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        vggnet.nothing  # noqa: B018 (the attribute raises)


def test_no_public_function_has_the_name_of_a_submodule():
    """Oracle: the files of the package."""
    package = Path(vggnet.__file__).parent
    modules = {path.stem for path in package.iterdir() if path.name != "__init__.py"}
    assert not modules & set(vggnet.__all__)


@pytest.mark.parametrize("statement", ["import vggnet", "import vggnet.cli.main", "import vggnet.training.config"])
def test_light_imports_stay_light(statement):
    """Oracle: the interpreter's list of modules."""
    check = f"{statement}; import sys; print([m for m in ('torch', 'numpy', 'datasets', 'tyro') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_shows_an_example(command):
    """Oracle: the promise of the overview."""
    help_text = run(command, "--help")
    assert help_text.returncode == 0
    assert f"Example: vgg {command}" in help_text.stdout


def test_overview_lists_every_command():
    """Oracle: the modules of the package `cli`, but for those that commands share."""
    overview = run("--help").stdout
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {
        "__init__",
        "main",
        "parsing",
        "bars",
        "ranks",
    }
    assert modules == set(cli.COMMANDS)
    assert all(f"\n  {command} " in overview for command in modules)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fly"], "fly"),
        (["train", "--data", "/nowhere"], "/nowhere"),
        (["train", "--data", "digits", "--preset", "article", "--model", "vgg12"], "vgg12"),
        (["train", "--data", "digits", "--lr", "-1"], "lr"),
        (["train", "--data", "digits", "--device", "tpu9"], "tpu9"),
        (["train", "--resume", "/nowhere"], "/nowhere"),
        (["test", "/nowhere"], "/nowhere"),
        (["predict", "/nowhere", "photo.jpg"], "/nowhere"),
        (["data", "/nowhere"], "/nowhere"),
        (["data"], "DATA"),
        (["bench", "fly"], "fly"),
        (["report", "/nowhere"], "/nowhere"),
        (["report"], "run"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, named):
    """Oracle: the documented exit code; one line on stderr that names the culprit, nothing on stdout."""
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("vgg: ")
    assert named in result.stderr


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    """Oracle: an error that no user causes is not turned into a line."""
    monkeypatch.setattr("vggnet.data.inspection.inspect", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["data", "digits"])


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch, capsys):
    """Oracle: the documented exit code."""

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("vggnet.data.inspection.inspect", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "digits"])
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "stopped\n")


def test_ctrl_c_during_an_import_is_one_line_and_exit_code_130():
    """Oracle: the documented exit code; the signal comes while a module is looked for."""
    program = """
import os, signal, sys
from vggnet.cli.main import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with Ctrl-C ignored

class Finder:
    def find_spec(self, name, *others):
        if name == "tyro":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
main(["data", "digits"])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "stopped\n")
