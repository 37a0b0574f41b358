"""The published CIFAR-10 curve, and which runs it may stand beside."""

import json
import os
import pathlib
import re

import numpy as np

from moco_tf import config as configs

_FILE = pathlib.Path(__file__).parent / "published_cifar10.json"
# The size of the loss depends on these alone, beside the training itself.
_FIELDS_OF_LOSS = ("moco.queue_size", "moco.temperature", "moco.symmetric")
# The end of a path: the images, in a file or folders of a form, size or split;
# or a data set of tfds with its version and splits. (cifar10_1 is another.)
_FORMS = (
    r"jpe?gs?|pngs?|images?|prepared|cache|txt|csv|tsv|\d{2,4}|\d+\.\d+\.\d+"
)
_OF_IT = rf"({_FORMS}|train(ing)?|test)\b"
_NAMED = re.compile(
    rf"(^|/)cifar[-_ ]?10([-_ ./:+]{_OF_IT}(\[[^]]*\])?)*/?$", re.IGNORECASE
)


def cifar10():
    """The published figures (published_cifar10.json), a dict."""
    return json.loads(_FILE.read_text())


def is_cifar10(config):
    """Whether a run of MoCo trains on CIFAR-10, by its source alone.

    Args:
      config: ConfigDict.

    Returns:
      bool: the source is named so, or is a folder of its ten classes. Other
      methods have another loss and queue: never.
    """
    if config.get("method") != "moco":  # none, of a task
        return False
    kind, _, rest = config.data.source.partition(":")
    name = rest.partition("@")[0] if kind == "tfds" else rest
    if _NAMED.search(name):
        return True
    folder = os.path.expanduser(rest)
    if kind != "folder" or not os.path.isdir(folder):
        return False
    names = sorted(x for x in os.listdir(folder) if not x.startswith("."))
    return names == cifar10()["classes"]


def departures(config):
    """The fields in which a run departs from the published one.

    Args:
      config: ConfigDict.

    Returns:
      list of (field, published, the run's).
    """
    fields = configs.flatten(config.to_dict())
    return [
        (name, value, fields.get(name))
        for name, value in cifar10()["recipe"].items()
        if fields.get(name) != value
    ]


def compares_loss(config):
    """Whether the run's loss has the scale of the published one."""
    return not any(name in _FIELDS_OF_LOSS for name, _, _ in departures(config))


def band(figure, last_epoch):
    """The band around the published curve from epoch 1 to an epoch.

    Args:
      figure: "loss", nats, or "knn", percent.
      last_epoch: float; the band ends there, or at epoch 200.

    Returns:
      epoch, low, published, high: float64 [n] each: after every epoch, and on
      the straight line between two of them where last_epoch ends within one.
    """
    curve = cifar10()
    values = curve["loss" if figure == "loss" else "knn_percent"]
    known = np.arange(1.0, len(values) + 1)
    last = min(max(last_epoch, known[0]), known[-1])
    epoch = np.unique([*known[known < last], last])
    middle = np.interp(epoch, known, values)
    if figure == "loss":
        reach = curve["band"]["loss_share"] * middle
    else:
        reach = np.full_like(middle, curve["band"]["knn_points"])
    return epoch, middle - reach, middle, middle + reach
