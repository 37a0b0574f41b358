"""From workdirs to one HTML file.

Of a workdir a report reads config.json, environment.json, metrics.csv, the
meta.json of checkpoints and the result.json of other commands; it changes none
of them. Images and weights are the business of reporting/pictures.py.
"""

import collections
import datetime
import functools
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

import jinja2

import moco_tf
from moco_tf import config as configs
from moco_tf import (
    config_schema,
    counting,
    filesystem,
    paths,
    records,
    state_files,
    workdirs,
)
from moco_tf.monitoring import metrics_csv
from moco_tf.reporting import charts, findings, pictures, published

_PICTURES = {
    "pairs": "training views",
    "map": "the map of images",
    "near": "nearest neighbours",
}
_SHEETS = 5_000_000  # characters, of the sheets of all maps together
_SHEET = 1_500_000  # characters, of one
# Columns of the table of epochs: of a task, of a pre-training.
_TABLE = (
    ("epoch_loss", "top1", "evaluated_top1", "learning_rate"),
    ("epoch_loss", "knn_backbone", "knn_projection", "learning_rate"),
)
_TABLE_HEADS = (
    ("loss, mean", "top-1, last steps", "top-1, evaluated", "learning rate"),
    ("loss, mean", "kNN backbone", "kNN projection", "learning rate"),
)
_COLOURS = re.compile(r"--[\w-]+: light-dark\(.*?\);")  # of the page's style
_SPEED = ("images_per_second", "input_wait_share")


def write(folders, path="", checkpoint="latest", images=2000, json_path=""):
    """Writes the report of one run or of several, and prints where it is.

    Args:
      folders: list of str, workdirs of runs of any method, and folders of
        `linear` and `finetune`, finished or not.
      path: of the file; "": report.html in the first workdir.
      checkpoint: "latest", "best", a step or a path: its features are shown.
      images: int, of the test set on the map; 0: curves alone.
      json_path: of a file for other programs: what each run has reached, with
        its verdict; "": none.

    Returns:
      pathlib.Path of the file.

    Raises:
      ValueError: before any work, for a folder that holds no run, and a path
        that cannot be written to.

    Side effects: writes the file, completely or not at all; stores features in
    the workdirs.
    """
    if images < 0:
        raise ValueError(
            "A map shows 0 images or more; 0 leaves out all pictures. Received "
            f"images={images}."
        )
    runs = read_runs(folders)
    path = paths.expand(path or runs[0].workdir / "report.html")
    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            "--path must name a file that ends in .html. Received "
            f"{str(path)!r}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if json_path:
        state_files.write_json(
            paths.expand(json_path),
            {"runs": [findings.summary(run) for run in runs]},
            with_format=True,
        )
    page = render(runs, checkpoint, images)
    with filesystem.atomic_file(path) as part:
        # A file's name need not be text: what cannot be written becomes "?".
        part.write_bytes(page.encode("utf-8", "replace"))
    print(
        f"wrote       {paths.shown(path)} ({path.stat().st_size / 1e6:.1f} MB)"
    )
    return path


def finish(workdir, program="moco-tf"):
    """Writes the report of a finished pre-training, and prints its last line.

    Args:
      workdir: str. program: str, the command that a person types.

    Side effects: those of `write`.
    """
    path = write([workdir])
    (run,) = read_runs([workdir])
    export = f"{program} export --workdir={paths.quote(os.fspath(workdir))}"
    print(findings.closing(run, export, paths.shown(path)))


@counting.timed("drawing the report")
def render(runs, checkpoint="latest", images=2000):
    """Renders the page of runs.

    Args:
      runs: list of ReportedRun. checkpoint, images: as `write`.

    Returns:
      str, HTML.
    """
    sheets = pictures.Sheets(min(_SHEET, _SHEETS // len(runs)))
    parts = []
    for run in runs:
        run_pictures = None
        if images and run.is_pretraining:
            run_pictures = pictures.draw_run(
                run, checkpoint, images, sheets, is_single=len(runs) == 1
            )
        parts.append(_part(run, run_pictures))
    _join_equal_pairs(parts)
    drawn = charts.draw_all(runs)
    now = datetime.datetime.now(datetime.UTC)
    return template().render(
        version=moco_tf.__version__,
        time=f"{now:%Y-%m-%d %H:%M} UTC",
        runs=parts,
        charts=[
            drawn[key]
            for key in drawn
            if key not in (*charts.REPRESENTATION, *charts.KEYS, *_SPEED)
        ],
        representation=[drawn[k] for k in charts.REPRESENTATION if k in drawn],
        keys=[drawn[key] for key in charts.KEYS if key in drawn],
        speed=[drawn[key] for key in _SPEED if key in drawn],
        sheets=sheets.sheets,
        figures=_side_by_side(
            [
                {
                    "progress": x["progress"],
                    **x["figures"],
                    **x["evaluations"],
                }
                for x in parts
            ]
        ),
        evaluations=[
            (label, [text]) for label, text in parts[0]["evaluations"].items()
        ],
        differences=[
            (name, [str(value) for value in values])
            for name, values in findings.differences(runs)
        ],
        published=published.cifar10()
        if any(published.is_cifar10(run.config) for run in runs)
        else None,
    )


def excerpt(workdir):
    """A run's figures and first curves, HTML to stand within another page.

    Args:
      workdir: path.
    """
    (run,) = read_runs([workdir])
    drawn = charts.draw_all([run])
    excerpts = template("excerpt.html")
    css = excerpts.environment.get_template("report.css").render()
    return excerpts.render(
        name=run.name,
        progress=findings.progress(run),
        headline=findings.headline(run),
        figures=findings.figures(run),
        readings=findings.readings(run),
        charts=[drawn[key] for key in ("loss", "knn") if key in drawn],
        variables=" ".join(_COLOURS.findall(css)),
    )


@functools.cache
def template(name="report.html"):
    """A template of the pages, jinja2.Template, by its file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("moco_tf.reporting", "templates"),
        autoescape=lambda name: name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _part(run, run_pictures):
    """One run as a dict for the template; pictures of pictures.draw_run."""
    start = run.starts[-1] if run.starts else {}
    missing: dict[str, list[str]] = {}
    for name, part in (run_pictures or {}).items():
        if "missing" in part:
            missing.setdefault(part["missing"], []).append(_PICTURES[name])
    for reason, names in missing.items():
        what = f"{', '.join(names)} of {paths.shown(run.name)}"
        print(f"without     {what}: {paths.shown(reason)}")
    return {
        "name": run.name,
        "workdir": str(run.workdir),
        "progress": findings.progress(run),
        "headline": findings.headline(run),
        "written": f"{run.written:%Y-%m-%d %H:%M} UTC" if run.written else "",
        "figures": findings.figures(run),
        "evaluations": findings.evaluations(run),
        "readings": findings.readings(run),
        "rows": _table(run),
        "heads": _TABLE_HEADS[run.is_pretraining],
        "pictures": run_pictures,
        "config": _sections(run.config),
        "fingerprint": run.fingerprint,
        "source": run.source,
        "command": paths.join(start.get("command", [])),
        "directory": start.get("directory", ""),
        "environment": _environment(start),
        "starts": [
            (x.get("started", ""), paths.join(x.get("command", [])))
            for x in run.starts
        ],
    }


def _join_equal_pairs(parts):
    """Lets the views of a run stand for those of later runs that are equal."""
    first: dict[str, dict] = {}
    for part in parts:
        if not part["pictures"]:
            continue
        pairs = part["pictures"]["pairs"]
        if "missing" not in pairs:
            key = json.dumps([pairs["rows"], pairs["spec"], pairs["changed"]])
            pairs["same_as"] = first.get(key, "")
            first.setdefault(key, part["name"])


def _table(run):
    """The ends of epochs, for those who read no curves."""
    rows, _ = run.column("epoch_loss")
    return [
        [f"{run.epoch_of(row):.4g}", f"{row['step']:,}"]
        + [
            "" if row.get(name) is None else f"{row[name]:.5g}"
            for name in _TABLE[run.is_pretraining]
        ]
        for row in rows
    ]


def _sections(config):
    """The configuration as {section: [(field, value)]}."""
    sections: dict[str, list] = {}
    for name, value in configs.flatten(config.to_dict()).items():
        section, _, field = name.rpartition(".")
        sections.setdefault(section or "run", []).append((field, str(value)))
    return dict(sorted(sections.items()))


def _environment(start):
    """A start's machine and packages as [(name, text)]."""
    plain = ("started", "platform", "cores", "python", "moco_tf")
    lines = [(name, str(start[name])) for name in plain if name in start]
    if "devices" in start:
        lines.append(("devices", ", ".join(start["devices"])))
    return lines + [
        (name, str(version))
        for name, version in start.get("packages", {}).items()
    ]


def _side_by_side(figures):
    """Figures of runs as [(label, [text of each run, "" without])]."""
    labels = dict.fromkeys(label for of_run in figures for label in of_run)
    return [(x, [of_run.get(x, "") for of_run in figures]) for x in labels]


class ReportedRun(NamedTuple):
    """A run of any command that trains, finished or not, as its folder has it.

    Attributes:
      name: short, different from those of the other runs of a report.
      workdir: path. config: ConfigDict of its command.
      fingerprint: of the source that it trains on, hex; "" = not noted.
      starts: list of dicts, one a start (see workdirs.describe).
      rows: of metrics.csv, list of dicts; [] before the first.
      written: when the last row was written, UTC; None without rows, and where
        an earlier version noted no time.
      steps_per_epoch: int; None while it is not known.
      evaluations: list of Evaluation, of the folders below.
      command: of config_schema.TABLES, whose run it is.
      result: Evaluation of a task that is finished; else None.
    """

    name: str
    workdir: pathlib.Path
    config: Any
    fingerprint: str
    starts: list
    rows: list
    written: datetime.datetime | None
    steps_per_epoch: int | None
    evaluations: list
    command: str = "pretrain"
    result: "Evaluation | None" = None

    @property
    def is_pretraining(self):
        """Whether it is a run of pre-training, not a task with labels."""
        return self.command == "pretrain"

    @property
    def source(self):
        """The images that it trains on, text; "" for those of the encoder."""
        data = self.config.data
        return data.source if self.is_pretraining else data.train

    def epoch_of(self, row):
        """Epochs done at a row, a float; its step where that is not known."""
        return row["step"] / (self.steps_per_epoch or 1)

    def column(self, name):
        """The rows that have a figure in a column, and its values."""
        rows = [row for row in self.rows if row.get(name) is not None]
        return rows, [row[name] for row in rows]


class Evaluation(NamedTuple):
    """The result of `linear` or `finetune`, in a folder of the workdir."""

    folder: str
    command: str
    top1: float  # fraction, as the next two, its interval of 95 %
    low: float
    high: float


def read_runs(folders):
    """Reads the workdirs of one report.

    Args:
      folders: workdirs, str.

    Returns:
      list of ReportedRun.

    Raises:
      ValueError: for a folder that holds no run, a folder that is named twice,
        or files that are damaged.
    """
    folders = [paths.expand(folder).resolve() for folder in folders]
    twice = {str(x) for x in folders if folders.count(x) > 1}
    if twice:
        raise ValueError(
            "A report compares different runs. Received the same workdir "
            f"more than once: {', '.join(sorted(twice))}. Give each once."
        )
    names = short_names(folders)
    return [
        _read_run(folder, name)
        for folder, name in zip(folders, names, strict=True)
    ]


def short_names(folders):
    """The last parts of paths, as many as make them different.

    Args:
      folders: of pathlib.Path, absolute, all different.

    Returns:
      list of str.
    """
    count = 1
    while True:
        names = ["/".join(path.parts[1:][-count:]) for path in folders]
        if len(set(names)) == len(names):
            return [name or "/" for name in names]
        count += 1


def _read_run(workdir, name):
    if not os.path.lexists(workdir / "config.json"):
        raise ValueError(
            "A report is of a run: its workdir holds config.json. Received "
            f"{str(workdir)!r} without one. Give the --workdir of the "
            "`pretrain` command, or the folder of `linear` or `finetune`."
        )
    saved = records.read_saved(workdir)
    command = saved.get("command", "pretrain")
    if command not in config_schema.TABLES:
        raise ValueError(
            "A report shows runs of "
            f"{', '.join(config_schema.TABLES)}. Received one of {command!r} "
            f"in {str(workdir)!r}. Use the version of moco_tf that wrote it."
        )
    config = workdirs.load_saved(workdir, command)
    path, rows, written = workdir / "metrics.csv", [], None
    if os.path.lexists(path):
        rows = metrics_csv.read(path)
        # Not the file's own time, which a copy does not keep.
        seconds = metrics_csv.last_time(rows)
        if seconds is not None:
            written = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return ReportedRun(
        name=name,
        workdir=workdir,
        config=config,
        fingerprint=saved.get("data_fingerprint", ""),
        starts=_starts(workdir),
        rows=rows,
        written=written,
        steps_per_epoch=_steps_per_epoch(rows, workdir),
        evaluations=_evaluations(workdir),
        command=command,
        result=None if command == "pretrain" else _evaluation(workdir),
    )


def _starts(workdir):
    """The starts that environment.json lists; [] with a word if it cannot."""
    try:
        return records.read_starts(workdir)
    except state_files.Damaged as error:
        print(f"without     environment of {workdir}: {error}")
        return []


def _steps_per_epoch(rows, workdir):
    """Checkpoints note their epoch; the last step of each has a row.

    Most epochs agree, where a damaged line was left out or misread.
    """
    for path in sorted(workdir.glob("checkpoints/*/meta.json")):
        meta = _optional_json(path) or {}
        if meta.get("step") and meta.get("epoch"):
            return round(meta["step"] / meta["epoch"])
    ended = [row for row in rows if row.get("epoch_loss") is not None]
    lengths = [row["step"] / row["epoch"] for row in ended if row.get("epoch")]
    if lengths:
        return round(collections.Counter(lengths).most_common(1)[0][0])
    first = [row["step"] for row in rows if row.get("epoch") == 1]
    return max(first) if first and (rows[-1].get("epoch") or 0) > 1 else None


def _evaluations(workdir):
    """The results of other commands below a workdir, by name of the folder."""
    results = [
        _evaluation(path) for path in sorted(workdir.iterdir()) if path.is_dir()
    ]
    return [result for result in results if result]


def _evaluation(folder):
    """The result of a task in its folder; None while there is none."""
    if not os.path.lexists(folder / "result.json"):
        return None
    result, about = (
        _optional_json(folder / name) for name in ("result.json", "config.json")
    )
    if result is None or about is None:
        return None
    values = [result.get(x) for x in ("top1", "top1_low", "top1_high")]
    numbers = all(isinstance(value, float | int) for value in values)
    if not numbers or not about.get("command"):
        print(f"without     {folder}: result.json is of no task of moco_tf")
        return None
    return Evaluation(folder.name, about["command"], *values)


def _optional_json(path):
    """A file's dict; None, with a word, if it cannot be read."""
    try:
        return state_files.read_json(path)
    except (state_files.Damaged, state_files.LaterVersion) as error:
        print(f"without     {error}")
        return None
