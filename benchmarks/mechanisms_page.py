"""The page and the plots of the results of mechanisms.py."""

import collections
import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 after the backend is chosen

_TITLES = {
    "methods": "Methods",
    "dictionary": "Dictionary size, three dictionaries",
    "momentum": "Momentum of the key encoder (MoCo)",
    "shuffle": "Shuffled BatchNorm (MoCo, eight groups)",
}
_BUDGET = ("epochs", "size", "precision")
_FIGURES = (
    ("untrained_knn", 2),
    ("knn", 2),
    ("untrained_linear", 2),
    ("linear", 2),
    ("loss", 3),
)
# Where the untrained encoders stood, in every plot.
_BASELINE = {"color": "0.3", "ls": "--", "lw": 1.5, "label": "untrained"}


def write(rows, folder):
    """Writes mechanisms.md and its plots.

    Args:
      rows: list of dict, the lines of the results.
      folder: Path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD]
    sections = collections.defaultdict(list)
    for row in rows:
        where = "shapes" if on_shapes(row) else "CIFAR-10"
        sections[row["experiment"], where].append(row)
    order = list(_TITLES)
    for key in sorted(
        sections, key=lambda key: (order.index(key[0]), key[1] != "shapes")
    ):
        parts.append(_section(*key, sections[key], folder))
    (folder / "mechanisms.md").write_text("\n".join(parts) + "\n")


def on_shapes(row):
    """Whether a row is of the embedded shapes; else it is of CIFAR-10."""
    return row["data"].startswith("shapes")


_HEAD = """# Methods and mechanisms

Made by `python benchmarks/mechanisms.py --results=docs/results/mechanisms.jsonl
--write=docs/results` from the results of the same script. Only what a case
names differs. kNN is on the backbone (k 200, T 0.1); a held-out tenth of the
training images chooses the rate of the linear probe. Mean, and the lowest and
highest of the seeds.

**Methods**: the quickstart's encoder (ResNet-18 x0.25), batches of 128, heads
and settings of each method's own (mechanisms_cases.py); the networks of CMC and
CPC have another untrained kNN. The memory bank, BYOL and DINO have three times
the epochs of the budget; BYOL has batches of 64, and BYOL and DINO two small
views of half the size. CMC has 2,000 of the images and five times the steps: a
bank's features are renewed once an epoch. On CIFAR-10 the settings are those
that were chosen on the shapes, but for the colours of its recipe. What stood
still, and why: [methods.md](methods.md).

**Comparisons of the papers** (dictionary, momentum, shuffled BatchNorm):
MoCo's CIFAR demo at a quarter of its width, on every fifth file of CIFAR-10:
batch 256, K 2,048, m 0.99, T 0.1, eight BatchNorm groups, a cosine to 0; other
dictionaries have MoCo's loss, and the end-to-end rate follows its
batch."""


def _section(experiment, where, rows, folder):
    """A heading, a table and a plot of all runs of an experiment."""
    budgets = collections.defaultdict(list)
    for row in rows:
        budgets[tuple(row[name] for name in _BUDGET)].append(row)
    several = len(budgets) > 1
    more = ("size", "epochs") if several else ()
    own = experiment == "methods" and all("steps" in row for row in rows)
    more += ("images", "steps") if own else ()
    columns = ("case", *more, "untrained kNN", "kNN", "untrained linear")
    columns += ("linear", "loss")
    lines, table = [], {}
    for (epochs, size, _), of_budget in sorted(budgets.items()):
        for case in dict.fromkeys(row["case"] for row in of_budget):
            of_case = [row for row in of_budget if row["case"] == case]
            label = f"{case}, {size} px, {epochs} epochs" if several else case
            table[label] = of_case
            cells = [case, *((f"{size} px", epochs) if several else ())]
            if own:
                first = of_case[0]
                cells += [f"{first['trained_on']:,}", f"{first['steps']:,}"]
            cells += [
                _spread([row[name] for row in of_case if name in row], digits)
                for name, digits in _FIGURES
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    name = f"mechanisms_{experiment}_{where.lower().replace('-', '')}.png"
    draw = _curves if experiment == "dictionary" else _bars
    draw(table, folder / name)
    head = [
        f"\n## {_TITLES[experiment]}: {where}\n",
        f"{_budget(rows)}\n",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    return "\n".join([*head, *lines, f"\n![{_TITLES[experiment]}]({name})"])


def _budget(rows):
    """What the runs of a section have in common, in words."""
    images = max(row["trained_on"] for row in rows)
    seeds = sorted({row["seed"] for row in rows})
    precisions = sorted({row["precision"] for row in rows})
    epochs, sizes = ({row[name] for row in rows} for name in _BUDGET[:2])
    text = f"{images:,} images, {', '.join(precisions)}, "
    text += f"{'seeds' if len(seeds) > 1 else 'seed'} "
    text += ", ".join(map(str, seeds)) + "."
    if len(epochs) == len(sizes) == 1:
        text = f"{min(epochs)} epochs at {min(sizes)} px; {text}"
    return f"{text} {_machines(rows)}"


def _machines(rows):
    """Where the runs of a section were, and for how long."""
    runs, seconds = collections.Counter(), collections.Counter()
    for row in rows:
        machine = row.get("machine", "a machine that was not noted")
        runs[machine] += 1
        seconds[machine] += row["seconds"]
    return " ".join(
        f"{count} runs on {machine}: {seconds[machine] / 3600:.1f} hours, one"
        " core each."
        for machine, count in runs.most_common()
    )


def _spread(values, digits):
    """Mean, and the extremes where there are several; nothing of nothing."""
    if not values:
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


def _bars(table, path):
    """kNN and linear, a bar for each case."""
    height = 1.1 + 0.32 * len(table)
    figure, panels = plt.subplots(
        1, 2, figsize=(9, height), layout="constrained", sharey=True
    )
    rows = range(len(table))
    for axes, name, title in zip(
        panels, ("knn", "linear"), ("kNN", "linear"), strict=True
    ):
        means, spread = _means(table, name)
        axes.barh(rows, means, 0.7, xerr=spread, color="#7aa2c9", ecolor="0.2")
        for row, of_case in zip(rows, table.values(), strict=True):
            if start := _start(of_case, name):
                axes.vlines(start, row - 0.42, row + 0.42, **_BASELINE)
        axes.set_xlabel(f"{title} top-1, %")
        axes.set_xlim(0, 1.05 * max(means))
    panels[0].set_yticks(rows, list(table))
    panels[0].invert_yaxis()
    _save(figure, panels, path)


def _curves(table, path):
    """kNN and linear over the size of each kind of dictionary."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axes, name, title in zip(
        panels, ("knn", "linear"), ("kNN", "linear"), strict=True
    ):
        kinds = collections.defaultdict(dict)
        for case, of_case in table.items():
            kind, _, size = case.partition(" ")
            kinds[kind][int(size)] = of_case
        for kind, points in kinds.items():
            means, spread = _means(points, name)
            axes.errorbar(list(points), means, spread, marker="o", label=kind)
        starts = [_start(of_case, name) for of_case in table.values()]
        axes.axhline(statistics.mean(starts), **_BASELINE)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("keys in the dictionary")
        axes.set_ylabel(f"{title} top-1, %")
    _save(figure, panels, path)


def _means(table, name):
    """Means of the cases, and how far the extremes are from them."""
    values = [[row[name] for row in of_case] for of_case in table.values()]
    means = [statistics.mean(of_case) for of_case in values]
    pairs = list(zip(means, values, strict=True))
    below = [mean - min(of_case) for mean, of_case in pairs]
    above = [max(of_case) - mean for mean, of_case in pairs]
    return means, (below, above)


def _start(rows, name):
    """Where a case's untrained encoder stood; None where nobody measured."""
    column = f"untrained_{name}"
    values = [row[column] for row in rows if column in row]
    return statistics.mean(values) if values else None


def _save(figure, panels, path):
    """Adds the legend of both panels, one entry for each name."""
    entries = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(),
        entries,
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)
