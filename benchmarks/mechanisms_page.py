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
    "temperature": "Temperature (MoCo)",
    "head": "Projection head (MoCo)",
    "shuffle": "Shuffled BatchNorm (MoCo, two groups)",
    "multi_crop": "Multi-crop: 2 views, and 4 small ones beside them",
    "augmentation": "Pairs of augmentations (SimCLR)",
}
_BUDGET = ("data", "epochs", "size", "precision")


def write(rows, folder):
    """Writes mechanisms.md and its plots.

    Args:
      rows: list of dict, the lines of the results.
      folder: Path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD]
    budgets = collections.defaultdict(list)
    for row in rows:
        key = (row["experiment"], *(row[name] for name in _BUDGET))
        budgets[key].append(row)
    order = list(_TITLES)
    for key in sorted(budgets, key=lambda key: (order.index(key[0]), key[1:])):
        parts.append(_section(key, budgets[key], folder))
    (folder / "mechanisms.md").write_text("\n".join(parts) + "\n")


_HEAD = """# What dictionary, momentum and views do

Made by `python benchmarks/mechanisms.py --results=docs/results/mechanisms.jsonl
--write=docs/results` from the results of the same script. Every case trains the
quickstart's encoder (ResNet-18 x0.25) on two CPU cores; only what the case
names differs. Methods have batches of 128, the comparisons of 64, and MoCo
there a momentum of 0.99 unless the case names another; the end-to-end rate
follows the batch. CIFAR-10 stands for every fifth of its files. kNN is on the
backbone (k 200, T 0.1); a held-out tenth of the training images chooses the
rate of the linear probe. Runs are short: the epochs stand above each table. The
spread of seeds is measured for shuffled BatchNorm alone (four points of kNN,
eight of the linear probe): differences of that size in the other tables say
nothing.

Among the methods, SimCLR, BYOL, SwAV, DINO, CMC and CPC have heads and settings
of their own (`_SECTIONS` and `_OWN` of mechanisms_cases.py), and the networks
of CMC and CPC another untrained kNN. CMC has 2,000 of the images, for as many
steps: a bank's features are renewed once an epoch."""


def _section(key, rows, folder):
    experiment, data, epochs, size, precision = key
    images = max(row["trained_on"] for row in rows)
    seeds = sorted({row["seed"] for row in rows})
    where = "shapes" if data.startswith("shapes") else "CIFAR-10"
    lines = [
        f"\n## {_TITLES[experiment]}: {where}\n",
        f"{epochs} epochs of {images:,} images at {size} px, {precision}, "
        f"{'seeds' if len(seeds) > 1 else 'seed'} "
        f"{', '.join(map(str, seeds))}.\n",
        "| case | untrained kNN | kNN | untrained linear | linear | loss |",
        "|---|---|---|---|---|---|",
    ]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    table = {}
    for case in cases:
        of_case = [row for row in rows if row["case"] == case]
        table[case] = of_case
        cells = [
            _spread([row[name] for row in of_case if name in row], digits)
            for name, digits in (
                ("untrained_knn", 2),
                ("knn", 2),
                ("untrained_linear", 2),
                ("linear", 2),
                ("loss", 3),
            )
        ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    data_name = where.lower().replace("-", "")
    name = f"mechanisms_{experiment}_{data_name}_{size}px_{epochs}.png"
    if experiment == "augmentation":
        _matrix(table, folder / name)
    else:
        _curve(experiment, table, folder / name)
    lines.append(f"\n![{_TITLES[experiment]}]({name})")
    return "\n".join(lines)


def _spread(values, digits):
    """Mean, and the extremes where there are several; nothing of nothing."""
    if not values:
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


def _curve(experiment, table, path):
    """kNN and linear by case; the dictionaries are lines over the size."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axes, name, title in zip(
        panels, ("knn", "linear"), ("kNN", "linear"), strict=True
    ):
        groups = collections.defaultdict(list)
        for case, rows in table.items():
            kind, _, size = case.partition(" ")
            group = kind if experiment == "dictionary" else ""
            values = [row[name] for row in rows]
            mean = statistics.mean(values)
            spread = mean - min(values), max(values) - mean
            position = int(size) if group else case
            groups[group].append((position, mean, *spread))
        for group, points in groups.items():
            positions, means, *spread = zip(*points, strict=True)
            if group:
                axes.errorbar(positions, means, spread, marker="o", label=group)
            else:
                axes.bar(positions, means, yerr=spread, color="#4878a8")
        _untrained(axes, table, f"untrained_{name}", experiment)
        if experiment == "dictionary":
            axes.set_xscale("log", base=2)
            axes.set_xlabel("keys in the dictionary")
        axes.set_ylabel(f"{title} top-1, %")
        axes.tick_params(axis="x", labelrotation=20 if len(table) > 6 else 0)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _untrained(axes, table, column, experiment):
    """Where the untrained encoders stood: a line, or a mark at each bar."""
    start = {
        case: statistics.mean(row[column] for row in rows)
        for case, rows in table.items()
        if all(column in row for row in rows)
    }
    if start and experiment == "dictionary":
        mean = statistics.mean(start.values())
        axes.axhline(mean, color="grey", ls="--", label="untrained")
    elif start:
        cases = list(table)
        axes.hlines(
            list(start.values()),
            [cases.index(case) - 0.45 for case in start],
            [cases.index(case) + 0.45 for case in start],
            color="black",
            ls="--",
            label="untrained",
        )


def _matrix(table, path):
    """kNN of pairs of operations; the diagonal is one alone."""
    pairs = {tuple(case.split(" + ")): rows for case, rows in table.items()}
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    figure, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
    values = [[float("nan")] * len(names) for _ in names]
    for (one, other), rows in pairs.items():
        mean = statistics.mean(row["knn"] for row in rows)
        values[names.index(one)][names.index(other)] = mean
        values[names.index(other)][names.index(one)] = mean
    shown = axes.imshow(values, cmap="viridis")
    for down, row in enumerate(values):
        for across, value in enumerate(row):
            shown_as = f"{value:.1f}" if value == value else ""  # not run
            bright = value > statistics.mean(shown.get_clim())
            ink = "black" if bright else "white"
            axes.text(across, down, shown_as, ha="center", color=ink)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(shown, label="kNN top-1, %")
    figure.savefig(path, dpi=120)
    plt.close(figure)
