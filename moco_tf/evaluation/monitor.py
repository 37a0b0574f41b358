"""kNN and representation of the encoder of a run, epoch after epoch."""

import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf import paths, plan, state_files
from moco_tf.data import sources, views
from moco_tf.evaluation import features, knn, representation
from moco_tf.monitoring import listener, metrics_csv

BASELINE = "knn_baseline.json"  # in a workdir
_WITHOUT = (
    "Or train without kNN: --config.knn.bank= --config.knn.query= (both empty)."
)
_PAIRS = 512  # images of which two training views are compared


class KnnMonitor(listener.Listener):
    """Measures kNN of an encoder between two labelled sources, for one run.

    As a listener it measures every few epochs and after the last. From the same
    features it measures, without labels, the representation; and the top-1 of
    the run's online probe, if there is one, on the queries: of single plain
    views of images that no step trains on, as kNN has it, where the top-1 of
    its steps is that of training views.

    Attributes:
      newest_top1: float, top-1 of the layer that chooses the best checkpoint,
        of the last epoch that this session measured; None before.
      baseline: dict of figures by column of metrics.csv, what the encoder is
        compared with; {} where it was not measured.
    """

    def __init__(self, config, steps_per_epoch=1, probed=None):
        """Opens both sources and checks their labels.

        Args:
          config: ConfigDict of a pre-training.
          steps_per_epoch: int, of the run that it listens to.
          probed: Source that an online probe learns the labels of, or None.

        Raises:
          ValueError: if they cannot be compared.
        """
        self.config = config
        self.recipe = views.recipe(config.data.views, config.data.strength)
        self.bank, self.query = knn.labelled(
            plan.open_source(config, config.knn.bank),
            plan.open_source(config, config.knn.query),
            [config.knn.k],
            _WITHOUT,
        )
        self.truth, self.classes = features.common_labels(self.bank, self.query)
        # One trace of each serves all epochs, and one iterator.
        self._batches = {
            source: self._batches_of(source)
            for source in (self.bank, self.query)
        }
        self._training_views = [
            tf.function(functools.partial(self._view, number), autograph=False)
            for number in (0, 1)
        ]
        self._aligned: list = []  # batches of two training views of the subset
        self._subset: Any = None
        self._encoded: Any = None
        self._steps_per_epoch = steps_per_epoch
        self._probed_truth, self._no_probe = _truth_of_probe(probed, self.query)
        self.newest_top1 = None
        self.baseline: dict[str, float] = {}

    def on_epoch(self, method, row):
        config = self.config
        epoch = row["step"] // self._steps_per_epoch
        if epoch % config.knn.every_epochs == 0 or epoch == config.train.epochs:
            row.update(self(method.query_encoder) | self.baseline)
            self.newest_top1 = row[f"knn_{config.knn.features}"]
            if self._probed_truth is not None:
                row["probe_top1"] = self._probe_top1(method.probe)

    def describe(self):
        """What a user should know of both sources, a line each, or ""."""
        specs = self.config.knn.bank, self.config.knn.query
        named = dict(zip(specs, (self.bank, self.query), strict=True))
        named.pop(self.config.data.source, None)  # the plan has spoken of it
        lines = "".join(
            f"  kNN      {len(source)} images of {paths.shown(spec)}\n{lines}"
            for spec, source in named.items()
            if (lines := sources.remark_lines(source, " " * 11))
        )
        if words := knn.overlap_words(self.bank, self.query):
            lines += f"Warning: kNN: {words}\n"
        return lines + self._no_probe

    def take(self):
        """Returns the newest features of bank and query once, then None."""
        encoded, self._encoded = self._encoded, None
        return encoded

    def __call__(self, encoder):
        """Measures an encoder.

        Returns:
          dict of figures by column of metrics.csv: knn_backbone and
          knn_projection, top-1 fractions; of the query set's backbone features
          uniformity, effective_rank and feature_norm; alignment of two random
          training views. With one image that can be read, kNN alone.
        """
        bank = self._extract(encoder, self.bank)
        query = self._extract(encoder, self.query)
        self._encoded = bank, query
        figures = {
            f"knn_{layer}": top1
            for layer, top1 in self._knn(bank, query).items()
        }
        if len(query.index) > 1:  # a single image has no distance to another
            figures |= representation.describe(query.backbone)
            figures["alignment"] = self._alignment(encoder, query.index)
        return figures

    def measure_baseline(self, encoder, workdir):
        """Measures what the encoder is compared with: `baseline`.

        Raw pixels; the encoder, untrained; and chance, the guess that every
        image is of the class that the bank has most images of.

        Args:
          encoder: encoder.Encoder, untrained. workdir: Path.

        Side effects: writes the figures to the workdir.
        """
        settings = self.config.knn
        pixels = knn.compare_pixels(
            self.bank,
            self.query,
            self.recipe,
            self.config.data.image_size,
            k=settings.k,
            temperature=settings.temperature,
        )
        untrained = self._knn(
            self._extract(encoder, self.bank),
            self._extract(encoder, self.query),
        )
        guess = np.bincount(np.asarray(self.bank.labels)).argmax()
        self.baseline = {
            "knn_pixels": float(pixels),
            **{f"untrained_{name}": float(v) for name, v in untrained.items()},
            "knn_chance": float(np.mean(self.truth == guess)),
        }
        value = self._conditions() | self.baseline
        state_files.write_json(workdir / BASELINE, value, with_format=True)

    def recall_baseline(self, workdir):
        """Takes `baseline` from an earlier session that measured in this way.

        Args:
          workdir: Path.

        Side effects: as of `read_baseline`.
        """
        path = workdir / BASELINE
        if os.path.lexists(path):
            self.baseline = read_baseline(path, self._conditions())

    def _conditions(self):
        """What the figures of a baseline depend on, for JSON."""
        return {
            "bank": self.bank.fingerprint(),
            "query": self.query.fingerprint(),
            "k": self.config.knn.k,
            "temperature": self.config.knn.temperature,
        }

    def baseline_words(self):
        """The baseline in words, of the layer that chooses the best, or ""."""
        layer = self.config.knn.features
        names = ("knn_pixels", f"untrained_{layer}", "knn_chance")
        return "  ".join(
            f"{metrics_csv.BASELINES[name]} {100 * self.baseline[name]:.2f} %"
            for name in names
            if name in self.baseline
        )

    def _probe_top1(self, probe):
        """The share of the newest query features that a probe classes right."""
        _, query = self._encoded
        truth = self._probed_truth[query.index]
        return float(np.mean(probe.classify(query.backbone) == truth))

    def _batches_of(self, source, view=None):
        return RepeatedBatches(
            source,
            self.recipe,
            self.config.data.image_size,
            self.config.knn.batch_size,
            view,
        )

    def _extract(self, encoder, source, batches=None):
        return features.extract_in_memory(
            encoder,
            source,
            self.recipe,
            self.config.data.image_size,
            self.config.knn.batch_size,
            batches or self._batches[source],
        )

    def _knn(self, bank, query):
        return knn.compare(
            bank,
            query,
            self.truth[query.index],
            self.classes,
            k=self.config.knn.k,
            temperature=self.config.knn.temperature,
        )

    def _alignment(self, encoder, readable):
        """Measures two training views of a fixed part of the queries.

        Args:
          encoder: encoder.Encoder.
          readable: int64 [n], the query images that can be read.

        Returns:
          float, see representation.alignment.
        """
        chosen = readable[sources.evenly_spaced(len(readable), _PAIRS)]
        if self._subset is None or not np.array_equal(
            chosen, self._subset.indices
        ):
            self._subset = sources.Subset(self.query, chosen)
            self._aligned = [
                self._batches_of(self._subset, view)
                for view in self._training_views
            ]
        first, second = (
            self._extract(encoder, self._subset, batches)
            for batches in self._aligned
        )
        # A file may have become unreadable between the two.
        _, left, right = np.intersect1d(
            first.index, second.index, assume_unique=True, return_indices=True
        )
        return representation.alignment(
            first.backbone[left], second.backbone[right]
        )

    def _view(self, number, image, index):
        """Makes training view 0 or 1 of an image, the same in every epoch."""
        # Below 0, where no step of the training draws its views.
        position = -1 - (2 * index + number)
        seed = tf.stack([tf.constant(self.config.seed, tf.int64), position])
        augment = self.recipe.both[number]
        return augment(image, self.config.data.image_size, seed)


def read_baseline(path, conditions):
    """Reads the figures that an encoder's kNN is compared with.

    Args:
      path: pathlib.Path of the file. conditions: dict, of this session.

    Returns:
      dict of floats by column of metrics.csv; {} for figures that cannot be
      read, or were measured under other conditions.

    Side effects: says so; a damaged file is set aside.
    """
    lost = (
        "the run goes on without kNN of raw pixels and of the untrained encoder"
    )
    try:
        saved = state_files.read_json(path)
        figures = {name: float(saved[name]) for name in metrics_csv.BASELINES}
    except state_files.LaterVersion as error:
        print(f"Warning: {error} Until then {lost}.")
        return {}
    except state_files.Damaged as error:
        damage = f"{error.path} {error.damage}"
    except (KeyError, TypeError, ValueError):
        damage = f"{path} lacks figures"
    else:
        if {name: saved.get(name) for name in conditions} == conditions:
            return figures
        print(
            "kNN of raw pixels and of the untrained encoder was measured with "
            "another bank, query set, k or temperature: it is left out."
        )
        return {}
    other = state_files.set_aside(path)
    state_files.warn(f"{damage}: {lost}; the file is kept as {other}")
    return {}


def _truth_of_probe(probed, query):
    """The labels of the queries in the numbering of an online probe.

    Args:
      probed: Source that it learns the labels of, or None. query: Source.

    Returns:
      int64 [n], or None; and a line with its end, why it cannot be had, or "".
    """
    if probed is None:
        return None, ""
    names = ("training source", "query set")
    probed = sources.labelled(probed, names[0])
    try:
        return features.common_labels(probed, query, names)[0], ""
    except ValueError as error:
        line = f"  probe    not measured on knn.query: {error}\n"
        return None, line


class RepeatedBatches:
    """Batches of `features.evaluation_batches`, for any number of iterations.

    All of them come from one tf.data iterator. For a new one TensorFlow
    optimises the functions anew, which takes half a second for an evaluation
    view and a full second for a training view, and fragments the memory of the
    process.
    """

    def __init__(self, source, recipe, image_size, batch_size, view=None):
        """Reads nothing yet; arguments as of `evaluation_batches`."""
        batches = features.evaluation_batches(
            source, recipe, image_size, batch_size, view=view
        )
        shape = [0, image_size, image_size, source.channels]
        end = (tf.zeros(shape, tf.uint8), tf.zeros([0], tf.int64))
        end = tf.data.Dataset.from_tensors(end)
        # Nothing is read ahead: `repeat` waits for the next iteration.
        self._batches = batches.concatenate(end).repeat()
        self._iterator = None

    def __iter__(self):
        iterator = self._iterator or iter(self._batches)
        self._iterator = None  # an iteration that breaks off does not go on
        for images, index in iterator:
            if not len(index):
                break
            yield images, index
        self._iterator = iterator
