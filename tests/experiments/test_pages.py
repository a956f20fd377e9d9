"""The committed pages are those that the scripts write from the committed rows, without measuring anything."""

import re
import shutil
from importlib import import_module

import pytest

from experiments import page
from experiments.page import ROOT, insert, train_command
from vggnet.training.presets import preset

SCRIPTS = (
    "benchmarks.run", "benchmarks.serving", "comparison.run", "dense_tasks.run", "depth.run", "drawbacks.run",
    "explain.run", "localization.run", "same_training.run", "shrink.run", "speed.run", "style.run",
    "transfer.finetune", "transfer.run", "tutorial.run",
)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_page_is_what_the_script_writes(script, tmp_path, command):
    """Oracle: the committed README.md, all of it: the text between the markers comes from the rows, the rest stays."""
    module = import_module(f"experiments.{script}")
    committed = module.ROWS.with_name("README.md").read_text(encoding="utf-8")
    for name in (module.ROWS.name, "README.md"):
        shutil.copy(module.ROWS.with_name(name), tmp_path / name)
    assert command(module.main, rows=tmp_path / module.ROWS.name) == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == committed
    assert (tmp_path / module.ROWS.name).read_bytes() == module.ROWS.read_bytes()


def test_every_script_with_rows_is_above():
    """Oracle: the files that name rows."""
    found = {path for path in (ROOT / "experiments").glob("*/*.py") if "ROWS = Path(" in path.read_text()}
    assert {path.relative_to(ROOT / "experiments").with_suffix("").as_posix() for path in found} == {
        script.replace(".", "/") for script in SCRIPTS
    }


def test_every_command_of_the_documentation_is_a_module():
    """Oracle: the files of experiments/ and scripts/, for each page and message that names one."""
    pages = [
        path for pattern in ("*.md", "docs/**/*.md", "experiments/**/*", "src/**/*.py") for path in ROOT.glob(pattern)
    ]
    texts = [
        path.read_text(encoding="utf-8") for path in pages if path.suffix in (".md", ".py") and path.name != "log.md"
    ]
    named = {name for text in texts for name in re.findall(r"python -m ((?:experiments|scripts)\.[a-z_.]+\w)", text)}
    assert "experiments.depth.run" in named
    assert not [name for name in named if not (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()]
    scripts = {name for text in texts for name in re.findall(r"python (scripts/\w+\.py)", text)}
    assert not [name for name in scripts if not (ROOT / name).is_file()]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "experiments").glob("*/README.md")))
def test_every_page_says_how_it_was_made(name):
    """Oracle: the list of what a page states."""
    text = (ROOT / "experiments" / name / "README.md").read_text(encoding="utf-8")
    for what in ("**Question.**", "**Answer.**", "**Command.**", "Seeds.**" if "Seeds" in text else "seed"):
        assert what in text
    assert "hardware" in text or "threads" in text


def test_sections_are_replaced_and_the_rest_stays(tmp_path):
    """Oracle: by hand; a backslash and a group reference are text."""
    path = tmp_path / "README.md"
    insert(path, "one", "1")
    insert(path, "two", r"\1 \g<0>")
    path.write_text(f"# Title\n\n{path.read_text()}\nThe end.\n")
    insert(path, "one", "new")
    assert path.read_text() == (
        "# Title\n\n<!-- begin one -->\nnew\n<!-- end one -->\n\n"
        "<!-- begin two -->\n\\1 \\g<0>\n<!-- end two -->\n\nThe end.\n"
    )


def test_the_command_of_a_run():
    """Oracle: by hand: options that differ from the preset; what the weights decide is not repeated."""
    config = preset("digits").as_options() | {"epochs": 3, "nesterov": False, "ema": 0.5}
    run = {"preset": "digits", "init_from": None, "data": "/data/my-digits/", "config": config}
    expected = "vgg train --data $MY-DIGITS --preset digits --epochs 3 --no-nesterov --ema 0.5"
    assert sorted(train_command(run).split()) == sorted(expected.split())
    tuned = {**run, "init_from": "runs/a", "config": config | {"model": "vgg16", "width": 0.125}}
    assert "--init-from runs/a" in train_command(tuned, "$D")
    assert "--model" not in train_command(tuned)


def test_mistakes_and_interruptions_are_one_line(capsys, monkeypatch):
    """Oracle: the contract: exit code 2 or 130, one line."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["run.py"])
    with pytest.raises(SystemExit) as ended:
        page.run(interrupted)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped and saved; the same command continues\n"
