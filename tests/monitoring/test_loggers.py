"""Listeners of others: which are taken, and that none of them ends a run.

The packages wandb and mlflow are asked where they are installed; stand-ins that
note their calls are asked everywhere.
"""

import os
import pathlib
import sys
import types

import pytest

from moco_tf import config as configs
from moco_tf import lane
from moco_tf.monitoring import listener, loggers

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS = (
    {"step": 2, "epoch": 1, "loss": 0.125, "time": 9.5, "knn_backbone": None},
    {"step": 4, "epoch": 1, "loss": float("nan"), "learning_rate": 0.5},
)
EPOCH = {"step": 4, "epoch_loss": 0.25, "knn_backbone": 0.75}
CALLS = (
    ("on_start", None, 0),
    ("before_step", 1),
    ("on_step", None, 1),
    ("on_report", None, ROWS[0]),
    ("on_report", None, ROWS[1]),
    ("on_epoch", None, EPOCH),
    ("on_end", None, 4),
    ("close",),
)


class Noting(listener.Listener):
    """Notes its calls in a list; those of `failing` raise."""

    def __init__(self, failing=(), error=None):
        self.calls = []
        self._failing = failing
        self._error = error or RuntimeError("no server")

    def _note(self, *call):
        self.calls.append(call)
        if call[0] in self._failing:
            raise self._error

    def on_start(self, *words):
        self._note("on_start", *words)

    def before_step(self, *words):
        self._note("before_step", *words)

    def on_step(self, *words):
        self._note("on_step", *words)

    def on_report(self, *words):
        self._note("on_report", *words)

    def on_epoch(self, *words):
        self._note("on_epoch", *words)

    def on_end(self, *words):
        self._note("on_end", *words)

    def close(self):
        self._note("close")


def session(workdir, step=0, last_step=4):
    fields = {"train.epochs": 1, "data.source": "shapes:train"}
    workdir.mkdir(exist_ok=True)
    return loggers.Session(workdir, fields, step, last_step, 4)


def run(each):
    """Calls a listener as a run does."""
    for name, *arguments in CALLS:
        getattr(each, name)(*arguments)


@pytest.fixture(name="module")
def _module(monkeypatch):
    """An empty module `noting` that can be imported."""
    module = types.ModuleType("noting")
    monkeypatch.setitem(sys.modules, "noting", module)
    return module


def test_a_listener_is_imported_by_its_name_and_made_with_the_session(
    module, tmp_path
):
    received = []

    class Kind:
        @staticmethod
        def make(session):
            received.append(session)
            return Noting()

    module.make, module.Kind = Kind.make, Kind
    makers = loggers.find(("noting:make", "noting:Kind.make"))
    assert received == []
    first = session(tmp_path, step=3)
    assert len(loggers.make(makers, first, print)) == 2
    assert received == [first, first]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("noting", "must be module:function, or one of wandb, mlflow"),
        ("noting:", "must be module:function"),
        (":make", "must be module:function"),
        ("not_there.at_all:make", "ModuleNotFoundError: No module named"),
        ("noting:nothing", "AttributeError: module 'noting' has no attribute"),
        ("noting:number", "Received 'noting:number', a int. Name a function"),
        ("noting_broken:make", "SyntaxError"),
    ],
)
def test_a_name_that_makes_no_listener_is_refused(
    module, name, message, tmp_path, monkeypatch
):
    module.number = 3
    (tmp_path / "noting_broken.py").write_text("def make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="log.listeners") as error:
        loggers.find((name,))
    assert message in str(error.value)


def test_a_function_that_fails_or_makes_something_else_is_refused(
    module, tmp_path
):
    first = Noting()
    module.good, module.fails = lambda session: first, lambda session: 1 / 0
    module.other = lambda session: {}
    for name, message in (
        ("fails", "could not be made: ZeroDivisionError: division by zero."),
        ("other", "returned a dict. Derive its class from Listener"),
    ):
        makers = loggers.find(("noting:good", f"noting:{name}"))
        with pytest.raises(ValueError, match="log.listeners") as error:
            loggers.make(makers, session(tmp_path), print)
        assert message in str(error.value)
        assert first.calls.pop() == ("close",)  # what it began has ended


def test_a_listener_gets_what_the_run_calls_with_rows_of_its_own():
    inner, lines = Noting(), []
    guarded = loggers.Guarded("mine", inner, lines.append)
    run(guarded)
    assert inner.calls == list(CALLS)
    assert (guarded.failures, lines) == (0, [])
    row = dict(ROWS[0])
    inner.on_report = lambda method, row: row.clear()
    guarded.on_report(None, row)
    assert row == ROWS[0]


@pytest.mark.parametrize("error", [OSError("gone"), SystemExit(1)])
def test_a_listener_that_raises_is_shown_once_and_called_again(error):
    inner = Noting(("on_report", "on_epoch", "close"), error)
    lines = []
    guarded = loggers.Guarded("mine", inner, lines.append)
    run(guarded)
    assert inner.calls == list(CALLS)
    assert guarded.failures == 4
    assert len(lines) == 2
    assert "mine of log.listeners failed in on_report" in lines[0]
    assert type(error).__name__ in lines[0]
    assert "failed 4 times" in lines[1]


def test_one_failure_is_shown_once():
    lines = []
    run(loggers.Guarded("mine", Noting(("on_end",)), lines.append))
    assert len(lines) == 1


def test_ctrl_c_in_a_listener_ends_the_run():
    inner = Noting(("on_step",), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(loggers.Guarded("mine", inner, print))


def test_the_field_takes_names_in_every_spelling(tmp_path):
    for text in (
        "wandb,my.module:make",
        '["wandb", "my.module:make"]',
        "('wandb', 'my.module:make')",
    ):
        config = configs.load("quickstart", {"log.listeners": text})
        assert config.log.listeners == ("wandb", "my.module:make")
    assert configs.load("quickstart").log.listeners == ()
    empty = configs.load("quickstart", {"log.listeners": ""})
    assert empty.log.listeners == ()
    values = configs.flatten(configs.load("quickstart").to_dict())
    with pytest.raises(ValueError, match="names with commas between"):
        configs.build(values | {"log.listeners": [3]})


def stand_in(monkeypatch, name, **attributes):
    """Puts a module in the place of a package."""
    module = types.ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    for key in [k for k in os.environ if k.startswith(name.upper())]:
        monkeypatch.delenv(key)
    # So that what the listener sets is undone.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "")
    monkeypatch.delenv("WANDB_ERROR_REPORTING")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "")
    monkeypatch.delenv("MLFLOW_LOGGING_LEVEL")
    return module


@pytest.fixture(name="wandb")
def _wandb(monkeypatch):
    """A stand-in of wandb: the list of its calls."""
    calls = []

    def noted(name):
        return lambda *words, **named: calls.append((name, words, named))

    def init(**named):
        calls.append(("init", (), named))
        return types.SimpleNamespace(
            log=noted("log"),
            finish=noted("finish"),
            define_metric=noted("define_metric"),
        )

    stand_in(monkeypatch, "wandb", init=init, Settings=lambda **named: named)
    return calls


def test_weights_and_biases_gets_the_figures_of_each_step(wandb, tmp_path):
    makers = loggers.find(("wandb",))
    for step in (0, 3):
        (each,) = loggers.make(makers, session(tmp_path, step), print)
        run(each)
        assert each.failures == 0
    names = [name for name, *_ in wandb]
    assert names == 2 * [
        "init", "define_metric", "log", "log", "log", "finish",
    ]  # fmt: skip
    first, second = (named for name, _, named in wandb if name == "init")
    assert first["mode"] == "offline" and first["resume"] is None
    assert first["id"] == second["id"]  # a later session is the same run
    assert first["dir"] == str(tmp_path)
    assert first["config"]["train.epochs"] == 1
    logged = [words[0] for name, words, _ in wandb if name == "log"]
    assert logged[:3] == [
        {"step": 2, "epoch": 1.0, "loss": 0.125},
        {"step": 4, "epoch": 1.0, "learning_rate": 0.5},
        {"step": 4, "epoch_loss": 0.25, "knn_backbone": 0.75},
    ]
    assert wandb[-1] == ("finish", (), {"exit_code": 0})
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_weights_and_biases_is_online_only_where_the_user_says_so(
    wandb, tmp_path, monkeypatch, capsys
):
    loggers.weights_and_biases(session(tmp_path))
    assert f"wandb sync --append {tmp_path}/wandb" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "photos")
    loggers.weights_and_biases(session(tmp_path)).close()
    named = [named for name, _, named in wandb if name == "init"][-1]
    assert (named["mode"], named["resume"]) == ("online", "allow")
    assert named["project"] == "photos"
    # A run that has not come to its end can go on.
    assert wandb[-1] == ("finish", (), {"exit_code": 1})
    assert capsys.readouterr().out == ""


class _Client:
    """A stand-in of MlflowClient."""

    def __init__(self, calls, known, error, uri):
        self._calls, self._known, self._error = calls, known, error
        calls.append(("uri", uri))

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name, artifact_location):
        self._calls.append(("experiment", name, artifact_location))
        return "7"

    def create_run(self, number, run_name):
        self._calls.append(("run", number, run_name))
        self._known.add("abc")
        info = types.SimpleNamespace(run_id="abc")
        return types.SimpleNamespace(info=info)

    def update_run(self, run_id, status):
        if run_id not in self._known:
            raise self._error("no run")
        self._calls.append(("update", run_id, status))

    def log_batch(self, run_id, metrics=(), params=()):
        self._calls.append(("log", run_id, list(metrics), list(params)))

    def set_terminated(self, run_id, status):
        self._calls.append(("terminated", run_id, status))


@pytest.fixture(name="mlflow")
def _mlflow(monkeypatch):
    """A stand-in of mlflow: the list of its calls, the runs that it knows."""
    calls, known = [], set()
    error = type("MlflowException", (Exception,), {})
    stand_in(
        monkeypatch,
        "mlflow",
        MlflowClient=lambda tracking_uri: _Client(
            calls, known, error, tracking_uri
        ),
        entities=types.SimpleNamespace(
            Metric=lambda name, value, now, step: (name, value, step),
            Param=lambda name, value: (name, value),
        ),
        exceptions=types.SimpleNamespace(MlflowException=error),
    )
    return calls, known


def test_mlflow_gets_the_figures_of_each_step(mlflow, tmp_path):
    calls, _ = mlflow
    makers = loggers.find(("mlflow",))
    for step in (0, 3):
        (each,) = loggers.make(makers, session(tmp_path, step), print)
        run(each)
        assert each.failures == 0
    path = tmp_path / "mlflow"
    params = [("train.epochs", "1"), ("data.source", "shapes:train")]
    begun = [
        ("experiment", "moco-tf", (path / "artifacts").as_uri()),
        ("run", "7", tmp_path.name),
        ("log", "abc", [], params),
    ]
    uri = ("uri", f"sqlite:///{path / 'mlflow.db'}")
    logged = [
        ("log", "abc", [("epoch", 1.0, 2), ("loss", 0.125, 2)], []),
        ("log", "abc", [("epoch", 1.0, 4), ("learning_rate", 0.5, 4)], []),
        (
            "log",
            "abc",
            [("epoch_loss", 0.25, 4), ("knn_backbone", 0.75, 4)],
            [],
        ),
        ("terminated", "abc", "FINISHED"),
    ]
    again = [uri, ("update", "abc", "RUNNING"), *logged]
    assert calls == [uri, *begun, *logged, *again]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_mlflow_takes_the_users_server_and_says_if_it_knows_no_such_run(
    mlflow, tmp_path, monkeypatch, capsys
):
    calls, known = mlflow
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:/elsewhere")
    loggers.mlflow(session(tmp_path)).close()
    assert calls[0] == ("uri", "file:/elsewhere")
    assert calls[1] == ("experiment", "moco-tf", None)
    assert calls[-1] == ("terminated", "abc", "KILLED")
    assert capsys.readouterr().out == ""
    known.clear()
    with pytest.raises(ValueError, match="Remove that file to begin another"):
        loggers.mlflow(session(tmp_path))
    (tmp_path / "mlflow" / "run_id").unlink()
    loggers.mlflow(session(tmp_path))


def test_mlflow_refuses_a_folder_that_its_addresses_cut(mlflow, tmp_path):
    with pytest.raises(ValueError, match="Set MLFLOW_TRACKING_URI"):
        loggers.mlflow(session(tmp_path / "why?"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_without_the_package_the_message_names_the_extra(
    name, tmp_path, monkeypatch
):
    stand_in(monkeypatch, name)
    monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    makers = loggers.find((name,))
    with pytest.raises(ValueError, match="log.listeners") as error:
        loggers.make(makers, session(tmp_path), print)
    assert f"pip install --require-hashes -r {lane.EXTRAS}" in str(error.value)
    assert f"\n{name.replace('mlflow', 'mlflow-skinny')}==" in (
        (ROOT / lane.EXTRAS).read_text()
    )


def test_wandb_itself_writes_a_run_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason=f"wandb is in {lane.EXTRAS}")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for step in (0, 3):
        each = loggers.weights_and_biases(session(tmp_path, step))
        run(each)
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    name = (tmp_path / "wandb" / "run_id").read_text().strip()
    assert len(folders) == 2 and all(name in f.name for f in folders)
    (data,) = {p for f in folders[:1] for p in f.glob("*.wandb")}
    text = data.read_bytes()
    assert b"knn_backbone" in text and b"0.125" in text


def test_mlflow_itself_writes_a_run_to_a_file(tmp_path, monkeypatch):
    package = pytest.importorskip(
        "mlflow", reason=f"mlflow is in {lane.EXTRAS}"
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (0, 3):
        run(loggers.mlflow(session(tmp_path, step)))
    uri = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    client = package.MlflowClient(tracking_uri=uri)
    run_id = (tmp_path / "mlflow" / "run_id").read_text().strip()
    shown = client.get_run(run_id)
    assert shown.info.status == "FINISHED"
    assert shown.data.metrics["knn_backbone"] == 0.75
    assert shown.data.params["train.epochs"] == "1"
    history = client.get_metric_history(run_id, "loss")
    assert {(point.step, point.value) for point in history} == {(2, 0.125)}
