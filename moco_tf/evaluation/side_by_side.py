"""Several encoders on the same images: what is measured of each of them.

Accuracies are kept query by query, for evaluation/paired.py: kNN and a linear
probe on cached features. Without labels there are the representation, and which
neighbours the encoders agree on. Nothing here holds all features in memory.

    FOLDER/ENCODER-SOURCE/                  features (evaluation/features.py)
    FOLDER/outcomes/ENCODER-DIGEST.npz      what was measured from them

The digest is of the weights, the images, their labels and the settings: what
was measured of other ones is never taken for these.
"""

import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import counting, filesystem, state_files
from moco_tf.data import sources, views
from moco_tf.evaluation import (
    cached_probe,
    embeddings,
    features,
    knn,
    logistic,
    neighbours,
    representation,
    voting,
)

LAYER = "backbone"
_VERSION = 1  # of what is measured; another one is measured anew
_PAIRS = 512  # images of which two random views are compared
BATCH = 64  # images of all forward passes: each encoder is traced once
_ROWS = 4096  # queries whose neighbours are compared at once


class Settings(NamedTuple):
    """How encoders are measured, all alike.

    Attributes:
      k: neighbours that vote, and of which agreement is measured.
      temperature: of the vote.
      probe: whether a linear probe is fitted.
    """

    k: int
    temperature: float
    probe: bool


class Sets(NamedTuple):
    """The images that encoders are compared on.

    Attributes:
      bank: Source, whose images vote, are neighbours and train the probe.
      query: Source, whose images are classified; `bank` itself where one set
        serves for both: then no image is its own neighbour, and each half is
        classified by a probe of the other half.
      truth: int64 [len(query)] in the bank's numbering; None: no accuracy.
      classes: int. why: sentence, why there is no accuracy, or "".
    """

    bank: sources.Source
    query: sources.Source
    truth: np.ndarray | None
    classes: int
    why: str

    @property
    def one(self):
        """Whether one set serves for both."""
        return self.bank is self.query


class Outcome(NamedTuple):
    """What was measured of one encoder.

    Attributes:
      near: int32 [q, k], rows of the bank's readable images, nearest first.
      knn, probe: bool [q], whether a query was classified rightly; None: not
        measured.
      figures: dict of floats: dimension, uniformity, effective_rank,
        feature_norm, alignment, and the penalties of the probe.
    """

    near: np.ndarray
    knn: np.ndarray | None
    probe: np.ndarray | None
    figures: dict


def open_sets(bank, query, channels, k):
    """Opens the images of a comparison, and checks them.

    Args:
      bank, query: specs; query "": the bank's images are the queries.
      channels: of the images that the encoders take. k: neighbours.

    Returns:
      Sets; of labelled sources the images with a label.

    Raises:
      ValueError: for what cannot be compared.
    """
    opened = [sources.open_source(bank, channels)]
    opened.append(sources.open_source(query, channels) if query else opened[0])
    if sources.are_same(*opened):
        opened = [opened[0]] * 2
    truth, classes, why = None, 0, ""
    try:
        names = ("bank", "query set")
        labelled = [
            sources.labelled(source, name)
            for source, name in zip(opened, names, strict=True)
        ]
    except ValueError as error:
        why = str(error)
    else:
        if opened[0] is opened[1]:
            labelled = labelled[:1] * 2
        truth, classes = features.common_labels(*labelled)
        opened = labelled
        if classes < 2:
            truth, why = None, "All images are of one class."
    others = len(opened[0]) - (opened[0] is opened[1])
    voting.check_k(k, others)
    if len(opened[1]) < 2:
        raise ValueError(
            "Encoders are compared on two images or more. Received "
            f"{len(opened[1])} to classify. Give a larger --query."
        )
    return Sets(opened[0], opened[1], truth, classes, why)


def why_no_probe(sets):
    """Why no linear probe can be trained on the sets, a sentence; or ""."""
    if sets.truth is None:
        return sets.why
    labels = np.asarray(sets.bank.labels)
    parts = _halves(labels) if sets.one else [np.ones(len(labels), bool)]
    for part in parts:
        counts = np.unique(labels[part], return_counts=True)[1]
        if len(counts) < 2 or counts.max() < 2:
            return (
                "A linear probe needs more images: two classes, of one of "
                "which a further image can be held out."
            )
    return ""


def check(encoder, name):
    """Refuses an encoder that cannot be measured, by features of noise.

    Args:
      encoder: frozen.FrozenEncoder. name: of it in messages.

    Raises:
      ValueError: for features that are not finite.
    """
    if not np.isfinite(encoder.encode(noise(encoder))[LAYER]).all():
        raise ValueError(
            "Encoders that are compared must give finite features. Received "
            f"NaN or infinite ones of {name}: it has diverged or its file is "
            "damaged. Leave it out, or name an earlier checkpoint of it, as "
            "RUN@1200."
        )


def noise(encoder):
    """A batch of noise as an encoder takes it, uint8 [BATCH, S, S, C]."""
    side = encoder.image_size
    random = np.random.default_rng(0)
    shape = [BATCH, side, side, encoder.channels]
    return tf.constant(random.integers(0, 256, shape, np.uint8))


def measure(encoder, sets, settings, store):
    """Measures one encoder, as far as the disk does not have it.

    Args:
      encoder: frozen.FrozenEncoder with backbone features. sets: Sets.
      settings: Settings. store: folder of features and outcomes.

    Returns:
      Outcome; index int64 of the bank's and of the queries' readable images.

    Raises:
      ValueError: when no image can be read, or fewer than it takes.

    Side effects: writes below `store`.
    """
    store = pathlib.Path(store)
    bank = features.extract_to_disk(encoder, sets.bank, store, BATCH)
    query = bank
    if not sets.one:
        query = features.extract_to_disk(encoder, sets.query, store, BATCH)
    path = _path(encoder, sets, settings, store)
    outcome = _read(path)
    if outcome is None:
        outcome = _measure(encoder, sets, settings, bank, query)
        _write(path, outcome)
    return outcome, (bank.index, query.index)


def _measure(encoder, sets, settings, bank, query):
    """An Outcome from stored features."""
    bank_rows, query_rows = bank.rows[LAYER], query.rows[LAYER]
    # The same identity, so that no image is a neighbour of itself.
    near = neighbours.search(
        _embeddings(bank, sets.bank),
        _embeddings(query, sets.query),
        settings.k,
        LAYER,
    )
    knn_right, probe_right, figures = None, None, {}
    if sets.truth is not None:
        truth = sets.truth[query.index]
        knn_right = np.empty(len(truth), bool)
        for rows in _blocks(len(truth)):
            labels = bank.labels[near.index[rows]]
            knn_right[rows] = truth[rows] == voting.winners(
                near.cosine[rows], labels, settings.temperature, sets.classes
            )
        if settings.probe:
            probe_right, penalties = _probe(
                bank_rows,
                bank.labels,
                query_rows,
                truth,
                sets.one,
                sets.classes,
            )
            figures["probe_penalties"] = penalties
    described = query_rows[:: -(-len(query_rows) // knn.DESCRIBED)]
    figures |= {
        "dimension": int(query_rows.shape[1]),
        **representation.describe(described),
        "alignment": _alignment(encoder, sets.query, query.index),
    }
    near_rows = near.index.astype(np.int32)
    return Outcome(near_rows, knn_right, probe_right, figures)


def _embeddings(stored, source):
    """Stored features as neighbours.search takes them."""
    about = {"encoder": "", "fingerprint": source.fingerprint(), "title": ""}
    return embeddings.Embeddings(
        stored.rows, stored.index, (), None, None, about
    )


def _halves(labels):
    """Two halves of labelled images, as equal in each class as they can be."""
    everything = np.ones(len(labels), bool)
    half = cached_probe.hold_out(labels, everything, 0.5, seed=1)
    return [~half, half]


def _probe(rows, labels, query_rows, truth, one, classes):
    """Whether a linear probe classifies each query rightly, and its penalties.

    Args:
      rows: float32 [n, F] of the bank. labels: int64 [n].
      query_rows: float32 [q, F]. truth: int64 [q].
      one: whether the queries are the bank: each half of them is then
        classified by a probe of the other half.
      classes: int.

    Returns:
      bool [q], list of the chosen penalties.
    """
    parts = [(np.ones(len(labels), bool), np.ones(len(truth), bool))]
    if one:
        first, second = _halves(labels)
        parts = [(first, second), (second, first)]
    right, penalties = np.zeros(len(truth), bool), []
    for trained, tested in parts:
        classifier = logistic.fit(rows, labels, trained, classes)
        penalties.append(classifier.penalty)
        for block in _blocks(len(truth)):
            best = cached_probe.scores(query_rows[block], classifier.weights)[0]
            correct = best.argmax(axis=1) == truth[block]
            right[block] |= correct & tested[block]
    return right, penalties


@counting.timed("measuring alignment")
def _alignment(encoder, source, readable):
    """Alignment of two random views of a fixed part of the queries.

    The views are those of MoCo v2, for all encoders alike; of images that are
    not of three colours, crops and flips of them.
    """
    chosen = readable[sources.evenly_spaced(len(readable), _PAIRS)]
    # Each image twice, one behind the other: two views by one data set.
    subset = sources.Subset(source, np.repeat(chosen, 2))
    augment: Any = views.RECIPES["v2"].augment
    if source.channels != 3:
        augment = views.crop_and_flip(0.2)

    def view(image, index):
        seed = tf.stack([tf.constant(0, tf.int64), index])
        return augment(image, encoder.image_size, seed)

    rows = [
        encoder.encode(features.pad_batch(images, BATCH))[LAYER].numpy()[
            : len(index)
        ]
        for images, index in features.evaluation_batches(
            subset, encoder.recipe, encoder.image_size, BATCH, view=view
        )
    ]
    both = np.concatenate(rows)
    return representation.alignment(both[::2], both[1::2])


def agreement(first, second):
    """Shares of neighbours that two encoders have in common, query by query.

    Args:
      first, second: int [q, k], neighbours of the same queries in one bank.

    Returns:
      float64 [q] in 0..1.
    """
    shares = np.empty(len(first))
    for rows in _blocks(len(first)):
        left, right = first[rows], second[rows]
        both = (left[:, :, np.newaxis] == right[:, np.newaxis]).any(axis=2)
        shares[rows] = both.mean(axis=1)
    return shares


def _blocks(count):
    for start in range(0, count, _ROWS):
        yield slice(start, start + _ROWS)


def _path(encoder, sets, settings, store):
    """The file of an Outcome."""
    labels = [sets.bank.labels, sets.truth]
    about = json.dumps(
        [
            _VERSION,
            encoder.identity,
            [source.fingerprint() for source in (sets.bank, sets.query)],
            [
                "" if x is None else hashlib.sha256(np.asarray(x)).hexdigest()
                for x in labels
            ],
            *settings,
        ]
    )
    digest = hashlib.sha256(about.encode()).hexdigest()[:16]
    return store / "outcomes" / f"{encoder.identity[:16]}-{digest}.npz"


def _write(path, outcome):
    """Writes an Outcome, complete or not at all."""
    arrays = {"near": outcome.near, "figures": json.dumps(outcome.figures)}
    for name in ("knn", "probe"):
        if (values := getattr(outcome, name)) is not None:
            arrays[name] = values
    with (
        filesystem.atomic_file(path, per_process=True) as part,
        open(part, "wb") as file,  # savez would append .npz to a name
    ):
        np.savez(file, **arrays)


def _read(path):
    """The Outcome of a file; None without one, or for one that is damaged.

    Side effects: says so, and sets a damaged file aside.
    """
    if not os.path.lexists(path):
        return None
    damage = state_files.zip_damage(path)
    if not damage:
        try:
            with np.load(path, allow_pickle=False) as file:
                return Outcome(
                    file["near"],
                    file["knn"] if "knn" in file else None,
                    file["probe"] if "probe" in file else None,
                    json.loads(str(file["figures"])),
                )
        except state_files.DAMAGED_ARRAY as error:
            damage = f"is no outcome of a comparison: {error}".rstrip(".")
    other = state_files.set_aside(path)
    state_files.warn(f"{path} {damage}: it is measured again, kept as {other}")
    return None
