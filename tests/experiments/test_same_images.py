"""What a study has is known by its images and budget, and both splits are opened before anything is trained."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.comparison import run as comparison
from experiments.depth import run as depth
from experiments.drawbacks import run as drawbacks
from experiments.speed import run as speed
from vggnet.data.sources.opening import open_source
from vggnet.errors import DataError, NonFiniteError
from vggnet.training.presets import PRESETS, preset

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def photos(tmp_path):
    """Two classes of three small images in each split."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def diverge(monkeypatch, tmp_path):
    """Depth with A, and D from A; a training is noted, and fails. Returns the study and the notes: (folder, start)."""
    notes = []

    def fail(data, folder, config, *, init_from=None, **options):
        notes.append((folder, init_from))
        raise NonFiniteError("the loss became nan")

    monkeypatch.setattr(depth, "train_or_resume", fail)
    monkeypatch.setattr(depth, "ENTRIES", (depth.Entry("vgg11"), depth.Entry("vgg16", from_a=True)))

    def run(data, **options):
        return depth.measure(data, out=tmp_path / "runs", rows=tmp_path / "rows.jsonl", **{"seeds": 1, **options})

    return run, notes


def test_depth_on_other_images_is_trained(diverge, photos):
    """Oracle: the number of trainings, and the rows of each data set by its own fingerprint."""
    run, notes = diverge
    for count, data in ((2, "digits"), (4, photos), (4, "digits"), (4, photos)):
        found = run(data)
        assert len(notes) == count
        assert [row["label"] for row in found] == ["A", "D, from A"]
        assert {row["fingerprint"] for row in found} == {open_source(data, "train").fingerprint}
    assert len({folder for folder, _ in notes}) == 4


def test_depth_by_another_budget_is_trained_apart(diverge):
    """Oracle: the folders that trainings were given: another for each, D's start that of its A; each budget's seeds."""
    run, notes = diverge
    run("digits", epochs=1)
    other = run("digits", epochs=2)
    again = run("digits", epochs=1, seeds=2)
    assert len({folder for folder, _ in notes}) == len(notes) == 6
    for (a, none), (_, start) in zip(notes[::2], notes[1::2], strict=True):
        assert (none, start) == (None, a)
        assert a.name.startswith("A-")
    assert [row["config"]["epochs"] for row in other] == [2, 2]
    assert [(row["config"]["epochs"], row["seed"]) for row in again] == [(1, 0), (1, 0), (1, 1), (1, 1)]


def test_depth_shows_the_newest_budget_alone():
    """Oracle: by hand: two seeds by the older budget, one by the newer; and the same of data."""
    config = depth.BUDGET.as_options()

    def row(seed, fingerprint="0", **fields):
        return {"label": "A", "seed": seed, "config": {**config, "seed": seed, **fields}, "fingerprint": fingerprint}

    older, newer = [row(0), row(1)], row(0, epochs=9)
    assert depth.by_label([*older, newer]) == {"A": [newer]}
    assert depth.by_label([*older, row(2, "1")]) == {"A": [row(2, "1")]}
    assert depth.by_label(older) == {"A": older}


@pytest.fixture
def speed_study(monkeypatch, tmp_path):
    """Speed that is interrupted in its first training, which is noted: its folder."""
    notes = []

    def stop(data, folder, config, **options):
        notes.append(folder)
        raise InterruptedError

    monkeypatch.setattr(speed, "train_or_resume", stop)
    ours, rows = open_source("digits", "train").fingerprint, tmp_path / "rows.jsonl"
    config = {**preset("quick").as_options(), "seed": 0, "val_fraction": 0.0, "precision": "float32"}
    done = [{"preset": "quick", "config": config}, {"preset": "article", "config": preset("article").as_options()}]

    def run(fingerprint=ours):
        rows.write_text("".join(json.dumps({**row, "fingerprint": fingerprint}) + "\n" for row in done))
        return speed.measure("digits", presets=("quick",), seeds=1, out=tmp_path / "runs", rows=rows)

    return run, notes


def test_speed_on_other_images_is_trained(speed_study, monkeypatch):
    """Oracle: trainings: none for rows of these images, one if they are of others."""
    run, notes = speed_study
    assert len(run()) == 2
    assert notes == []
    with pytest.raises(InterruptedError):
        run("0123456789abcdef")
    assert len(notes) == 1
    monkeypatch.setitem(PRESETS, "quick", PRESETS["fast"])
    with pytest.raises(InterruptedError):
        run()
    assert len(set(notes)) == 2  # another recipe has another folder


def test_drawbacks_on_other_images_are_measured(photos, monkeypatch, tmp_path):
    """Oracle: the parts that rows of other images leave to be done: all but memory, which needs none."""
    monkeypatch.setattr(drawbacks, "AT_FULL_SIZE", (("vgg11", "gap"),))
    monkeypatch.setattr(drawbacks, "_memory", lambda config: {})

    def study(data, **options):
        done = []

        def note(part):
            def run(config, **_):
                done.append(part)
                return {"fingerprint": open_source(data, "train").fingerprint}

            return run

        for part in ("gradients", "overfitting", "head"):
            monkeypatch.setattr(drawbacks, f"_{part}", note(part))
        small = {"images": 2, "seeds": 1, "out": tmp_path, "rows": tmp_path / "rows.jsonl", **options}
        return drawbacks.measure(data, **small), done

    first, done = study("digits")
    assert set(done) == {"gradients", "overfitting", "head"}
    second, again = study(photos)
    assert again == done
    assert [row["part"] for row in second] == [row["part"] for row in first]
    assert {row.get("fingerprint") for row in second} == {open_source(photos, "train").fingerprint, None}
    assert study("digits", epochs=9)[1]
    assert study("digits") == (first, [])


def test_comparisons_on_other_images_are_trained(photos, monkeypatch, tmp_path):
    """Oracle: the folders of the trainings; the rows of each data set and budget, and no others."""
    folders = []

    def fail(network, config, source, indices, folder, **options):
        folders.append(folder)
        raise NonFiniteError("the loss became nan")

    monkeypatch.setattr(comparison, "fit_or_resume", fail)

    def run(data, epochs):
        rows = tmp_path / "rows.jsonl"
        small = {"width": 0.05, "epochs": epochs, "out": tmp_path, "rows": rows}
        (row,) = comparison.measure_training(data, ["vgg11"], **small)
        return row["fingerprint"], row["config"]["epochs"]

    jobs = [("digits", 1), (photos, 1), ("digits", 2)]
    for data, epochs in (*jobs, *jobs):
        assert run(data, epochs) == (open_source(data, "train").fingerprint, epochs)
    assert len(set(folders)) == len(folders) == 3


@pytest.mark.parametrize("study", ["depth", "speed", "drawbacks", "comparison"])
@pytest.mark.parametrize(("test", "message"), [(None, "test"), ("c", "other classes")])
def test_test_is_looked_at_before_anything_is_trained(photos, monkeypatch, tmp_path, study, test, message):
    """Oracle: no training begins, neither without a test split nor with one of other classes."""
    if test is None:
        (photos / "test").rename(tmp_path / "elsewhere")
    else:
        (photos / "test" / "b").rename(photos / "test" / test)
    for module, name in ((depth, "train_or_resume"), (speed, "train_or_resume"), (comparison, "fit_or_resume")):
        monkeypatch.setattr(module, name, None)
    monkeypatch.setattr(drawbacks, "_gradients", None)
    monkeypatch.setattr(drawbacks, "AT_FULL_SIZE", ())
    places = {"out": tmp_path / "runs", "rows": tmp_path / "rows.jsonl"}
    calls = {
        "depth": lambda: depth.measure(photos, seeds=1, **places),
        "speed": lambda: speed.measure(photos, presets=("quick",), seeds=1, **places),
        "drawbacks": lambda: drawbacks.measure(photos, images=2, **places),
        "comparison": lambda: comparison.measure_training(photos, ["vgg11"], width=0.05, **places),
    }
    with pytest.raises(DataError, match=message):
        calls[study]()
