"""Trainings of version 0.1, repeated: the same seeds give the same losses."""

import json
from pathlib import Path

import pytest

import vggnet
from vggnet.training.presets import preset

# Made by version 0.1 (commit d5316d9), on an Intel CPU with AVX-512 and VGGNET_CONV=direct, by
# vggnet.train("digits", preset=..., **options) for each entry. One step is an epoch, as the batch holds all images, so
# that differences in rounding between CPUs have no time to grow: they are 1e-5 in the first step, 1e-3 in the second.
# Options that were defaults of 0.1 and are none of the preset today are written out.
RECORDED = json.loads((Path(__file__).parent / "recorded_losses.json").read_text(encoding="utf-8"))
TOLERANCES = (1e-4, 5e-3)


@pytest.mark.parametrize("name", RECORDED)
def test_the_losses_of_version_01(name, tmp_path, monkeypatch):
    """Oracle: losses that version 0.1 had."""
    monkeypatch.setenv("VGGNET_CONV", "direct")
    recorded = RECORDED[name]
    options = {**recorded["options"], "epochs": len(TOLERANCES), "precision": "float32"}
    run = vggnet.train("digits", preset(recorded["preset"]).override(**options), out=tmp_path / "run")
    for row, expected, tolerance in zip(run.history, recorded["train_loss"], TOLERANCES, strict=False):
        assert row["train_loss"] == pytest.approx(expected, rel=tolerance)
