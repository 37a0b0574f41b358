"""What a report reads of a workdir: no images, no weights, nothing changed."""

import datetime
import json
import pathlib
from typing import NamedTuple

from moco_tf import workdirs
from moco_tf.monitoring import metrics_csv


class Run(NamedTuple):
    """A pre-training run as its workdir tells it, finished or not.

    Attributes:
      name: short, different from those of the other runs of a report.
      workdir: path. config: ConfigDict.
      fingerprint: of the source that it trains on, hex; "" where not noted.
      starts: list of dicts, one a start (see environment.describe).
      rows: of metrics.csv, list of dicts; [] before the first.
      written: when metrics.csv was last written, UTC; None without one.
      steps_per_epoch: int; None while nothing tells it.
      judged: list of Judged.
    """

    name: str
    workdir: pathlib.Path
    config: object
    fingerprint: str
    starts: list
    rows: list
    written: datetime.datetime | None
    steps_per_epoch: int | None
    judged: list

    def epoch_of(self, row):
        """Epochs done at a row, a float; its step where that is not known."""
        return row["step"] / (self.steps_per_epoch or 1)

    def column(self, name):
        """The rows that have a figure, and its values."""
        rows = [row for row in self.rows if row.get(name) is not None]
        return rows, [row[name] for row in rows]


class Judged(NamedTuple):
    """What `linear` or `finetune` has found, in a folder of the workdir."""

    folder: str
    command: str
    top1: float  # fraction, as the next two, its interval of 95 %
    low: float
    high: float


def read(paths):
    """Reads the workdirs of one report.

    Args:
      paths: of workdirs, str.

    Returns:
      list of Run.

    Raises:
      ValueError: for a folder that holds no pre-training run, one that is
        given twice, or files that are damaged.
    """
    workdirs_ = [pathlib.Path(path).resolve() for path in paths]
    twice = {str(x) for x in workdirs_ if workdirs_.count(x) > 1}
    if twice:
        raise ValueError(
            "A report compares different runs. Received the same workdir "
            f"more than once: {', '.join(sorted(twice))}. Give each once."
        )
    names = short_names(workdirs_)
    return [_read(x, name) for x, name in zip(workdirs_, names, strict=True)]


def short_names(paths):
    """The last parts of paths, as many as make them different.

    Args:
      paths: of pathlib.Path, absolute, all different.

    Returns:
      list of str.
    """
    count = 1
    while True:
        names = ["/".join(path.parts[1:][-count:]) for path in paths]
        if len(set(names)) == len(names):
            return [name or "/" for name in names]
        count += 1


def _read(workdir, name):
    if not (workdir / "config.json").is_file():
        raise ValueError(
            "A report is of a run: its workdir holds config.json. Received "
            f"{str(workdir)!r} without one. Give the --workdir of the "
            "`pretrain` command."
        )
    config = workdirs.load_saved(workdir)
    saved = workdirs.read_json(workdir / "config.json")
    path = workdir / "environment.json"
    starts = workdirs.read_json(path)["starts"] if path.is_file() else []
    path = workdir / "metrics.csv"
    rows, written = [], None
    if path.is_file():
        rows = metrics_csv.read(path)
        written = datetime.datetime.fromtimestamp(
            path.stat().st_mtime, datetime.UTC
        )
    return Run(
        name,
        workdir,
        config,
        saved.get("data_fingerprint", ""),
        starts,
        rows,
        written,
        _steps_per_epoch(rows, workdir),
        _judged(workdir),
    )


def _steps_per_epoch(rows, workdir):
    """An epoch's last step is always logged; checkpoints note their epoch."""
    first = [row["step"] for row in rows if row["epoch"] == 1]
    if first and (
        rows[-1]["epoch"] > 1 or rows[-1].get("epoch_loss") is not None
    ):
        return max(first)
    for path in sorted(workdir.glob("checkpoints/*/meta.json")):
        meta = _optional_json(path)
        if meta.get("step") and meta.get("epoch"):
            return round(meta["step"] / meta["epoch"])
    return None


def _judged(workdir):
    found = []
    for path in sorted(workdir.glob("*/result.json")):
        result, about = (
            _optional_json(path.with_name(name))
            for name in ("result.json", "config.json")
        )
        values = [result.get(x) for x in ("top1", "top1_low", "top1_high")]
        if None not in values and about.get("command"):
            found.append(Judged(path.parent.name, about["command"], *values))
    return found


def _optional_json(path):
    """A file's dict; {} if it is not there, half written or of another kind."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
