"""Mutation testing: which changed lines of the core modules do their own tests notice?

    python scripts/mutate.py                 all modules of MODULES, about an hour and a half on two cores
    python scripts/mutate.py metrics heads   some of them
    python scripts/mutate.py --collect heads what an interrupted run has found so far

Each module is mutated by mutmut in a copy of the repository (build/mutation/NAME), and only the tests named here run.
A survivor that changes nothing but the words of a message, or the `strict` of a zip of equally long sequences, is
counted apart. The outcomes are kept in docs/mutation.json; docs/mutation.md is made from it: a table, and every other
survivor as a diff.
"""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutation"
OUTCOMES = ROOT / "docs" / "mutation.json"
PAGE = ROOT / "docs" / "mutation.md"
STRICT = re.compile(r", (strict=\w+)?(?=\))")
CALLER = "tests/weights/test_checkpoint.py::test_a_warning_names_the_line_of_the_caller"  # mutmut adds frames
BEGIN, END = "<!-- begin mutation -->", "<!-- end mutation -->"

MODULES = {  # name: source file, the tests that must notice
    "preprocess": ("src/vggnet/data/preprocess.py", ["tests/data/test_preprocess.py"]),
    "augmentation": ("src/vggnet/data/augmentation.py", ["tests/data/test_augmentation.py"]),
    "metrics": ("src/vggnet/metrics.py", ["tests/test_metrics.py"]),
    "heads": ("src/vggnet/models/heads.py", ["tests/models/test_heads.py"]),
    "schedules": ("src/vggnet/training/schedules.py", ["tests/training/test_schedules.py"]),
    "checkpoint": (
        "src/vggnet/weights/checkpoint.py",
        ["tests/weights/test_checkpoint.py", "tests/weights/test_shared_model.py"],
    ),
    "classify": ("src/vggnet/tasks/classify.py", ["tests/tasks/test_classify.py"]),
    "localize": ("src/vggnet/tasks/localize.py", ["tests/tasks/test_localize.py"]),
    "box_geometry": ("src/vggnet/tasks/box_geometry.py", ["tests/tasks/test_box_geometry.py"]),
    "box_evaluation": ("src/vggnet/tasks/box_evaluation.py", ["tests/tasks/test_box_evaluation.py"]),
    "class_evaluation": ("src/vggnet/tasks/class_evaluation.py", ["tests/tasks/test_class_evaluation.py"]),
    "protocols": ("src/vggnet/tasks/protocols.py", ["tests/tasks/test_protocols.py"]),
    "windows": ("src/vggnet/tasks/windows.py", ["tests/tasks/test_windows.py"]),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The mutants of one module."""

    name: str
    killed: int
    wording: int  # survivors that change the words of a message alone, or a zip's `strict`
    survivors: dict[str, str]  # name of each other survivor -> its diff
    untried: int  # mutants of an interrupted run
    date: str

    @property
    def share(self) -> float:
        """0..1, killed ones among those that change more than words."""
        return self.killed / max(self.killed + len(self.survivors), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MODULES, []], help="modules; by default all")
    parser.add_argument("--collect", action="store_true", help="run nothing: count what is there of an interrupted run")
    arguments = parser.parse_args()
    for name in arguments.names or list(MODULES):
        if not arguments.collect:
            mutate(name)
        keep(collect(name))


def mutate(name: str) -> None:
    """Run mutmut on one module."""
    source, tests = MODULES[name]
    folder = BUILD / name
    shutil.rmtree(folder, ignore_errors=True)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for file in tracked.stdout.splitlines():
        if file.startswith(("src/", "tests/")) or "/" not in file:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(configuration(source, tests))
    print(f"{name}: {source}", flush=True)
    mutmut(folder, "run")


def collect(name: str) -> Outcome:
    """Sort the mutants of a module."""
    folder = BUILD / name
    killed, wording, untried, survivors = 0, 0, 0, {}
    for line in mutmut(folder, "results", "--all", "true").splitlines():
        mutant, _, status = line.strip().rpartition(": ")
        if status in ("killed", "timeout", "suspicious", "segfault"):
            killed += 1
        elif status in ("survived", "no tests"):
            diff = mutmut(folder, "show", mutant)
            if changes_wording_only(diff):
                wording += 1
            else:
                survivors[mutant] = "\n".join(re.findall(r"^[-+] .*$", diff, re.MULTILINE))
        elif mutant:
            untried += 1
    print(
        f"{name}: {killed} killed, {len(survivors)} survived, {wording} change words alone, {untried} not tried",
        flush=True,
    )
    today = f"{date.today():%Y-%m-%d}"
    return Outcome(name=name, killed=killed, wording=wording, survivors=survivors, untried=untried, date=today)


def keep(outcome: Outcome) -> None:
    """Keep the outcome in place of an earlier one of the module, and write the page."""
    outcomes = json.loads(OUTCOMES.read_text(encoding="utf-8")) if OUTCOMES.is_file() else {}
    outcomes[outcome.name] = vars(outcome)
    OUTCOMES.write_text(json.dumps(outcomes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page()


def configuration(source: str, tests: list[str]) -> str:
    """The section of pyproject.toml that mutmut reads."""
    return f"""
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["{source}"]
also_copy = ["src", "README.md", "LICENSE"]
pytest_add_cli_args_test_selection = {json.dumps(tests)}
pytest_add_cli_args = ["-x", "-q", "--deselect", "{CALLER}"]
process_isolation = "forkserver"
track_dependencies = false
use_git_change_detection = false
"""


def mutmut(folder: Path, *arguments: str) -> str:
    """What mutmut prints. OpenMP gets one thread: its pool does not survive a fork."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"mutmut {' '.join(arguments)} failed in {folder}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def changes_wording_only(diff: str) -> bool:
    """Whether a diff changes string literals with a space in them, or `strict`, and nothing else."""
    before, after = ("\n".join(re.findall(rf"^[{sign}](?![{sign}])(.*)$", diff, re.MULTILINE)) for sign in "-+")
    if STRICT.sub("", before) == STRICT.sub("", after):
        return True
    try:
        old, new = tokens(before), tokens(after)
    except (tokenize.TokenError, IndentationError):
        return False
    if [kind for kind, _ in old] != [kind for kind, _ in new]:
        return False
    changed = [(kind, one, two) for (kind, one), (_, two) in zip(old, new, strict=True) if one != two]
    return bool(changed) and all(kind == tokenize.STRING and " " in one for kind, one, _ in changed)


def tokens(text: str) -> list[tuple[int, str]]:
    """Kind and text of the tokens of a piece of code."""
    readable = io.StringIO("(" + text.strip() + ")").readline
    return [(token.type, token.string) for token in tokenize.generate_tokens(readable)]


def write_page() -> None:
    """Replace the generated part of docs/mutation.md by the outcomes that are kept."""
    rows = [
        "| module | tests | mutants | killed | survived | words of messages | not tried | date |",
        "|---|---|---|---|---|---|---|---|",
    ]
    survivors = []
    kept = json.loads(OUTCOMES.read_text(encoding="utf-8"))
    for name, (source, tests) in MODULES.items():
        if name not in kept:
            continue
        outcome = Outcome(**kept[name])
        total = outcome.killed + len(outcome.survivors)
        counts = f"{total} | {outcome.killed} ({100 * outcome.share:.1f} %) | {len(outcome.survivors)}"
        others = f"{outcome.wording} | {outcome.untried} | {outcome.date}"
        rows.append(f"| `{source}` | {', '.join(f'`{test}`' for test in tests)} | {counts} | {others} |")
        survivors += [f"`{mutant}`\n\n```diff\n{diff}\n```\n" for mutant, diff in outcome.survivors.items()]
    made = f"mutmut {version('mutmut')}, `make mutate`"
    generated = "\n".join([BEGIN, "", made, "", *rows, "", "## Survivors", "", *survivors, END])
    text = PAGE.read_text(encoding="utf-8")
    start, end = text.index(BEGIN), text.index(END) + len(END)
    PAGE.write_text(text[:start] + generated + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
