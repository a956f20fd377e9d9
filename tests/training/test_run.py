"""The run folder: the best epoch, early stop, and what is no run."""

import pytest
from trainings import train

import vggnet
from vggnet.errors import RunError
from vggnet.tasks.classify import Classify
from vggnet.training.presets import preset
from vggnet.training.run import Run, best_row, default_folder
from vggnet.training.schedules import has_ended

FAST = preset("fast")


def test_best_epoch_and_early_stop_by_hand():
    """Oracle: five rows typed by hand. Of equals the last is kept, but patience is counted from the first."""
    rows = [{"epoch": n + 1, "val_accuracy": value} for n, value in enumerate([0.5, 0.7, 0.7, 0.6, 0.65])]
    assert best_row(Classify(), rows)["epoch"] == 3
    assert has_ended(FAST.override(epochs=9, patience=3), rows)
    assert not has_ended(FAST.override(epochs=9, patience=4), rows)
    assert has_ended(FAST.override(epochs=5), rows)
    assert best_row(Classify(), [{"epoch": 1}, {"epoch": 2}])["epoch"] == 2


def test_what_is_not_a_run_folder_is_refused(tmp_path):
    """Oracle: an empty folder, a missing one, a damaged config."""
    for folder in (tmp_path, tmp_path / "missing", str(tmp_path)):
        with pytest.raises(RunError, match="not a run folder"):
            Run.open(folder)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        Run.open(tmp_path).description  # noqa: B018 (the property raises)


def test_the_folder_of_a_run_has_the_name_of_the_data():
    """Oracle: the documentation: runs/DATA-MODEL-DATE-TIME."""
    assert default_folder("stream:some/pictures", "vgg16").name.startswith("pictures-vgg16-")


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    """Oracle: the first holds the lock as a process would, through another open file."""
    run = train("digits", out=tmp_path / "run", width=0.05, epochs=1, batch_size=512)
    (run.folder / "results.png").unlink()
    with Run.open(run.folder).locked(), pytest.raises(RunError, match="another process"):
        vggnet.resume(run.folder)
    assert vggnet.resume(run.folder).finished
