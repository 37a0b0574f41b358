"""`metrics.csv`: one row of figures per logged step, exact and resumable."""

import math
import os
from typing import Any

from moco_tf import filesystem
from moco_tf.monitoring import listener

# Features of an encoder that kNN is measured on: columns "knn_" and their name.
KNN_LAYERS = ("backbone", "projection")
COLUMNS = (
    "epoch",
    "steps",
    "loss",
    "instance_top1",
    "learning_rate",
    "images_per_second",
    "input_wait_share",
    "unreadable",
    "epoch_loss",
    "knn_backbone",
    "knn_projection",
    "alignment",
    "uniformity",
    "effective_rank",
    "feature_norm",
    "positive",
    "hardest_negative",
    "queue_fill",
    "key_age",
    "same_image",
    "key_drift",
    "key_rank",
    "spread",
    "teacher_entropy",
)


def read(path):
    """Reads a file, of a running or finished run, and leaves it as it is.

    Args:
      path: of the CSV file, of any version.

    Returns:
      list of dicts: int or float by column, None if empty; all of the file's
      columns. A torn last line is left out.

    Raises:
      OSError: if there is no such file. ValueError: if it is damaged.
    """
    header, rows, _ = _parse(path)
    return [dict(zip(header, map(_number, row), strict=True)) for row in rows]


def _parse(path):
    """Reads a file: header, rows of texts, and whether the end is torn."""
    with open(path, encoding="ascii", newline="") as file:
        lines = file.read().split("\n")
    torn = lines.pop() != ""  # a complete file ends with a line break
    if not lines:
        return [], [], True
    header = lines[0].split(",")
    rows = [line.split(",") for line in lines[1:]]
    for number, row in enumerate(rows, start=2):
        try:
            valid = len(row) == len(header) and int(row[0]) >= 0
            [_number(text) for text in row]
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(
                f"{path} is damaged at line {number}: {','.join(row)!r}. "
                "Remove the line, or move the file away to start a new one."
            )
    return header, rows, torn


def _text(value):
    """Writes a number so that reading it back gives the same bits."""
    if value is None:
        return ""
    if hasattr(value, "item"):
        value = value.item()  # NumPy scalar or 0-d array
    if isinstance(value, int):
        return str(int(value))
    return repr(float(value))


def _number(text):
    """Reads a number as `_text` writes it: int, float or None."""
    if text == "":
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)


class MetricsFile(listener.Listener):
    """A CSV file with a fixed header and one row per step, steps ascending.

    Rows reach the operating system as they are appended, so a killed process
    loses at most the line it was writing; such a torn last line is dropped
    when the file is opened again.
    """

    def __init__(self, path, columns=COLUMNS):
        """Opens the file, or creates it with its header.

        Args:
          path: of the CSV file; its folder exists.
          columns: names of the figures; "step" stands before them.

        Raises:
          ValueError: if the file has unknown columns, or a damaged line that is
            not the last.

        Side effects: a file of an earlier version gets the newer columns.
        """
        self._path = os.fspath(path)
        self._columns = ("step", *columns)
        self._file: Any = None
        self._last: Any = None
        rows, stale = [], True
        if os.path.exists(self._path):
            rows, stale = self._read()
        # A file killed while its header was written is torn without rows.
        if stale:
            self._rewrite(rows)
        self._last = rows[-1] if rows else None
        self._file = open(self._path, "a", encoding="ascii", newline="")

    def _read(self):
        """Returns the rows as lists of texts, and whether to write them anew.

        A file of an earlier version lacks columns: they are empty.
        """
        header, rows, torn = _parse(self._path)
        if not header:
            return [], True
        if header[0] != "step" or not set(header) <= set(self._columns):
            raise ValueError(
                f"{self._path} must have the header of this version, "
                f"{','.join(self._columns)!r}, or of an earlier one. Received "
                f"{','.join(header)!r}. Move the file away to start a new one."
            )
        older = header != list(self._columns)
        if older:
            named = [dict(zip(header, row, strict=True)) for row in rows]
            rows = [[row.get(c, "") for c in self._columns] for row in named]
        return rows, torn or older

    def _rewrite(self, rows):
        """Replaces the file in one step: readers see the old or the new."""
        lines = [",".join(row) + "\n" for row in [self._columns, *rows]]
        with filesystem.atomic_file(self._path) as part:
            part.write_text("".join(lines), encoding="ascii", newline="")

    def append(self, row):
        """Appends the figures of one step.

        A second row for the last step adds to the first (kNN may come after
        the loss of an epoch's last step).

        Args:
          row: dict of numbers by column; "step", the finished optimiser
            steps, is not below the last row's; missing columns are left empty.

        Raises:
          ValueError: for an unknown column or a step before the last row's.
        """
        unknown = sorted(set(row) - set(self._columns))
        if unknown:
            raise ValueError(
                "metrics.csv has a fixed header. Received the columns "
                f"{', '.join(unknown)}; known: {', '.join(self._columns)}."
            )
        step = int(row["step"])
        last = int(self._last[0]) if self._last else -1
        if step < last:
            raise ValueError(
                "metrics.csv rows must come in the order of steps. Received "
                f"step {step} after step {last}: call cut_back on resume."
            )
        texts = [_text(row.get(column)) for column in self._columns]
        if step == last:
            pairs = zip(texts, self._last, strict=True)
            texts = [new or old for new, old in pairs]
            self._replace([*self._read()[0][:-1], texts])
        else:
            self._file.write(",".join(texts) + "\n")
            self._file.flush()
        self._last = texts

    def _replace(self, rows):
        self._file.close()
        self._rewrite(rows)
        self._file = open(self._path, "a", encoding="ascii", newline="")

    def cut_back(self, step):
        """Drops the rows after `step`, the step of the checkpoint resumed."""
        rows = [row for row in self._read()[0] if int(row[0]) <= step]
        self._replace(rows)
        self._last = rows[-1] if rows else None

    def rows(self):
        """Returns the rows as dicts: int or float by column, None if empty."""
        return [
            dict(zip(self._columns, map(_number, row), strict=True))
            for row in self._read()[0]
        ]

    def epoch_mean(self, epoch, column):
        """The mean of a column over an epoch's steps.

        Args:
          epoch: int, from 1. column: str, a mean of a row's steps.

        Returns:
          float.
        """
        rows = [row for row in self.rows() if row["epoch"] == epoch]
        count = sum(row["steps"] for row in rows)
        return math.fsum(row[column] * row["steps"] for row in rows) / count

    def on_report(self, method, row):
        self.append(row)

    def on_epoch(self, method, row):
        self.append(row)

    def close(self):
        """Closes the file."""
        self._file.close()
