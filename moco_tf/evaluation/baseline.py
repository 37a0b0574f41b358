"""What a run's encoder is compared with, measured before its first step.

knn_baseline.json in a workdir has the figures of the starting encoder, which of
the queries it classes right and how many neighbours each image keeps in another
view: so each later measurement is compared query by query, after a resume too.
"""

from typing import Any, NamedTuple

import numpy as np

from moco_tf import state_files
from moco_tf.monitoring import metrics_csv

FILE = "knn_baseline.json"  # in a workdir
_RIGHT, _WRONG, _UNREAD = "10-"
# Without these a file says nothing of the starting encoder.
_LEAST = ("start_backbone", "start_projection", "knn_chance")
_LOST = "the run goes on without figures of raw pixels and of the start"


class Baseline(NamedTuple):
    """What is known of the time before the first step.

    Attributes:
      figures: dict of floats by column of metrics.csv.
      right: dict layer -> str, a letter for each image of the query set.
      shared: dict image number -> neighbours that its two views share.
    """

    figures: dict[str, float]
    right: dict[str, str] = {}
    shared: dict[int, int] = {}

    def compare(self, right, index):
        """Counts what another encoder classes otherwise than the start.

        Args:
          right: dict layer -> bool [n]. index: int64 [n], of these queries.

        Returns:
          dict of the columns metrics_csv.COUNTS; {} where the start's queries
          are not known, or none of them could be read.
        """
        counts: dict[str, int] = {}
        for layer, rows in right.items():
            letters = np.array(list(self.right.get(layer, "")))
            if not len(letters):
                return {}
            before = letters[index]
            both = before != _UNREAD
            if not both.any():
                return {}
            counts |= {
                f"gained_{layer}": int(np.sum(rows & (before == _WRONG))),
                f"lost_{layer}": int(np.sum(~rows & (before == _RIGHT))),
                "knn_queries": int(both.sum()),
            }
        return counts

    def compare_views(self, shared, most):
        """The standard error of a difference of neighbour stability, paired.

        Args:
          shared: dict as of the attribute, of another encoder.
          most: int, neighbours that two views can share.

        Returns:
          dict with "stability_error", of a share; {} for fewer than two images
          that both have.
        """
        both = sorted(self.shared.keys() & shared.keys())
        if len(both) < 2:
            return {}
        change = [(shared[n] - self.shared[n]) / most for n in both]
        error = np.std(change, ddof=1) / len(both) ** 0.5
        return {"stability_error": float(error)}


def letters(right, index, total):
    """One letter for each query: right, wrong, or one that was not read.

    Args:
      right: bool [n]. index: int64 [n], the queries that were read.
      total: int, of all.
    """
    marks = np.full(total, _UNREAD)
    marks[index] = np.where(right, _RIGHT, _WRONG)
    return "".join(marks)


def write(path, conditions, baseline):
    """Writes a Baseline and what it depends on, a dict for JSON.

    Side effects: writes the file, completely or not at all.
    """
    value: dict[str, Any] = {**conditions, **baseline.figures}
    if baseline.right:
        value["right"] = baseline.right
    if baseline.shared:
        value["shared"] = [list(pair) for pair in baseline.shared.items()]
    state_files.write_json(path, value, with_format=True)


def read(path, conditions):
    """Reads what an encoder is compared with.

    Args:
      path: pathlib.Path of the file. conditions: dict, of this session.

    Returns:
      Baseline, without what an earlier version has not measured; None for one
      that cannot be read, or was measured under other conditions.

    Side effects: says so; a damaged file is set aside.
    """
    try:
        saved = state_files.read_json(path)
        baseline = _parse(saved)
    except state_files.LaterVersion as error:
        print(f"Warning: {error} Until then {_LOST}.")
        return None
    except state_files.Damaged as error:
        damage = f"{error.path} {error.damage}"
    except (KeyError, TypeError, ValueError, AttributeError):
        damage = f"{path} lacks figures"
    else:
        if {name: saved.get(name) for name in conditions} == conditions:
            return baseline
        print(
            "The starting encoder was measured with another bank, query set, "
            "k, temperature or sample: it is left out."
        )
        return None
    other = state_files.set_aside(path)
    state_files.warn(f"{damage}: {_LOST}; the file is kept as {other}")
    return None


def _parse(saved):
    """The Baseline of a file's dict.

    Raises:
      KeyError, TypeError, ValueError, AttributeError: for what is none.
    """
    saved = {metrics_csv.RENAMED.get(k, k): v for k, v in saved.items()}
    least = _LEAST if "k" in saved else ("start_alignment",)
    known = (*metrics_csv.BASELINES, *metrics_csv.STARTS)
    figures = {x: float(saved[x]) for x in known if x in saved or x in least}
    right = {str(k): str(v) for k, v in saved.get("right", {}).items()}
    if set("".join(right.values())) - {_RIGHT, _WRONG, _UNREAD}:
        right = {}
    shared = {int(k): int(v) for k, v in saved.get("shared", [])}
    return Baseline(figures, right, shared)
