"""A run of the authors' CIFAR-10 demo, epoch by epoch beside the published one.

python benchmarks/published_curve.py --workdir=RUN

RUN is a run of --config=moco_cifar10 whose kNN has train/ as bank and test/ as
query, as docs/results/published_curve.md begins it; it may still go on, and may
have been stopped and started any number of times. The page, its plot and the
figures as JSON lines are written anew from what RUN has reached.
"""

import argparse
import datetime
import json
import pathlib
import statistics

import matplotlib
import measure

from moco_tf import paths, records, workdirs
from moco_tf.monitoring import metrics_csv
from moco_tf.reporting import published

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 after the backend is chosen

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE.parent / "docs" / "results"


def figures_of(workdir):
    """Loss and kNN after each epoch of a run, beside the published figures.

    Args:
      workdir: Path.

    Returns:
      list of dicts, one an epoch from 1 on: "epoch"; "loss", the mean of its
      steps; "knn_output" and "knn_backbone", percent; "published_loss",
      "published_knn"; "start", which start of the run ended it, from 1;
      "images_per_second", the median of its rows.
    """
    rows = metrics_csv.read(workdir / "metrics.csv")
    begun = [
        _seconds(start["started"]) for start in records.read_starts(workdir)
    ]
    curve = published.cifar10()
    figures, speeds = [], []
    for row in rows:
        if row.get("images_per_second"):
            speeds.append(row["images_per_second"])
        if row.get("epoch_loss") is None:
            continue
        epoch = round(row["epoch"])
        if row["knn_projection"] is None:
            raise SystemExit(
                f"{workdir} has no kNN of epoch {epoch}: it needs knn.bank, "
                "knn.query and knn.every_epochs 1."
            )
        figures.append(
            {
                "epoch": epoch,
                "loss": round(row["epoch_loss"], 4),
                "published_loss": curve["loss"][epoch - 1],
                "knn_output": round(100 * row["knn_projection"], 2),
                "published_knn": curve["knn_percent"][epoch - 1],
                "knn_backbone": round(100 * row["knn_backbone"], 2),
                "start": sum(begin <= row["time"] for begin in begun),
                "images_per_second": round(statistics.median(speeds), 1),
            }
        )
        speeds = []
    return figures


def starts_of(workdir):
    """The starts of a run: when each began, and what it covered.

    Returns:
      list of dicts: "started", UTC; "hours" until its last row; "last_epoch",
      a float; "cores", "lane".
    """
    rows = metrics_csv.read(workdir / "metrics.csv")
    starts = records.read_starts(workdir)
    begun = [_seconds(start["started"]) for start in starts]
    lines = []
    for start, begin, end in zip(
        starts, begun, [*begun[1:], float("inf")], strict=True
    ):
        own = [row for row in rows if begin <= row["time"] < end]
        lines.append(
            {
                "started": start["started"][:16].replace("T", " "),
                "hours": round((own[-1]["time"] - begin) / 3600, 2)
                if own
                else 0,
                "last_epoch": round(own[-1]["epoch"], 2) if own else None,
                "cores": start["cores"],
                "lane": start["lane"],
            }
        )
    return lines


def _seconds(started):
    return datetime.datetime.fromisoformat(started).timestamp()


def page(figures, starts, command, machine):
    """The page, Markdown.

    Args:
      figures: of `figures_of`. starts: of `starts_of`. command: str, of the
      last start. machine: str.
    """
    table = [
        "| epoch | loss | published | kNN, % | published | difference | "
        "kNN on the backbone, % | start |",
        "|---|---|---|---|---|---|---|---|",
    ]
    table += [
        f"| {x['epoch']} | {x['loss']:.3f} | {x['published_loss']:.3f} | "
        f"{x['knn_output']:.2f} | {x['published_knn']:.2f} | "
        f"{x['knn_output'] - x['published_knn']:+.2f} | "
        f"{x['knn_backbone']:.2f} | {x['start']} |"
        for x in figures
    ]
    begun = [
        "| start | begun, UTC | hours | up to epoch | cores | TensorFlow |",
        "|---|---|---|---|---|---|",
    ]
    begun += [
        f"| {number} | {x['started']} | {x['hours']} | "
        f"{'none' if x['last_epoch'] is None else format(x['last_epoch'], 'g')}"
        f" | {x['cores']} | {x['lane']} |"
        for number, x in enumerate(starts, 1)
    ]
    speed = statistics.median(x["images_per_second"] for x in figures)
    return _PAGE.format(
        command=command,
        table="\n".join(table),
        starts="\n".join(begun),
        verdict=_verdict(figures),
        epochs=figures[-1]["epoch"],
        speed=f"{speed:.0f}",
        machine=machine,
    )


def _verdict(figures):
    """How many epochs lie in the report's bands, and how far the rest is."""
    sentences = []
    for name, own, other in (
        ("loss", "loss", "published_loss"),
        ("knn", "knn_output", "published_knn"),
    ):
        _, low, _, high = published.band(name, figures[-1]["epoch"])
        gaps = [x[own] - x[other] for x in figures]
        places = [
            (low[x["epoch"] - 1] <= x[own] <= high[x["epoch"] - 1])
            for x in figures
        ]
        unit, digits = ("nats", 3) if name == "loss" else ("points", 2)
        outside = [
            f"epoch {x['epoch']} ({gap:+.{digits}f})"
            for x, gap, inside in zip(figures, gaps, places, strict=True)
            if not inside
        ]
        words = (
            f"{'Loss' if name == 'loss' else 'kNN'}: {sum(places)} of "
            f"{len(places)} epochs in the band of the report; the mean "
            f"difference is {statistics.mean(gaps):+.{digits}f} {unit}"
        )
        if outside:
            words += f"; outside: {', '.join(outside)}"
        sentences.append(f"* {words}.")
    return "\n".join(sentences)


_PAGE = """# The published CIFAR-10 curve

The authors' demo, `configs/moco_cifar10.py` as it is, in bfloat16: the first
{epochs} epochs of its schedule of 200, beside the output stored in the authors'
notebook (one V100). One run each; ours has seed 0 and trains on CIFAR-10 as
JPEG files. The loss is the mean of an epoch's steps; kNN has k 200 and T 0.1,
on the 128-d output as published, and on the 512-d backbone.

```sh
{command}
python benchmarks/published_curve.py --workdir=RUN
```

The first command, given again, goes on where the run was stopped.

{verdict}

{table}

![Loss and kNN by epoch, with the report's bands](published_curve.png)

The band is 5 % of the loss and 2 points of kNN to either side: since one run
was published, its spread is not known. The images differ too: the notebook's
are the data set's own pixels, ours JPEG files. On the same files, at a quarter
of the width and over a whole schedule, ours and an independent implementation
end 0.4 points of kNN apart ([whole_schedule.md](whole_schedule.md)).

## Starts

{starts}

On {machine}; {speed} images/s, kNN of 60,000 images after each epoch besides.
"""


def plot(figures, path):
    """Draws loss and kNN by epoch with the published bands.

    Args:
      figures: of `figures_of`. path: of the PNG.
    """
    drawing, panels = plt.subplots(
        1, 2, figsize=(10, 3.6), layout="constrained"
    )
    epochs = [x["epoch"] for x in figures]
    for axes, name, column, title in (
        (panels[0], "loss", "loss", "Mean loss of the epoch"),
        (panels[1], "knn", "knn_output", "kNN on the 128-d output, %"),
    ):
        reach, low, middle, high = published.band(name, 1.2 * epochs[-1])
        axes.fill_between(reach, low, high, color="#888888", alpha=0.25, lw=0)
        axes.plot(reach, middle, "--", color="#666666", label="published")
        axes.plot(
            epochs,
            [x[column] for x in figures],
            "o-",
            ms=3,
            color="#1f6fb4",
            label="ours",
        )
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    drawing.savefig(path, dpi=80)
    plt.close(drawing)


def _command(workdir):
    """The command of the last start, as it is given to a workdir RUN."""
    words = records.read_starts(workdir)[-1]["command"][2:]
    kept = [word for word in words if not word.startswith("--workdir")]
    command = paths.join(["moco-tf", *kept, "--workdir=RUN"])
    return command.replace(" --", " \\\n    --")


def main():
    command_line = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    command_line.add_argument("--workdir", required=True, type=pathlib.Path)
    workdir = command_line.parse_args().workdir
    changed = published.departures(workdirs.load_saved(workdir))
    if changed:
        raise SystemExit(f"{workdir} departs from the published run: {changed}")
    figures = figures_of(workdir)
    if not figures:
        raise SystemExit(f"{workdir} has no finished epoch yet.")
    starts = starts_of(workdir)
    text = page(figures, starts, _command(workdir), measure.machine())
    (RESULTS / "published_curve.md").write_text(text)
    plot(figures, RESULTS / "published_curve.png")
    with open(RESULTS / "published_curve.jsonl", "w") as lines:
        lines.writelines(json.dumps(x) + "\n" for x in figures)


if __name__ == "__main__":
    main()
