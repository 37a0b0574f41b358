"""The two labelled sources of a task: to train on, and to be tested on."""

from typing import NamedTuple

import numpy as np

from moco_tf.data import sources
from moco_tf.evaluation import features


class Labelled(NamedTuple):
    """Sources with labels in one numbering.

    Attributes:
      train, test: Sources.
      train_labels, test_labels: int64 [n], places in `names`.
      names: list of str, of the classes.
    """

    train: sources.Source
    test: sources.Source
    train_labels: np.ndarray
    test_labels: np.ndarray
    names: list[str]


def open_pair(train, test, run_config=None, channels=3):
    """Opens and compares both sources.

    Args:
      train, test: source specs; "": the run's own, knn.bank and knn.query.
      run_config: ConfigDict of a pre-training run, or None.
      channels: of the images that the encoder takes.

    Returns:
      Labelled.

    Raises:
      ValueError: for sources that are not named, without labels, or with test
        classes that the training source lacks.
    """
    own = run_config.knn if run_config is not None else None
    specs = {
        "train": train or (own.bank if own else ""),
        "test": test or (own.query if own else ""),
    }
    for name, spec in specs.items():
        if not spec:
            raise ValueError(
                f"A labelled source to {name} on must be given, and the run "
                f"names none. Pass --config.data.{name}=folder:DIR/{name}."
            )
    opened = [sources.open_source(spec, channels) for spec in specs.values()]
    test_labels, classes = features.common_labels(
        opened[0], opened[1], ("training set", "test set")
    )
    names = opened[0].class_names or [str(n) for n in range(classes)]
    if classes < 2:
        raise ValueError(
            "A classifier needs two classes or more. Received "
            f"{classes} in {specs['train']!r}."
        )
    labels = np.asarray(opened[0].labels, np.int64)
    train_source, test_source = opened
    return Labelled(train_source, test_source, labels, test_labels, names)
