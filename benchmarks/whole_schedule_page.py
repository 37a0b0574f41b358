"""The page and the plot of the results of whole_schedule.py."""

import collections
import math
import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 after the backend is chosen

EPOCHS = 50
SEEDS = (0, 1, 2)
TITLES = {
    "ours_float32": "ours, float32",
    "ours_mixed_bfloat16": "ours, bfloat16",
    "twin": "twin, float32",
}
_EARLIER = {"earlier_ours": "earlier, ours", "earlier_twin": "earlier, twin"}
_COLOURS = dict(
    zip(TITLES, ("#1f6fb4", "#2a9d5c", "#d1642a"), strict=True)
) | dict(zip(_EARLIER, ("#8fb7d9", "#e8b193"), strict=True))
_SHOWN = (1, 3, 5, 10, 20, 30, 40, 50)
_FIGURES = {  # column -> title, digits
    "loss": ("Mean loss of the epoch", 3),
    "knn_backbone": ("kNN on the backbone, %", 2),
    "knn_output": ("kNN on the 128-d output, %", 2),
}
_PAIRS = (
    ("ours_float32", "twin"),
    ("ours_mixed_bfloat16", "twin"),
    ("ours_mixed_bfloat16", "ours_float32"),
)
POINTS = 1.5  # of kNN, that the final means may differ
BAND_FROM = 3  # epoch, from which the losses are compared


def write(rows, folder):
    """Writes whole_schedule.md and whole_schedule.png.

    Args:
      rows: list of dict, the lines of the results; one with "what" says where
        the earlier runs come from.
      folder: Path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curves = longest(rows)
    parts = [_HEAD, _runs(rows, curves), _ending(curves)]
    for column, (title, digits) in _FIGURES.items():
        parts.append(f"## {title}\n\n{table(curves, column, digits)}")
    parts.append(
        "Mean over the seeds, and the lowest and the highest; one seed where "
        "no range stands.\n\n![Loss and kNN by epoch](whole_schedule.png)"
    )
    for row in rows:
        if "what" in row:
            parts.append(f"The earlier runs, in their own words: {row['what']}")
    (folder / "whole_schedule.md").write_text("\n\n".join(parts) + "\n")
    _plot(curves, folder / "whole_schedule.png")


_HEAD = f"""# Whole schedules: ours, and a twin

MoCo's CIFAR-10 recipe at a quarter of its width over all {EPOCHS} epochs of its
cosine, by this library and by a second implementation,
[benchmarks/twin](../../benchmarks/twin/twin.py): plain PyTorch, written from
the published settings by somebody who had not seen this library. ResNet-18
x0.25 with the CIFAR stem and one linear layer, 10,000 images (the first 1,000
files of each class), batch 256, 8 BatchNorm groups, K 2048, m 0.99, T 0.1, rate
0.03. After each epoch kNN (k 200, T 0.1) without augmentation: the bank is the
10,000, the queries are the 10,000 test images.

```sh
python benchmarks/whole_schedule.py --data=cifar10 \\
    --twin_python=TORCH/bin/python
```

The script goes on where it was stopped; each epoch is a line of
[whole_schedule.jsonl](whole_schedule.jsonl).

The twin's first convolution begins normal, as torchvision's; the notebook's and
ours uniform, of the same scale. Gone on with from one checkpoint of ours, both
have the same losses: `twin_continues.py` in
[benchmarks](../../benchmarks/README.md)."""


def longest(rows):
    """The rows of each run that came furthest, by what and by seed.

    Returns:
      dict: run -> seed -> epoch -> row. Of a run that was begun anew, on
      another machine for instance, the attempt with most epochs counts.
    """
    attempts = collections.defaultdict(dict)
    for row in rows:
        if "epoch" in row:
            key = row["run"], row["seed"], row["origin"]
            attempts[key][row["epoch"]] = row
    curves = collections.defaultdict(dict)
    for (run, seed, _), curve in attempts.items():
        if max(curve) > max(curves[run].get(seed, {-1: None})):
            curves[run][seed] = curve
    return curves


def values(curves, run, epoch, column):
    """The figures of a run's seeds after an epoch; those that are there."""
    of_seeds = [curve.get(epoch, {}) for curve in curves.get(run, {}).values()]
    figures = [row.get(column) for row in of_seeds]
    return [figure for figure in figures if figure is not None]


def _complete(curves, run):
    """The seeds of a run that have the last epoch."""
    seeds = curves.get(run, {})
    return [seed for seed in SEEDS if EPOCHS in seeds.get(seed, {})]


def _spread(figures, digits):
    """Mean and, of several, the extremes; nothing of nothing."""
    if not figures:
        return ""
    text = f"{statistics.mean(figures):.{digits}f}"
    if len(figures) > 1:
        text += f" ({min(figures):.{digits}f} to {max(figures):.{digits}f})"
    return text


def table(curves, column, digits):
    """A table of a figure: the epochs down, the runs across."""
    runs = {**TITLES, **{r: t for r, t in _EARLIER.items() if r in curves}}
    lines = [
        f"| epoch | {' | '.join(runs.values())} |",
        f"|---|{'---|' * len(runs)}",
    ]
    for epoch in _SHOWN:
        cells = []
        for run in runs:
            figures = values(curves, run, epoch, column)
            cell = _spread(figures, digits)
            if run in TITLES and 1 < len(figures) < len(SEEDS):
                cell += f", {len(figures)} seeds"
            cells.append(cell)
        lines.append(f"| {epoch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _runs(rows, curves):
    """A table of the runs, and what of them is not complete."""
    lines = [
        "## Runs\n",
        "| run | seed | epochs | resumed | hours | machine |",
        "|---|---|---|---|---|---|",
    ]
    missing = []
    for run, title in TITLES.items():
        states = []
        for seed in SEEDS:
            curve = curves.get(run, {}).get(seed, {})
            epochs = max(curve, default=0)
            if epochs < EPOCHS:
                come = f"{epochs} of {EPOCHS}" if curve else "not begun"
                states.append(f"seed {seed} {come}")
            if curve:
                cells = title, str(seed), str(epochs), *_effort(curve)
                lines.append(f"| {' | '.join(cells)} |")
        if states:
            missing.append(f"{title}: {', '.join(states)}")
    if missing:
        lines.append(
            f"\n**Not complete**: {'; '.join(missing)}. The tables count them "
            "as far as they go."
        )
    kept = {(r["run"], r["seed"], r["origin"]) for r in rows if "epoch" in r}
    aside = len(kept) - sum(map(len, curves.values()))
    if aside:
        lines.append(
            f"\n{aside} attempts that were begun anew and came less far are in "
            "`whole_schedule.jsonl` alone."
        )
    return "\n".join(lines)


def _effort(curve):
    """How often a run was resumed, its hours and its machines, as cells."""
    trained = [row for epoch, row in curve.items() if epoch]
    timed = [row["seconds"] for row in trained if row["seconds"] is not None]
    hours = f"{sum(timed) / 3600:.2f}"
    if len(timed) < len(trained):  # an epoch that ended unwatched has no time
        hours += f" (of {len(timed)} epochs)"
    resumed = max(row["resumed"] for row in curve.values())
    machines = {row["machine"] for row in curve.values()}
    return str(resumed), hours, "; ".join(sorted(machines))


def _ending(curves):
    """The final means, their difference, and how the losses compare."""
    lines = [f"## After epoch {EPOCHS}\n"]
    for run, title in TITLES.items():
        seeds = _complete(curves, run)
        if len(seeds) < len(SEEDS):
            lines.append(f"* {title}: {len(seeds)} of {len(SEEDS)} seeds.")
            continue
        cells = [
            f"{name.replace('M', 'm', 1)} "
            f"{_spread(values(curves, run, EPOCHS, column), digits)}"
            for column, (name, digits) in _FIGURES.items()
        ]
        lines.append(f"* {title}: {'; '.join(cells)}.")
    for pair in _PAIRS:
        if all(len(_complete(curves, run)) == len(SEEDS) for run in pair):
            lines.append(_difference(curves, *pair))
            lines.append(_bands(curves, *pair))
    return "\n".join(lines)


def _difference(curves, run, other):
    """How far the final kNN means of two runs lie apart."""
    cells, largest = [], 0.0
    for column, name in (
        ("knn_backbone", "backbone"),
        ("knn_output", "output"),
    ):
        one, two = (
            statistics.mean(values(curves, r, EPOCHS, column))
            for r in (run, other)
        )
        largest = max(largest, abs(one - two))
        cells.append(f"{one - two:+.2f} points on the {name}")
    inside = largest <= POINTS
    return (
        f"* {TITLES[run]}, less {TITLES[other]}, kNN means: "
        f"{', '.join(cells)}; {'within' if inside else '**not within**'} the "
        f"{POINTS} that were wanted."
    )


def _bands(curves, run, other):
    """Whether the losses lie in one another's band, lowest to highest seed."""
    count = overlapping = inside = 0
    furthest, where = -math.inf, 0
    for epoch in range(BAND_FROM, EPOCHS + 1):
        one, two = (values(curves, r, epoch, "loss") for r in (run, other))
        if len(one) < len(SEEDS) or len(two) < len(SEEDS):
            continue
        count += 1
        means = statistics.mean(one), statistics.mean(two)
        overlapping += min(one) <= max(two) and min(two) <= max(one)
        inside += min(two) <= means[0] <= max(two) and min(one) <= means[
            1
        ] <= max(one)
        if abs(means[0] - means[1]) > furthest:
            furthest, where = abs(means[0] - means[1]), epoch
    return (
        f"* Their losses from epoch {BAND_FROM} on, {count} epochs: bands of "
        f"the seeds overlap in {overlapping}, each mean is in the other's band "
        f"in {inside}; the means differ by {furthest:.3f} at most (epoch "
        f"{where})."
    )


def _plot(curves, path):
    """Bands of the seeds by epoch; an earlier run is a broken line."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axes, (column, (title, _)) in zip(
        panels, _FIGURES.items(), strict=True
    ):
        for run, label in TITLES.items():
            _band(axes, curves, run, column, label)
        for run, label in _EARLIER.items():
            for seed, curve in sorted(curves.get(run, {}).items()):
                epochs = [
                    e for e in sorted(curve) if curve[e][column] is not None
                ]
                axes.plot(
                    epochs,
                    [curve[epoch][column] for epoch in epochs],
                    color=_COLOURS[run],
                    ls=":",
                    lw=1.3,
                    label=f"{label}, seed {seed}",
                )
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    handles, labels = panels[1].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=6, frameon=False
        )
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _band(axes, curves, run, column, label):
    """The mean of a run's seeds, and what lies between their extremes."""
    seeds = curves.get(run, {})
    # A mean over fewer seeds than begun would jump where one of them ends.
    epochs = [
        epoch
        for epoch in range(EPOCHS + 1)
        if seeds and len(values(curves, run, epoch, column)) == len(seeds)
    ]
    if not epochs:
        return
    figures = [values(curves, run, epoch, column) for epoch in epochs]
    colour = _COLOURS[run]
    axes.fill_between(
        epochs,
        [min(f) for f in figures],
        [max(f) for f in figures],
        color=colour,
        alpha=0.25,
        lw=0,
    )
    means = [statistics.mean(f) for f in figures]
    axes.plot(epochs, means, color=colour, lw=1.6, label=label)
