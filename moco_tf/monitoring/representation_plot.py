"""A picture of a run's representation against its kNN, from metrics.csv."""

import os
import pathlib

import matplotlib.figure
import numpy as np

from moco_tf import naming
from moco_tf.monitoring import metrics_csv

# Column of metrics.csv -> words of its axis.
FIGURES = {
    "alignment": "alignment (0: views agree)",
    "uniformity": "uniformity (lower: more uniform)",
    "effective_rank": "effective rank",
    "feature_norm": "mean feature norm",
}


def plot_run(workdir, path):
    """Draws kNN and representation over the epochs, and against each other.

    Above, over the epochs: kNN and the four figures. Below: the plane of
    uniformity and alignment (as in arXiv:2005.10242), and each figure against
    the kNN of the backbone, whose features it measures, with Spearman's rank
    correlation.

    Args:
      workdir: of a pre-training run, finished or not. path: of the PNG.

    Returns:
      number of epochs drawn.

    Raises:
      ValueError: if the run has not measured them.

    Side effects: writes the PNG.
    """
    table = read(workdir)
    # The object interface: pyplot would keep the figure in a global list.
    figure = matplotlib.figure.Figure(
        figsize=(18, 7), dpi=100, layout="constrained"
    )
    axes = figure.subplots(2, 1 + len(FIGURES))
    top1 = 100 * table["knn_backbone"]
    for layer in metrics_csv.KNN_LAYERS:
        values = 100 * table[f"knn_{layer}"]
        axes[0, 0].plot(table["epoch"], values, ".-", label=layer)
    axes[0, 0].legend()
    axes[0, 0].set_ylabel("kNN top-1, %")
    _scatter(axes[1, 0], table["uniformity"], table["alignment"], table)
    axes[1, 0].set_xlabel(FIGURES["uniformity"])
    axes[1, 0].set_ylabel(FIGURES["alignment"])
    for number, (column, words) in enumerate(FIGURES.items(), start=1):
        above, below = axes[:, number]
        above.plot(table["epoch"], table[column], ".-", color="tab:green")
        above.set_ylabel(words)
        points = _scatter(below, table[column], top1, table)
        below.set_xlabel(words)
        below.set_ylabel("kNN top-1 (backbone), %")
        below.set_title(_correlation(table[column], top1), fontsize="medium")
    for above in axes[0]:
        above.set_xlabel("epoch")
        above.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(points, ax=axes[1, -1], label="epoch")
    name = os.path.basename(os.path.abspath(workdir))
    name = naming.as_text(name)
    figure.suptitle(f"{name}: representation and kNN", parse_math=False)
    figure.savefig(path, format="png")
    return len(top1)


def read(workdir):
    """Reads the epochs of a run in which the representation was measured.

    Args:
      workdir: of a pre-training run.

    Returns:
      dict: "epoch", "knn_backbone", "knn_projection" and the columns of
      FIGURES, each float64 [epochs].

    Raises:
      ValueError: if there are none.
    """
    path = pathlib.Path(workdir) / "metrics.csv"
    if not path.is_file():
        raise ValueError(
            "The plot is of a run that holds metrics.csv. Received "
            f"{str(workdir)!r} without one. Give the --workdir of the "
            "`pretrain` command."
        )
    columns = (
        "epoch",
        *(f"knn_{layer}" for layer in metrics_csv.KNN_LAYERS),
        *FIGURES,
    )
    rows = [[row.get(c) for c in columns] for row in metrics_csv.read(path)]
    rows = [row for row in rows if None not in row]
    if not rows:
        raise ValueError(
            f"{path} holds no epoch with {', '.join(FIGURES)}. They are "
            "measured with kNN at the end of an epoch: set knn.bank and "
            "knn.query, and train an epoch with this version."
        )
    return dict(zip(columns, np.array(rows, np.float64).T, strict=True))


def _scatter(axes, across, up, table):
    """Draws the epochs as points, joined in their order."""
    axes.plot(across, up, color="0.8", linewidth=1, zorder=1)
    return axes.scatter(across, up, c=table["epoch"], cmap="viridis", zorder=2)


def _correlation(left, right):
    """Words for Spearman's rank correlation, "" where it is not defined."""
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return ""
    ranks = [_ranks(left), _ranks(right)]
    return f"rank correlation {np.corrcoef(ranks)[0, 1]:+.2f}"


def _ranks(values):
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, count = np.unique(
        values, return_inverse=True, return_counts=True
    )
    return (np.cumsum(count) - (count - 1) / 2)[inverse]
