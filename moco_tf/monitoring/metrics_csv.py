"""`metrics.csv`: one row of figures per logged step, exact and resumable."""

import bisect
import itertools
import math
import os
import re
import time
from typing import Any

from moco_tf import filesystem, state_files
from moco_tf.monitoring import listener

TIME = "time"  # a row's column: when it was written, seconds since 1970
# Features of an encoder that kNN is measured on: columns "knn_" and their name.
KNN_LAYERS = ("backbone", "projection")
# What kNN of the encoder is compared with: columns, and their names in words.
BASELINES = {
    "knn_pixels": "raw pixels",
    "start_backbone": "starting encoder (backbone)",
    "start_projection": "starting encoder (projection)",
    "knn_chance": "chance",
}
# Queries that kNN classes and the starting encoder did not ("gained"), the
# other way round ("lost"), and how many both have classed.
COUNTS = (
    *(f"{kind}_{layer}" for layer in KNN_LAYERS for kind in ("gained", "lost")),
    "knn_queries",
)
# The starting encoder's figures that need no labels, and of which they are.
STARTS = {
    "start_alignment": "alignment",
    "start_uniformity": "uniformity",
    "start_effective_rank": "effective_rank",
    "start_neighbour_stability": "neighbour_stability",
}
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
    *BASELINES,
    *COUNTS,
    "alignment",
    "uniformity",
    "effective_rank",
    "feature_norm",
    "neighbour_stability",
    "stability_error",
    *STARTS,
    "positive",
    "hardest_negative",
    "queue_fill",
    "key_age",
    "same_image",
    "key_drift",
    "key_rank",
    "key_age_auc",
    "spread",
    "teacher_entropy",
    "clusters",
    "probe_loss",
    "probe_train_top1",
    "probe_top1",
    TIME,
)
# Columns of earlier versions, and what they are called now.
RENAMED = {f"untrained_{layer}": f"start_{layer}" for layer in KNN_LAYERS}
_COLUMN = re.compile(r"[a-z][a-z0-9_]*")
_TORN = re.compile(r"[a-z0-9_,.+\r-]*")  # what a kill leaves of a line


def read(path):
    """Reads a file, of a running or finished run, and leaves it as it is.

    Args:
      path: of the CSV file, of any version.

    Returns:
      list of dicts: int or float by column, None if empty; all of the file's
      columns. A torn last line is left out.

    Raises:
      state_files.Damaged: if it is missing or has no header.

    Side effects: lines that are damaged are left out, and a warning names them.
    """
    header, rows, bad, _ = _parse(path)
    if bad:
        state_files.warn(
            f"{path}: {_lines(bad, rows)} cannot be read and are left out"
        )
    return [dict(zip(header, map(_number, row), strict=True)) for row in rows]


def check(path, columns=COLUMNS):
    """Refuses what MetricsFile would refuse, and changes nothing.

    Args:
      path: of the CSV file, which may be missing. columns: as of MetricsFile.

    Raises:
      ValueError: if the file has unknown columns, or no header.
    """
    if os.path.lexists(path):
        header, *_ = _parse(path)
        known = ("step", *columns)
        if header and (header[0] != "step" or not set(header) <= set(known)):
            raise ValueError(
                f"{path} must have the header of this version, "
                f"{','.join(known)!r}, or of an earlier one. Received "
                f"{','.join(header)!r}. Go on with the later version that "
                "wrote it, or move the file away, which keeps it, to start a "
                "new one."
            )


def words_of(column, start="untrained encoder"):
    """What a column of BASELINES is of, in words.

    Args:
      column: str. start: words for the starting encoder of the run.
    """
    return BASELINES[column].replace("starting encoder", start)


def last_time(rows):
    """When the last of some rows was written, seconds since 1970, or None.

    Args:
      rows: list of dicts of a file; those of earlier versions have no time.
    """
    times = [row[TIME] for row in rows if row.get(TIME) is not None]
    return times[-1] if times else None


def _lines(bad, rows):
    return f"{state_files.in_words(bad)} of {len(bad) + len(rows) + 1}"


def _parse(path):
    """Reads a file, with line ends of any system.

    Returns:
      header: list of str. rows: lists of texts, of one length, steps rising.
      bad: numbers of the lines that are no row; a torn last line is dropped
      and not among them. stale: whether the file is to be written anew before
      rows are appended to it.
    """
    damage = state_files.look(path, may_be_empty=True)
    if damage:
        words = "Move it away: the run goes on without its earlier rows."
        raise state_files.Damaged(path, damage, words)
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        text = file.read()
    lines = text.replace("\r\n", "\n").split("\n")
    torn = lines.pop()  # a complete file ends with a line break
    stale = torn != "" or "\r" in text or text[:1] == "\ufeff"
    if not lines and _TORN.fullmatch(text):
        return [], [], [], True
    header = (lines or [text])[0].split(",")
    header = [RENAMED.get(name, name) for name in header]
    if not all(map(_COLUMN.fullmatch, header)):
        words = (
            "Move it away, which keeps it: the run goes on without its earlier "
            "rows. Or mend its first line"
        )
        raise state_files.Damaged(path, "has a damaged header", f"{words}.")
    texts = enumerate((line.split(",") for line in lines[1:]), start=2)
    numbered = [(n, row) for n, row in texts if _is_row(row, len(header))]
    kept = _rising([int(row[0]) for _, row in numbered])
    rows = [numbered[place][1] for place in kept]
    good = {numbered[place][0] for place in kept}
    bad = [n for n in range(2, len(lines) + 1) if n not in good]
    if not _TORN.fullmatch(torn):
        bad.append(len(lines) + 1)
    return header, rows, bad, stale


def _rising(steps):
    """The places of the most numbers that rise, a list; of two, the first.

    One damaged number, too large, would cost all rows behind it otherwise.
    """
    if all(a < b for a, b in itertools.pairwise(steps)):
        return list(range(len(steps)))
    # From the end, so that an earlier number takes the place of a later one.
    lows: list[int] = []  # the highest first number of a row of each length
    places: list[int] = []
    behind: dict[int, int | None] = {}
    for place in reversed(range(len(steps))):
        length = bisect.bisect_left(lows, -steps[place])
        behind[place] = places[length - 1] if length else None
        lows[length : length + 1] = [-steps[place]]
        places[length : length + 1] = [place]
    kept = [places[-1]]
    while (following := behind[kept[-1]]) is not None:
        kept.append(following)
    last = len(steps) - 1
    if len(kept) > 1 and steps[kept[-2]] < steps[last] < steps[kept[-1]]:
        kept[-1] = last  # rather than one too large before it
    return kept


def _is_row(row, count):
    """Whether texts are the figures of a step."""
    try:
        [_number(text) for text in row]
        return len(row) == count and int(row[0]) >= 0
    except ValueError:
        return False


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
          ValueError: if the file has unknown columns, or no header.

        Side effects: a file of an earlier version gets the newer columns; one
        with damaged lines is set aside, and its other lines are kept.
        """
        self._path = os.fspath(path)
        self._columns = ("step", *columns)
        self._file: Any = None
        self._last: Any = None
        rows, stale = [], True
        if os.path.lexists(self._path):
            rows, stale = self._open()
        # A file killed while its header was written is torn without rows.
        if stale:
            self._rewrite(rows)
        self._last = rows[-1] if rows else None
        self._file = open(self._path, "a", encoding="ascii", newline="")

    def _open(self):
        """Returns the rows as lists of texts, and whether to write them anew.

        A file of an earlier version lacks columns: they are empty.
        """
        check(self._path, self._columns[1:])
        header, rows, bad, stale = _parse(self._path)
        if not header:
            return [], True
        if bad:
            other = state_files.set_aside(self._path)
            state_files.warn(
                f"{self._path}: {_lines(bad, rows)} cannot be read and are "
                f"left out; the file as it was is kept as {other}"
            )
        older = header != list(self._columns)
        if older:
            named = [dict(zip(header, row, strict=True)) for row in rows]
            rows = [[row.get(c, "") for c in self._columns] for row in named]
        return rows, stale or older or bool(bad)

    def _read(self):
        """The rows as lists of texts, of the file that is open."""
        return _parse(self._path)[1]

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
            steps, is not below the last row's; missing columns are left empty,
            but for the time.

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
        if TIME in self._columns:
            row = {TIME: int(time.time()), **row}
        texts = [_text(row.get(column)) for column in self._columns]
        if step == last:
            pairs = zip(texts, self._last, strict=True)
            texts = [new or old for new, old in pairs]
            self._replace([*self._read()[:-1], texts])
        else:
            self._file.write(",".join(texts) + "\n")
            self._file.flush()
        self._last = texts

    def _replace(self, rows):
        self._file.close()
        self._rewrite(rows)
        self._file = open(self._path, "a", encoding="ascii", newline="")

    def cut_back(self, step, first=0):
        """Drops the rows after a step.

        Args:
          step: of the checkpoint that is resumed.
          first: step from which on its rows can still be made.

        Side effects: a warning where rows before that are missing: an empty,
        cut or missing file looks like that of a new run.
        """
        rows = [row for row in self._read() if int(row[0]) <= step]
        last = int(rows[-1][0]) if rows else 0
        if last < first:
            state_files.warn(
                f"{self._path} has no rows between step {last} and step "
                f"{first}; the checkpoint is of step {step}: they are lost, "
                "unless a copy of the file is put in its place before the next "
                "start"
            )
        self._replace(rows)
        self._last = rows[-1] if rows else None

    def rows(self):
        """Returns the rows as dicts: int or float by column, None if empty."""
        return [
            dict(zip(self._columns, map(_number, row), strict=True))
            for row in self._read()
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
