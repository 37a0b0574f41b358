"""Listeners of others: named in `log.listeners`, imported when a run trains.

A name is "module:function"; "wandb" and "mlflow" stand for the two below. The
function gets a Session and returns a Listener, which is called as those of the
run are (monitoring/listener.py), after them, with copies of their rows:

    def make(session):
        return MyListener(session.workdir, first_step=session.step)

A name in a configuration is code that runs. Nothing imports it but a run that
trains by that configuration: `find` is called by pretrain alone, for its chief.
"""

import importlib
import math
import numbers
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from moco_tf import filesystem, lane, paths
from moco_tf.monitoring import listener, metrics_csv

BUILT_IN = {
    "wandb": "moco_tf.monitoring.loggers:weights_and_biases",
    "mlflow": "moco_tf.monitoring.loggers:mlflow",
}


class Session(NamedTuple):
    """What a listener is made from: a start of a run, the first or a later one.

    Attributes:
      workdir: Path of the run.
      fields: dict "section.key" -> value, the configuration.
      step: int, finished steps; 0: the run begins. Above 0 it goes on, and
        steps after this one, which an earlier session may have shown to its
        listener, come again with the same figures.
      last_step: int, after which the run ends. steps_per_epoch: int.
    """

    workdir: pathlib.Path
    fields: Mapping[str, Any]
    step: int
    last_step: int
    steps_per_epoch: int


def find(names):
    """Imports the functions that make listeners.

    Args:
      names: of log.listeners.

    Returns:
      dict name -> function of a Session.

    Raises:
      ValueError: for a name that cannot be imported, or is of no function.

    Side effects: imports modules, whose code runs.
    """
    return {name: _find(name) for name in names}


def _find(name):
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not module_name or not attribute:
        raise ValueError(
            "A name in log.listeners must be module:function, or one of "
            f"{', '.join(BUILT_IN)}. Received {name!r}. Pass, for example, "
            "--config.log.listeners=my.module:make."
        )
    try:
        function = importlib.import_module(module_name)
        for part in attribute.split("."):
            function = getattr(function, part)
    except Exception as error:  # the module's own code ran
        raise ValueError(
            "log.listeners must name what can be imported. Received "
            f"{name!r}: {_words(error)} Install the module, or add its folder "
            "to PYTHONPATH; --config.log.listeners= leaves listeners out."
        ) from error
    if not callable(function):
        raise ValueError(
            "log.listeners must name functions that take a Session and return "
            f"a Listener. Received {name!r}, a {type(function).__name__}. "
            "Name a function of the module."
        )
    return function


def _words(error):
    """An error in one sentence."""
    return f"{type(error).__name__}: {error}".rstrip(" .:") + "."


def make(makers, session, show):
    """Makes the listeners of a session.

    Args:
      makers: of `find`. session: Session.
      show: function that prints a line.

    Returns:
      list of Guarded.

    Raises:
      ValueError: for a function that fails, or gives no Listener.
    """
    guarded: list[Guarded] = []
    try:
        for name, maker in makers.items():
            guarded.append(Guarded(name, _make(name, maker, session), show))
    except ValueError:
        for each in guarded:  # those before it have begun something
            each.close()
        raise
    return guarded


def _make(name, maker: Callable[[Session], Any], session):
    try:
        made = maker(session)
    except Exception as error:
        raise ValueError(
            f"The listener {name!r} of log.listeners could not be made: "
            f"{_words(error)} Mend that, or leave it out with "
            "--config.log.listeners=."
        ) from error
    if not isinstance(made, listener.Listener):
        raise ValueError(
            "A function in log.listeners must return a "
            f"moco_tf.monitoring.listener.Listener. Received {name!r}, which "
            f"returned a {type(made).__name__}. Derive its class from Listener."
        )
    return made


class Guarded(listener.Listener):
    """A listener of others that cannot end the run.

    What it raises is shown once and counted; it is called again all the same,
    since a server that is away may come back. Ctrl-C passes.

    Attributes:
      failures: int, of its calls so far.
    """

    def __init__(self, name, inner, show):
        """Joins a listener, its name, and a function that prints a line."""
        self.failures = 0
        self._name = name
        self._inner = inner
        self._show = show

    def on_start(self, method, step):
        self._call("on_start", method, step)

    def before_step(self, step):
        self._call("before_step", step)

    def on_step(self, method, step):
        self._call("on_step", method, step)

    def on_report(self, method, row):
        self._call("on_report", method, dict(row))

    def on_epoch(self, method, row):
        self._call("on_epoch", method, dict(row))

    def on_end(self, method, step):
        self._call("on_end", method, step)

    def close(self):
        self._call("close")
        if self.failures > 1:
            self._show(
                f"Warning: listener: {self._name} of log.listeners failed "
                f"{self.failures} times; its figures have gaps, those of the "
                "run have none."
            )

    def _call(self, name, *arguments):
        try:
            getattr(self._inner, name)(*arguments)
        except (Exception, SystemExit) as error:
            self.failures += 1
            if self.failures == 1:
                self._show(
                    f"Warning: listener: {self._name} of log.listeners failed "
                    f"in {name}: {_words(error)} The run goes on, and calls "
                    "it again; further failures are counted."
                )


class Figures(listener.Listener):
    """A listener that writes the figures of metrics.csv elsewhere.

    A subclass defines `write` and `end`. Figures have the names of the columns;
    those that a row has not, and those that are not finite, are left out.
    """

    def __init__(self, session):
        """Takes the last step of a Session."""
        self._last_step = session.last_step
        self._has_ended = False

    def write(self, step, figures):
        """Writes figures, name -> float, of a step."""
        raise NotImplementedError

    def end(self, finished):
        """Ends: `finished`, or to go on in a later session."""
        raise NotImplementedError

    def on_report(self, method, row):
        self._write(row)

    def on_epoch(self, method, row):
        self._write(row)

    def on_end(self, method, step):
        self._has_ended = step >= self._last_step

    def close(self):
        self.end(self._has_ended)

    def _write(self, row):
        figures = {
            name: float(value)
            for name, value in row.items()
            if name not in ("step", metrics_csv.TIME)
            if isinstance(value, numbers.Real) and math.isfinite(value)
        }
        if figures:
            self.write(int(row["step"]), figures)


def _read_id(path):
    """The name of a run with a tool, of an earlier session; "" without."""
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _write_id(path, name):
    """Writes the name of a run with a tool, for later sessions."""
    with filesystem.atomic_file(path) as part:
        part.write_text(f"{name}\n", encoding="utf-8")


def _package(name, extra):
    """A package of an extra, imported.

    Raises:
      ValueError: without it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"The listener {extra!r} needs the package {name}, which cannot be "
            f"imported ({error}). Install it, in the checkout: pip install "
            f"--require-hashes -r {lane.EXTRAS}"
        ) from error


class _Wandb(Figures):
    """The listener of a run of Weights & Biases."""

    def __init__(self, session, run):
        super().__init__(session)
        self._run = run

    def write(self, step, figures):
        # Steps that come again after a resume would be refused as W&B's own.
        self._run.log({**figures, "step": step})

    def end(self, finished):
        self._run.finish(exit_code=0 if finished else 1)


def weights_and_biases(session):
    """The listener of Weights & Biases, offline unless WANDB_MODE says more.

    Its files are in wandb/ of the workdir; `wandb sync` sends them. A later
    session goes on with the same run. Everything else is read from the
    environment, by W&B itself: WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME.

    Args:
      session: Session.

    Raises:
      ValueError: without the package wandb.
    """
    # Reports of W&B's own faults go to its maker, unless it is said first.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb = _package("wandb", "wandb")
    mode = os.environ.get("WANDB_MODE", "offline")
    folder = session.workdir / "wandb"
    name = _read_id(folder / "run_id") or uuid.uuid4().hex
    _write_id(folder / "run_id", name)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "moco-tf"),
        name=os.environ.get("WANDB_NAME", session.workdir.name),
        id=name,
        resume="allow" if mode == "online" else None,
        dir=str(session.workdir),
        mode=mode,
        config=dict(session.fields),
        settings=wandb.Settings(
            console="off", disable_git=True, save_code=False, silent=True
        ),
    )
    run.define_metric("*", step_metric="step")
    if mode == "offline":
        command = f"wandb sync --append {paths.quote(folder)}/offline-run-*"
        print(f"wandb: offline; to send the run: {command}")
    return _Wandb(session, run)


class _Mlflow(Figures):
    """The listener of a run of MLflow."""

    def __init__(self, session, client, run_id, package):
        super().__init__(session)
        self._client = client
        self._run_id = run_id
        self._metric = package.entities.Metric

    def write(self, step, figures):
        now = int(1000 * time.time())
        self._client.log_batch(
            self._run_id,
            metrics=[
                self._metric(name, value, now, step)
                for name, value in figures.items()
            ],
        )

    def end(self, finished):
        status = "FINISHED" if finished else "KILLED"
        self._client.set_terminated(self._run_id, status)


def mlflow(session):
    """The listener of MLflow, in a file unless MLFLOW_TRACKING_URI is set.

    The file is mlflow/mlflow.db of the workdir. A later session goes on with
    the same run. MLFLOW_EXPERIMENT_NAME names the experiment.

    Args:
      session: Session.

    Raises:
      ValueError: without the package mlflow.
    """
    # It reports its use to its maker, unless it is said first.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    package = _package("mlflow", "mlflow")
    folder, artifacts = session.workdir / "mlflow", None
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        uri, artifacts = (
            _file_uri(folder),
            (folder.absolute() / "artifacts").as_uri(),
        )
        print(f"mlflow: to see the run: mlflow ui --backend-store-uri={uri}")
    client = package.MlflowClient(tracking_uri=uri)
    run_id = _read_id(folder / "run_id")
    if run_id:
        try:
            client.update_run(run_id, status="RUNNING")
        except package.exceptions.MlflowException as error:
            raise ValueError(
                f"MLflow at {uri} does not know this run by the name in "
                f"{folder / 'run_id'} ({error}). Remove that file to begin "
                "another run there."
            ) from error
    else:
        run_id = _begin(session, client, package, artifacts)
        _write_id(folder / "run_id", run_id)
    return _Mlflow(session, client, run_id, package)


def _file_uri(folder):
    """The address of the file of a run, whose folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = str((folder / "mlflow.db").absolute())
    if "?" in path:  # where the options of such an address begin
        raise ValueError(
            "MLflow's file must lie in folders without '?' in their names. "
            f"Received {path!r}. Set MLFLOW_TRACKING_URI to another place."
        )
    return f"sqlite:///{path}"


def _begin(session, client, package, artifacts):
    """Begins a run of MLflow; returns its name there."""
    title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "moco-tf")
    experiment = client.get_experiment_by_name(title)
    number = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(title, artifacts)
    )
    run = client.create_run(number, run_name=session.workdir.name)
    client.log_batch(
        run.info.run_id,
        params=[
            package.entities.Param(name, str(value))
            for name, value in session.fields.items()
        ],
    )
    return run.info.run_id
