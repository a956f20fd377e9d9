"""The study of speed: what is done is not done again, a stopped run goes on, and the numbers are the runs' own."""

import json
import math
from statistics import mean, stdev

import pytest

import vggnet
from experiments import training
from experiments.speed import figure
from experiments.speed import run as speed
from vggnet.benchmarking.timing import Bench
from vggnet.errors import ConfigError
from vggnet.training.presets import PRESETS, preset

pytestmark = pytest.mark.usefixtures("own_cache")
TINY = preset("digits").override(
    width=0.05, epochs=2, batch_size=512, optimizer="muon", flip="random", val_fraction=0.0
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two small presets on the digits, and an article whose steps take 2 seconds."""
    monkeypatch.setitem(PRESETS, "quick", lambda: TINY)
    monkeypatch.setitem(PRESETS, "fast", lambda: TINY.override(epochs=3))
    bench = Bench(work="", batch=128, seconds={speed.TUTORIAL: [1.0, 2.0, 9.0]}, environment={})
    monkeypatch.setattr(speed, "bench_tutorial", lambda: bench)

    def run(out="runs", **options):
        return speed.measure("digits", out=tmp_path / out, rows=tmp_path / "rows.jsonl", **options)

    return run


def test_rows_are_what_the_runs_and_their_tests_say(study, tmp_path):
    """Oracle: the run folder's history, and `vggnet.evaluate` called by itself."""
    found = study(presets=("quick",), seeds=1)
    row, article = found
    (run,) = (tmp_path / "runs").glob("quick-0-*")
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert row["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in history))
    assert row["top1"] == vggnet.evaluate(run, data="digits").top1
    assert row["top1_six_views"] == vggnet.evaluate(run, data="digits", views=6).top1
    assert article["estimate"] is True
    images = json.loads((run / "config.json").read_text())["images"]
    assert article["seconds"] == 2.0 * math.ceil(round(0.9 * images) / 128) * 50


def test_what_is_there_is_not_run_again(study, tmp_path):
    """Invariant: a second call trains nothing; a new seed or another recipe is one run more."""
    first = study(presets=("quick",), seeds=1)
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert study(presets=("quick",), seeds=1) == first
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    more = study(presets=("quick",), seeds=2)
    assert [(row["preset"], row["seed"]) for row in more] == [("quick", 0), ("article", 0), ("quick", 1)]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3


def test_a_stopped_study_goes_on_from_the_runs_checkpoint(study, tmp_path, monkeypatch):
    """Oracle: the accuracy of a study that was not stopped; the first run ends after one of its epochs, by Ctrl-C."""
    whole = study(presets=("quick",), seeds=1)[0]
    (tmp_path / "rows.jsonl").unlink()
    monkeypatch.setattr(
        training, "train_with", lambda data, config, options, *, out, **_: stopped_after_one_epoch(out, config, options)
    )
    with pytest.raises(KeyboardInterrupt):
        study(out="again", presets=("quick",), seeds=1)
    assert not (tmp_path / "rows.jsonl").exists()
    went_on = study(out="again", presets=("quick",), seeds=1)[0]
    for name in ("top1", "top1_six_views", "config", "operations_per_image"):
        assert went_on[name] == whole[name]


def stopped_after_one_epoch(out, config, options):
    """A run that Ctrl-C ends when its first epoch is written."""
    import os
    import signal

    from vggnet.training import train as real
    from vggnet.training.run import Run

    write = Run.write_history

    def interrupting(self, rows):
        write(self, rows)
        if len(rows) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "write_history", interrupting)
        return real.train_with("digits", config, options, out=out)


def test_table_by_hand(cells):
    """Oracle: mean and standard deviation of typed rows; an older recipe of the same preset does not count."""
    config = {**TINY.as_options(), "epochs": 10}
    rows = [
        {
            "preset": "quick", "seed": seed, "estimate": False, "top1": top1, "top1_six_views": top1 + 0.01,
            "seconds": 60.0 * (seed + 1), "operations_per_image": 1.5e9, "share_of_limit": 0.5,
            "config": {**config, "seed": seed, "lr": lr}, "environment": {"date": f"2026-11-0{seed + 1}"},
        }
        for seed, top1, lr in ((0, 0.1, 0.9), (0, 0.9, 0.5), (1, 0.92, 0.5))
    ]  # fmt: skip
    line = cells(speed.table(rows))[-1]
    assert line[0] == "quick"
    assert line[2:4] == ["10", "0, 1"]
    assert line[4] == f"{mean([90, 92]):.2f} ± {stdev([90, 92]):.2f}"
    assert line[6:] == ["1.5", "9.0", "1.50e+09", "50 %", "2026-11-02"]


def test_operations_by_hand():
    """Oracle: the multiplications of VGG-11's convolutions and its head at 32 pixels, layer by layer."""
    config = TINY.override(model="vgg11_bn", width=1.0, head="cifar")
    layers = [(3, 64, 32), (64, 128, 16), (128, 256, 8), (256, 256, 8), (256, 512, 4), (512, 512, 4)]
    layers += 2 * [(512, 512, 2)]
    multiplications = sum(9 * c * k * side**2 for c, k, side in layers) + 512 * 10
    assert speed._work(config, 10, 1.0)["operations_per_image"] == 3 * 2 * multiplications


def test_the_command_trains_and_writes_the_page(study, tmp_path, monkeypatch, command, cells):
    """Oracle: the row that it wrote; the figure has a point for each kind of views; no README of the repository."""
    caught = []
    monkeypatch.setattr(figure, "save_figure", lambda drawn, path: caught.append((drawn, path)))
    monkeypatch.setattr(speed.page, "ROOT", tmp_path / "nowhere")
    path = tmp_path / "page" / "rows.jsonl"
    options = {"presets": ("quick",), "seeds": 1, "out": tmp_path / "runs", "rows": path}
    assert command(speed.main, data="digits", **options) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["preset"] for row in rows] == ["quick", "article"]
    assert [line[0] for line in cells(path.with_name("README.md").read_text())][-2:] == ["quick", "article"]
    drawn, place = caught[-1]
    assert place == path.with_name("figure.png")
    assert drawn.axes[0].get_legend_handles_labels()[1] == ["one view", "six views"]


def test_the_tables_of_the_readmes(cells):
    """Oracle: the committed rows: four presets in the order of their time, in both languages."""
    english, chinese = (cells(speed.at_a_glance(speed.read_rows(speed.ROWS), w)) for w in speed.READMES.values())
    assert [line[0] for line in english] == ["preset", "`quick`", "`fast`", "`best`", "`article`"]
    assert english[1][1:] == ["vgg8_bn, width 0.75", "90.40 ± 0.24", "91.11 ± 0.16", "8", "3", "2026-11-25"]
    assert chinese[4] == ["`article`", "vgg16_bn，宽度 1", "-", "-", "1,195", "估计值", "2026-11-24"]


def test_mistakes_are_named(tmp_path):
    """Oracle: the message names what was given."""
    options = {"out": tmp_path, "rows": tmp_path / "rows.jsonl"}
    with pytest.raises(ConfigError, match="unknown preset 'slow'"):
        speed.measure("digits", presets=("slow",), seeds=1, **options)
    with pytest.raises(ConfigError, match="seeds is 0"):
        speed.measure("digits", presets=("quick",), seeds=0, **options)
