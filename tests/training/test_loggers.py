"""What a training logs to other programs, read by those programs, and what happens when they fail."""

import json
import sqlite3

import pytest
from safetensors.torch import load_file
from trainings import train

import vggnet
from vggnet.errors import MissingDependencyError
from vggnet.training import loggers
from vggnet.training.run import Run

TINY = {"model": "vgg11_bn", "width": 0.05, "batch_size": 1024, "epochs": 1}


class Failing(loggers.Logger):
    """Fails at one of its calls, as a server that is gone does."""

    fails_at = ""

    def start(self, config, epoch, key):
        return self._called("start")

    def log(self, epoch, values):
        self._called("log")

    def finish(self, end):
        self._called("finish")

    def _called(self, name):
        if name == self.fails_at:
            raise ConnectionError("the server\nis gone")
        return "key"


def scalars(run):
    """What the history has, but for the epoch itself."""
    return [
        (row["epoch"], name, value) for row in run.history for name, value in row.items() if name not in ("epoch", "lr")
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's use of SQLAlchemy
@pytest.mark.parametrize("store", ["file", pytest.param("sqlite", marks=pytest.mark.slow)])  # 10 s to make its tables
def test_mlflow_and_tensorboard_have_the_history_and_a_resumed_run_continues_theirs(tmp_path, monkeypatch, store):
    """Oracle: history.jsonl; the logged values are read by the clients of MLflow and TensorBoard."""
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI",
        {"file": (tmp_path / "store").as_uri(), "sqlite": f"sqlite:///{tmp_path / 'store.db'}"}[store],
    )
    run = train("digits", out=tmp_path / "run", log=("tensorboard", "mlflow"), **TINY)
    run = vggnet.resume(run, epochs=2)
    assert len(run.history) == 2

    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert {
        "width": "0.05",
        "data": "digits",
        "epochs": "1",
        "lr": str(run.config.optimizer.lr),
    }.items() <= found.data.params.items()
    logged = {
        (metric.step, name, metric.value)
        for name in found.data.metrics
        for metric in client.get_metric_history(found.info.run_id, name)
    }
    assert {row for row in logged if row[1] != "lr"} == set(scalars(run))
    assert [step for step, name, _ in sorted(logged) if name == "lr"] == [1, 2]

    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    for step, name, value in scalars(run):
        assert {event.step: event.value for event in events.Scalars(name)}[step] == pytest.approx(value, rel=1e-6)


@pytest.fixture(scope="module")
def unlogged(tmp_path_factory):
    """A training without loggers."""
    return train("digits", out=tmp_path_factory.mktemp("unlogged") / "run", log=(), **TINY)


@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_logger_that_fails_gives_one_warning_and_changes_nothing(tmp_path, monkeypatch, unlogged, call):
    """Oracle: the same training without loggers."""
    monkeypatch.setattr(Failing, "fails_at", call)
    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", Failing)
    with pytest.warns(UserWarning, match=r"tensorboard logs no more of .*run \(the server is gone\)") as caught:
        run = train("digits", out=tmp_path / "run", log=("tensorboard",), **TINY)
    assert len(caught) == 1
    assert run.finished
    assert run.logged == ({} if call == "start" else {"tensorboard": "key"})
    assert not unlogged.logged
    weights = load_file(unlogged.weights)
    assert all((tensor == weights[name]).all() for name, tensor in load_file(run.weights).items())


def test_a_server_that_cannot_be_reached_does_not_stop_a_training(tmp_path, monkeypatch):
    """Oracle: nothing listens on port 9 of this machine."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.warns(UserWarning, match="mlflow logs no more"):
        assert train("digits", out=tmp_path / "run", log=("mlflow",), **TINY).finished


def test_a_damaged_logged_json_is_named(tmp_path):
    """Oracle: a file that is no JSON, and one that holds a list."""
    for text in ("{", "[1]"):
        (tmp_path / "logged.json").write_text(text)
        with pytest.raises(vggnet.errors.RunError, match=r"logged\.json is damaged"):
            Run(tmp_path).logged  # noqa: B018 (the property raises)


def test_a_logger_that_is_not_installed_is_named_before_the_training(tmp_path, monkeypatch):
    """Oracle: the extras of pyproject.toml."""
    monkeypatch.setitem(loggers.sys.modules, "trackio", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vggnet\[trackio\]'"):
        train("digits", out=tmp_path / "run", log=("trackio",), **TINY)
    assert not (tmp_path / "run").exists()


def test_trackio_has_the_history_and_a_resumed_run_continues_its_run(tmp_path, monkeypatch, capsys):
    """Oracle: history.jsonl; Trackio's database is read as SQLite."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="Trackio 0.43 needs Pillow below 13, so it has an environment of its own")
    run = train("digits", out=tmp_path / "run", log=("trackio",), **TINY)
    run = vggnet.resume(run, epochs=2)
    assert capsys.readouterr().out == ""
    store = sqlite3.connect(tmp_path / "trackio" / "vggnet.db")
    rows = store.execute("select run_name, step, metrics from metrics order by step").fetchall()
    store.close()
    assert {name for name, _, _ in rows} == set(run.logged.values())
    found = [(step, name, value) for _, step, text in rows for name, value in json.loads(text).items() if name != "lr"]
    assert found == scalars(run)
