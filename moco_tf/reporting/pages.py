"""From workdirs to one HTML file."""

import datetime
import json
import pathlib
import shlex

import jinja2

import moco_tf
from moco_tf import config as configs
from moco_tf import whole
from moco_tf.reporting import curves, facts, pictures, published, runs

_SHEETS = 5_000_000  # letters, of all pictures of maps together
_SHEET = 1_500_000
_REPRESENTATION = ("alignment", "uniformity", "effective_rank")
_SPEED = ("images_per_second", "input_wait_share")


def write(workdirs, path="", checkpoint="latest", images=2000):
    """Writes the report of one run or of several, and prints where it is.

    Args:
      workdirs: list of str, of pre-training runs, finished or not.
      path: of the file; "": report.html in the first workdir.
      checkpoint: "latest", "best", a step or a path: whose features are shown.
      images: int, of the test set on the map; 0: curves alone.

    Returns:
      pathlib.Path of the file.

    Raises:
      ValueError: before any work, for what is no run, and a path that cannot
        be written to.

    Side effects: writes the file, whole or not at all; stores features in the
    workdirs.
    """
    if images < 0:
        raise ValueError(
            "A map shows 0 images or more; 0 leaves out all pictures. Received "
            f"images={images}."
        )
    found = runs.read(workdirs)
    path = pathlib.Path(path or found[0].workdir / "report.html")
    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            "--path must name a file that ends in .html. Received "
            f"{str(path)!r}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    page = render(found, checkpoint, images)
    with whole.file(path) as part:
        # A file's name need not be text: what cannot be written becomes "?".
        part.write_bytes(page.encode("utf-8", "replace"))
    print(f"wrote       {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def render(found, checkpoint="latest", images=2000):
    """The page of runs, text.

    Args:
      found: list of runs.Run. checkpoint, images: as `write`.

    Returns:
      str, HTML.
    """
    sheets = pictures.Sheets(min(_SHEET, _SHEETS // len(found)))
    parts = []
    for run in found:
        shown = None
        if images:
            shown = pictures.of_run(
                run, checkpoint, images, sheets, len(found) == 1
            )
        parts.append(_part(run, shown))
    if images:
        _join_equal_pairs(parts)
    charts = curves.draw_all(found)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("moco_tf.reporting", "templates"),
        autoescape=lambda name: name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    now = datetime.datetime.now(datetime.UTC)
    return environment.get_template("report.html").render(
        version=moco_tf.__version__,
        made=f"{now:%Y-%m-%d %H:%M} UTC",
        runs=parts,
        charts=[
            charts[key]
            for key in charts
            if key not in (*_REPRESENTATION, *_SPEED)
        ],
        representation=[charts[k] for k in _REPRESENTATION if k in charts],
        speed=[charts[key] for key in _SPEED if key in charts],
        sheets=sheets.found,
        figures=_side_by_side(
            [
                {"progress": x["progress"], **x["figures"], **x["judged"]}
                for x in parts
            ]
        ),
        judged=[(label, [text]) for label, text in parts[0]["judged"].items()],
        differences=[
            (name, [str(value) for value in values])
            for name, values in facts.differences(found)
        ],
        published=published.cifar10()
        if any(published.is_cifar10(run.config) for run in found)
        else None,
    )


def _part(run, shown):
    """What the template needs of one run; `shown` is of pictures.of_run."""
    start = run.starts[-1] if run.starts else {}
    for name, part in (shown or {}).items():
        if "missing" in part:
            print(f"without     {name} of {run.name}: {part['missing']}")
    return {
        "name": run.name,
        "workdir": str(run.workdir),
        "progress": facts.progress(run),
        "written": f"{run.written:%Y-%m-%d %H:%M} UTC" if run.written else "",
        "figures": facts.figures(run),
        "judged": facts.judged(run),
        "readings": facts.readings(run),
        "rows": _table(run),
        "pictures": shown,
        "config": _sections(run.config),
        "fingerprint": run.fingerprint,
        "source": run.config.data.source,
        "command": shlex.join(start.get("command", [])),
        "directory": start.get("directory", ""),
        "environment": _environment(start),
        "starts": [
            (x.get("started", ""), shlex.join(x.get("command", [])))
            for x in run.starts
        ],
    }


def _join_equal_pairs(parts):
    """Lets the views of a run stand for those of later runs that are equal."""
    first: dict[str, dict] = {}
    for part in parts:
        pairs = part["pictures"]["pairs"]
        if "missing" not in pairs:
            key = json.dumps([pairs["rows"], pairs["spec"], pairs["changed"]])
            pairs["same_as"] = first.get(key, "")
            first.setdefault(key, part["name"])


def _table(run):
    """The ends of epochs, for those who read no curves."""
    names = ("epoch_loss", "knn_backbone", "knn_projection", "learning_rate")
    rows, _ = run.column("epoch_loss")
    return [
        [f"{run.epoch_of(row):.4g}", f"{row['step']:,}"]
        + [
            "" if row.get(name) is None else f"{row[name]:.5g}"
            for name in names
        ]
        for row in rows
    ]


def _sections(config):
    """The configuration as {section: [(field, value)]}."""
    found: dict[str, list] = {}
    for name, value in configs.flatten(config.to_dict()).items():
        section, _, field = name.rpartition(".")
        found.setdefault(section or "run", []).append((field, str(value)))
    return dict(sorted(found.items()))


def _environment(start):
    """A start's machine and packages as [(name, text)]."""
    plain = ("started", "platform", "cores", "python", "moco_tf")
    found = [(name, str(start[name])) for name in plain if name in start]
    if "devices" in start:
        found.append(("devices", ", ".join(start["devices"])))
    return found + [
        (name, str(version))
        for name, version in start.get("packages", {}).items()
    ]


def _side_by_side(figures):
    """Figures of runs as [(label, [text of each run, "" without])]."""
    labels = dict.fromkeys(label for each in figures for label in each)
    return [(x, [each.get(x, "") for each in figures]) for x in labels]
