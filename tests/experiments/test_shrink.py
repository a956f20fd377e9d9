"""The study of shrinking: rows are what the file and its test say, the table is their arithmetic."""

import pytest

import vggnet
from experiments.rows import read_rows
from experiments.shrink import run as study
from vggnet.compression.shrink_options import ShrinkOptions
from vggnet.interpret.costs import count_macs
from vggnet.models.vgg import empty
from vggnet.weights.checkpoint import Checkpoint

pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.slow]


def test_a_row_for_each_seed_and_a_page(tmp_path, monkeypatch, command, cells):
    """Oracle: `vggnet.evaluate` on the files, their sizes and multiply-adds."""
    config = vggnet.preset("digits").override(epochs=1, width=0.25, batch_size=512)
    run = vggnet.train("digits", config, out=tmp_path / "run")
    shrinking = study.CASES["channels"]._replace(options=ShrinkOptions(to_macs=0.5, epochs=1, criterion="chip"))
    monkeypatch.setattr(study, "CASES", {"channels": shrinking})
    rows, out = tmp_path / "rows.jsonl", tmp_path / "runs"
    for seed in range(2):
        assert command(study.main, run.folder, data="digits", seed=seed, out=out, rows=rows) == 0
    found = read_rows(rows)
    assert [row["seed"] for row in found] == [0, 1]
    for row in found:
        path = out / f"channels-{row['seed']}.safetensors"
        assert row["top1"] == vggnet.evaluate(path, "digits").top1
        assert row["top1_given"] == vggnet.evaluate(run.folder, "digits").top1
        assert row["file_bytes"] == path.stat().st_size
        checkpoint = Checkpoint.open(path)
        assert row["macs"] == count_macs(empty(checkpoint.architecture), 32)
        assert (checkpoint.architecture.name, row["config"]["val_fraction"]) == ("vgg11", 0.0)
    table = cells((tmp_path / "README.md").read_text())
    line = next(line for line in table if line[0] == "channels")
    mean = (found[0]["top1"] + found[1]["top1"]) / 2
    assert line[5].startswith(f"{100 * mean:.2f} ±")
    assert float(line[6]) == pytest.approx(100 * (found[0]["top1_given"] - mean), abs=0.006)
    removed = [1 - sum(row[name] / row[f"{name}_given"] for row in found) / 2 for name in ("parameters", "macs")]
    assert line[7:9] == [f"{100 * share:.1f}" for share in removed]
    assert ["CHIP", "93.96", "93.18", "0.78", "87.3", "78.6"] in table
    assert (tmp_path / "figure.png").is_file()


def test_images_are_needed(tmp_path, command):
    """Oracle: the contract: a mistake is exit code 2."""
    assert command(study.main, tmp_path, rows=tmp_path / "rows.jsonl") == 2
