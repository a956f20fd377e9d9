"""The public face: names, imports, and the command's manners."""

import inspect
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import vggnet
from vggnet.cli import main as cli

VGG = Path(sys.executable).with_name("vgg")


def run(*arguments):
    return subprocess.run([VGG, *map(str, arguments)], capture_output=True, text=True)


PUBLIC = [
    "create_model",
    "load",
    "save",
    "Preprocess",
    "Architecture",
    "Checkpoint",
    "VGG",
    "train",
    "resume",
    "Run",
    "TrainConfig",
    "preset",
    "evaluate",
    "predict",
    "export",
    "accelerate",
    "restore",
    "FeatureExtractor",
    "extract_features",
    "interpret",
    "perceptual",
    "retrieval",
    "style",
    "weights",
    "hub",
    "errors",
]


def test_the_public_names_are_those_of_the_design():
    """Oracle: the list of the design, typed by hand."""
    assert sorted(vggnet.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(vggnet))
    for name in PUBLIC:
        assert getattr(vggnet, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        vggnet.nothing  # noqa: B018 (the attribute raises)


def test_the_version_is_that_of_the_installed_package():
    """Oracle: the metadata of the package, and the command; other dunder names stay missing."""
    assert vggnet.__version__ == version("vggnet")
    assert run("--version").stdout == f"vggnet {vggnet.__version__}\n"
    with pytest.raises(AttributeError, match="__nothing__"):
        vggnet.__nothing__  # noqa: B018 (the attribute raises)


def test_no_public_function_has_the_name_of_a_submodule():
    """Oracle: the files of the package; importing the submodule would hide the function."""
    package = Path(vggnet.__file__).parent
    modules = {path.stem for path in package.iterdir()}
    assert all(isinstance(getattr(vggnet, name), ModuleType) for name in modules & set(vggnet.__all__))


OLD = [
    "VGG",
    "Architecture",
    "build",
    "to_dense",
    "from_dense",
    "fold_repeated_pool",
    "train",
    "resume",
    "Run",
    "test",
    "TestResult",
    "localise",
    "LocalisationResult",
    "find_boxes",
    "FoundBox",
    "predict",
    "Prediction",
    "explain",
    "Explanation",
    "find_exciting",
    "maximise",
    "write_report",
    "Report",
    "features",
    "FeatureExtractor",
    "LPIPS",
    "DISTS",
    "ContentDistance",
    "StyleDistance",
    "style_transfer",
    "build_index",
    "find_similar",
    "find_duplicates",
    "load",
    "save",
    "Preprocess",
    "layer_table",
    "LayerTable",
    "fetch",
    "convert",
    "push_to_hub",
    "pull_from_hub",
    "accelerate",
    "restore",
    "VGGError",
    "ConfigError",
    "InputError",
    "DataError",
    "ImageError",
    "WeightsError",
    "RunError",
    "NonFiniteError",
    "StorageError",
]


@pytest.mark.parametrize("name", sorted(set(OLD) - set(PUBLIC) - {"features"}))
def test_old_names_work_with_a_warning(name):
    """Oracle: the names of version 0.1; the warning says where the name is now, and that is the same object."""
    with pytest.warns(DeprecationWarning, match=f"vggnet.{name} is vggnet") as warned:
        found = getattr(vggnet, name)
    assert warned[0].filename == __file__
    place = str(warned[0].message).split()[2].removeprefix("vggnet.")
    assert vggnet.lazy.find(f"vggnet.{place}") is found


def public_callables():
    """(path, function or class) of every public name, and of what is public in the public modules."""
    found = {}
    for name in vggnet.__all__:
        thing = getattr(vggnet, name)
        if not isinstance(thing, ModuleType):
            found[f"vggnet.{name}"] = thing
            continue
        names = getattr(thing, "__all__", None) or [
            name for name, value in vars(thing).items()
            if name[0] != "_" and callable(value) and getattr(value, "__module__", "") == thing.__name__
        ]  # fmt: skip
        found |= {f"vggnet.{name}.{inner}": getattr(thing, inner) for inner in names}
    return {path: thing for path, thing in found.items() if callable(thing)}


def functions_of(thing):
    """The function itself, or the public methods that a class defines."""
    if not inspect.isclass(thing):
        return [thing]
    methods = [value for name, value in vars(thing).items() if name[0] != "_" or name in ("__init__", "__call__")]
    methods = [getattr(method, "__func__", getattr(method, "fget", None) or method) for method in methods]
    return [method for method in methods if inspect.isfunction(method) and method.__module__.startswith("vggnet")]


def test_public_callables_have_types():
    """Oracle: `inspect`: each parameter but self and cls, and each result, has an annotation."""
    missing = []
    for path, thing in public_callables().items():
        for function in functions_of(thing):
            signature = inspect.signature(function)
            untyped = [name for name, p in signature.parameters.items() if p.annotation is p.empty]
            if set(untyped) - {"self", "cls"} or signature.return_annotation is signature.empty:
                missing.append(f"{path}: {function.__name__}")
    assert not missing
    assert len(public_callables()) > 60


def test_the_parts_of_a_stub_are_what_a_type_checker_sees(tmp_path):
    """Oracle: a stub by hand, with each kind of line."""
    (tmp_path / "part.pyi").write_text(
        "from . import a as a\nfrom .b.c import d as d, e\nfrom .f import hidden\n\ng = e\n"
    )
    assert vggnet.lazy.read_stub(str(tmp_path / "part.pyi")) == {"a": "a", "d": "b.c.d", "g": "b.c.e"}


@pytest.mark.parametrize("statement", ["import vggnet", "import vggnet.cli.main", "import vggnet.training.config"])
def test_light_imports_stay_light(statement):
    """Oracle: the interpreter's list of modules."""
    check = f"{statement}; import sys; print([m for m in ('torch', 'numpy', 'datasets', 'tyro') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_shows_an_example(command, capsys):
    """Oracle: the promise of the overview."""
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert not ended.value.code
    assert f"Example: vgg {command}" in capsys.readouterr().out


def test_python_m_is_the_command():
    """Oracle: the command itself."""
    found = subprocess.run([sys.executable, "-m", "vggnet", "--help"], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, run("--help").stdout)


def test_overview_lists_every_command():
    """Oracle: the modules of the package `cli`, but for those that commands share."""
    overview = run("--help").stdout
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {
        "__init__",
        "main",
        "parsing",
        "ranks",
    }
    assert modules == set(cli.COMMANDS)
    assert all(f"\n  {command} " in overview for command in modules)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fly"], "fly"),
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
def test_mistakes_are_one_line_and_exit_code_2(arguments, named, capsys):
    """Oracle: the documented exit code; one line on stderr that names the culprit, nothing on stdout."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert_one_line(ended.value.code, *capsys.readouterr(), named)


@pytest.mark.integration
def test_a_mistake_in_a_process_of_its_own():
    """Oracle: as above."""
    result = run("train", "--data", "/nowhere")
    assert_one_line(result.returncode, result.stdout, result.stderr, "/nowhere")


def assert_one_line(code, out, err, named):
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("vgg: ")
    assert named in err


@pytest.mark.integration
@pytest.mark.parametrize("arguments", [["--help"], ["show", "vgg11"], ["train", "--help"]], ids=" ".join)
def test_a_reader_that_has_seen_enough(arguments):
    """Oracle: the contract: nothing is complained of, as with `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([VGG, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.integration
def test_a_full_standard_output_is_one_line():
    """Oracle: the system's file that is always full."""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        result = subprocess.run([VGG, "show", "vgg11"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr == (
        "vgg: standard output cannot be written (No space left on device). Make room, or redirect it elsewhere.\n"
    )


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
