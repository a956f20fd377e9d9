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


@pytest.fixture
def mlflow_store(tmp_path, monkeypatch):
    """A store of MLflow's, read as the SQLite file that it is: (run, status) pairs, and (run, name, step, value)."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)

    def select(columns, table):
        store = sqlite3.connect(tmp_path / "store.db")
        rows = store.execute(f"select {columns} from {table}").fetchall()
        store.close()
        return rows

    return select


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
def test_mlflow_and_tensorboard_have_the_history_and_a_resumed_run_continues_theirs(tmp_path, mlflow_store):
    """Oracle: history.jsonl; MLflow's database is read as SQLite, event files by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train("digits", out=tmp_path / "run", log=("tensorboard", "mlflow"), **TINY)
    assert mlflow_store("name, status", "runs") == [("run", "FINISHED")]
    parameters = dict(mlflow_store("key, value", "params"))
    assert (parameters["width"], parameters["data"], parameters["lr"]) == (
        "0.05",
        "digits",
        str(run.config.optimizer.lr),
    )

    run = vggnet.resume(run, epochs=2)
    assert len(run.history) == 2
    assert mlflow_store("name, status", "runs") == [("run", "FINISHED")]
    metrics = mlflow_store("step, key, value", "metrics")
    assert sorted(row for row in metrics if row[1] != "lr") == sorted(scalars(run))
    assert [step for step, name, value in metrics if name == "lr"] == [1, 2]

    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    for step, name, value in scalars(run):
        logged = {event.step: event.value for event in events.Scalars(name)}
        assert logged[step] == pytest.approx(value, rel=1e-6)


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
