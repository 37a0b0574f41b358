"""The file warnings.csv: what was wrong with a run, and since which step.

`Warnings`, the listener, asks the rules (monitoring/health.py) and adds to it.
"""

import csv
import os
import pathlib

from moco_tf import filesystem, state_files
from moco_tf.monitoring import health, listener


class WarningLog:
    """The file warnings.csv: the warnings of a run, each with its step."""

    def __init__(self, path, step):
        """Reads the warnings of earlier sessions up to a step.

        Args:
          path: of the file. step: int, of the checkpoint that is resumed.

        Side effects: later warnings are dropped; they will come again.
        """
        self._path = pathlib.Path(path)
        rows, damage = _read(self._path)
        if damage:
            other = state_files.set_aside(self._path)
            state_files.warn(f"{damage}; the file is kept as {other}")
        rows = [row for row in rows if row["step"] <= step]
        self.names = [row["name"] for row in rows]
        if damage or self._path.exists():
            with filesystem.atomic_file(self._path) as part:
                _append(part, rows)

    def add(self, step, warnings):
        """Appends the warnings (Notices) of a step."""
        if warnings:
            rows = [{"step": step, **w._asdict()} for w in warnings]
            _append(self._path, rows)


def _append(path, rows):
    """Appends dicts to a warnings.csv, behind its header."""
    with path.open(
        "a", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.DictWriter(file, ("step", *health.Notice._fields))
        if not file.tell():
            writer.writeheader()
        writer.writerows(rows)


def read(path):
    """The warnings of a run: dicts of "step", "name" and "text".

    Args:
      path: of warnings.csv; without one, there are none. A torn last line is
        left out.

    Side effects: says which lines are damaged and left out.
    """
    rows, damage = _read(pathlib.Path(path))
    if damage:
        state_files.warn(f"{damage} and are left out")
    return rows


def _read(path):
    """The rows of warnings.csv, and the damage of others in words or ""."""
    if not os.path.lexists(path):
        return [], ""
    columns = ("step", *health.Notice._fields)
    try:
        table, bad, _ = state_files.read_table(path, columns)
    except state_files.Damaged as error:
        return [], f"{error} Its lines cannot be read"
    # Python's own isdigit takes figures that int does not.
    good = [
        {**{name: row[name] for name in columns}, "step": int(row["step"])}
        for row in table
        if row["step"].isdecimal() and row["text"]
    ]
    lost = len(bad) + len(table) - len(good)
    damage = f"{path}: {lost} of its lines cannot be read" if lost else ""
    return good, damage


class Warnings(listener.Listener):
    """The listener that shows the warnings of a run and writes them down."""

    def __init__(self, watch, log, metrics, show, pace=None):
        """Joins the rules and where their warnings go.

        Args:
          watch: Watch. log: WarningLog. metrics: MetricsFile, whose rows of an
            epoch are there when the epoch ends.
          show: function that prints a line.
          pace: meter of the key encoder's steps (evaluation/diagnostics.py), or
            None, of a method without momentum.
        """
        self._watch = watch
        self._log = log
        self._metrics = metrics
        self._show = show
        self._pace = pace

    def on_start(self, method, step):
        self._warn(step, self._watch.start())

    def on_step(self, method, step):
        pace = self._pace and self._pace.end(method)
        if pace is not None:
            self._warn(step, self._watch.pace(pace))

    def on_report(self, method, row):
        self._warn(row["step"], self._watch.report(row))
        if self._pace:
            self._pace.begin(method)

    def on_epoch(self, method, row):
        rows = self._metrics.rows()
        last = [each for each in rows if each["epoch"] == rows[-1]["epoch"]]
        self._warn(row["step"], self._watch.epoch(health.epoch_figures(last)))

    def _warn(self, step, notices):
        for notice in notices:
            self._show(f"Warning: {notice.name}: {notice.text}")
        self._log.add(step, notices)
