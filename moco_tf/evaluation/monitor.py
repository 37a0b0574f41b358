"""kNN and representation of the encoder of a run, epoch after epoch."""

import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import paths, plan
from moco_tf.data import sources, views
from moco_tf.evaluation import baseline, features, knn, representation
from moco_tf.monitoring import listener, metrics_csv

_WITHOUT = (
    "Or train without kNN: --config.knn.bank= --config.knn.query= (both empty)."
)
_PAIRS = 512  # images of which two training views are compared
_OFF = (
    "  kNN      off: name labelled images, --config.knn.bank=SOURCE, and "
    "others, --config.knn.query=SOURCE, to know how good the encoder is\n"
)
_PIXELS = 100_000  # images at most whose raw pixels are compared: 1.2 GB


def describe(knn):
    """What a user should know of a Monitor, or of none, in lines, or ""."""
    return knn.describe() if knn else _OFF


def of_run(config, steps_per_epoch, source, probed=None):
    """Makes the monitor of a run: of kNN, or of images without labels.

    Args:
      config: ConfigDict of a pre-training. steps_per_epoch: int.
      source: Source that it trains on, looked at where knn.bank is empty.
      probed: Source that an online probe learns the labels of, or None.

    Returns:
      KnnMonitor; without knn.bank a Monitor of knn.sample images, or None.
    """
    if config.knn.bank:
        return KnnMonitor(config, steps_per_epoch, probed)
    count = config.knn.sample
    if not count:
        return None
    chosen = sources.evenly_spaced(len(source), count)
    return Monitor(config, sources.Subset(source, chosen), steps_per_epoch)


class Monitor(listener.Listener):
    """Measures the representation of images, without labels, for one run.

    As a listener it measures every few epochs and after the last, beside the
    figures of the encoder that the run began with.

    Attributes:
      query: Source of the images. is_labelled: whether there is a kNN.
      newest_top1: float, top-1 of the layer that chooses the best checkpoint,
        of the last epoch that this session measured; None before.
      baseline: Baseline, what the encoder is compared with; None where it was
        not measured.
    """

    is_labelled = False

    def __init__(self, config, query, steps_per_epoch=1):
        """Reads nothing yet.

        Args:
          config: ConfigDict of a pre-training. query: Source.
          steps_per_epoch: int, of the run that it listens to.
        """
        self.config = config
        self.query = query
        self.recipe = views.recipe(config.data.views, config.data.strength)
        # One trace of each serves all epochs, and one iterator.
        self._batches = {query: self._batches_of(query)}
        self._training_views = [
            tf.function(functools.partial(self._view, number), autograph=False)
            for number in (0, 1)
        ]
        self._aligned: list = []  # batches of two training views of the subset
        self._subset: Any = None
        self._steps_per_epoch = steps_per_epoch
        # Of the newest measurement, for comparison with the start's.
        self._shared: dict[int, int] = {}
        self._most = 0
        self.newest_top1: float | None = None
        self.baseline: Any = None

    def on_epoch(self, method, row):
        config = self.config
        epoch = row["step"] // self._steps_per_epoch
        last = config.train.epochs
        if max_steps := config.train.get("max_steps", 0):
            last = min(last, max_steps // self._steps_per_epoch)
        if epoch % config.knn.every_epochs == 0 or epoch == last:
            self.measure(method, row)

    def measure(self, method, row):
        """Adds the figures of a method's encoder, and the start's, to a row."""
        row.update(self(method.query_encoder))
        if self.baseline:
            row.update(self.baseline.figures | self._against_start())

    def _against_start(self):
        """The columns that compare the newest measurement with the start."""
        if not self._most:
            return {}
        return self.baseline.compare_views(self._shared, self._most)

    def describe(self):
        """What a user should know of what is measured, in lines, or ""."""
        return (
            f"{_OFF}           {len(self.query)} training images are looked "
            "at without labels instead\n"
        )

    def take(self):
        """The newest features of bank and query; here there are none."""

    def __call__(self, encoder):
        """Measures an encoder.

        Returns:
          dict of figures by column of metrics.csv: of the plain views'
          backbone features uniformity, effective_rank and feature_norm; of two
          random training views alignment and neighbour_stability. {} where a
          single image can be read.
        """
        return self._representation(encoder, self._extract(encoder, self.query))

    def _representation(self, encoder, encoded):
        """The figures without labels; encoded: features.Features of query."""
        self._shared, self._most = {}, 0
        if len(encoded.index) < 2:  # it has no distance to another
            return {}
        figures = representation.describe(encoded.backbone)
        return figures | self._of_views(encoder, encoded.index)

    def measure_baseline(self, encoder, workdir):
        """Measures what the encoder is compared with: `baseline`.

        Args:
          encoder: encoder.Encoder, as the run begins. workdir: Path.

        Side effects: writes it to the workdir.
        """
        self.baseline = self._first(encoder)
        path = workdir / baseline.FILE
        baseline.write(path, self._conditions(), self.baseline)

    def _first(self, encoder):
        """The Baseline of an encoder that has made no step."""
        figures = self(encoder)
        starts = {
            name: figures[of]
            for name, of in metrics_csv.STARTS.items()
            if of in figures
        }
        return baseline.Baseline(starts, {}, self._shared)

    def recall_baseline(self, workdir):
        """Takes `baseline` from an earlier session that measured in this way.

        Args:
          workdir: Path.

        Side effects: as of `baseline.read`.
        """
        path = workdir / baseline.FILE
        if os.path.lexists(path):
            self.baseline = baseline.read(path, self._conditions())

    def _conditions(self):
        """What the figures of a baseline depend on, for JSON."""
        return {"sample": self.query.fingerprint()}

    def baseline_words(self):
        """The baseline in words, or ""."""
        figures = self.baseline.figures if self.baseline else {}
        return "  ".join(
            f"{of.replace('_', ' ')} {figures[name]:.3g}"
            for name, of in metrics_csv.STARTS.items()
            if name in figures
        )

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

    def _of_views(self, encoder, readable):
        """Measures two training views of a fixed part of the images.

        Args:
          encoder: encoder.Encoder.
          readable: int64 [n], the images of `query` that can be read.

        Returns:
          dict: alignment, and neighbour_stability of enough images.
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
        index, left, right = np.intersect1d(
            first.index, second.index, assume_unique=True, return_indices=True
        )
        pair = first.backbone[left], second.backbone[right]
        figures = {"alignment": representation.alignment(*pair)}
        shared, self._most = representation.shared_neighbours(*pair)
        if self._most:
            numbers = chosen[index].tolist()
            self._shared = dict(zip(numbers, shared.tolist(), strict=True))
            figures["neighbour_stability"] = float(shared.mean() / self._most)
        return figures

    def _view(self, number, image, index):
        """Makes training view 0 or 1 of an image, the same in every epoch."""
        # Below 0, where no step of the training draws its views.
        position = -1 - (2 * index + number)
        seed = tf.stack([tf.constant(self.config.seed, tf.int64), position])
        augment = self.recipe.both[number]
        return augment(image, self.config.data.image_size, seed)


class KnnMonitor(Monitor):
    """Measures kNN of an encoder between two labelled sources, for one run.

    From the same features it measures, without labels, the representation; and
    the top-1 of the run's online probe, if there is one, on the queries: of
    single plain views of images that no step trains on, as kNN has it, where
    the top-1 of its steps is that of training views.
    """

    is_labelled = True

    def __init__(self, config, steps_per_epoch=1, probed=None):
        """Opens both sources and checks their labels.

        Args:
          config: ConfigDict of a pre-training.
          steps_per_epoch: int, of the run that it listens to.
          probed: Source that an online probe learns the labels of, or None.

        Raises:
          ValueError: if they cannot be compared.
        """
        self.bank, query = knn.labelled(
            plan.open_source(config, config.knn.bank),
            plan.open_source(config, config.knn.query),
            [config.knn.k],
            _WITHOUT,
        )
        super().__init__(config, query, steps_per_epoch)
        self._batches[self.bank] = self._batches_of(self.bank)
        self.truth, self.classes = features.common_labels(self.bank, query)
        self._encoded: Any = None
        self._right: dict[str, np.ndarray] = {}  # of the newest measurement
        self._index = np.array([], np.int64)
        self._probed_truth, self._no_probe = _truth_of_probe(probed, query)

    def measure(self, method, row):
        super().measure(method, row)
        self.newest_top1 = row[f"knn_{self.config.knn.features}"]
        if self._probed_truth is not None:
            row["probe_top1"] = self._probe_top1(method.probe)

    def _against_start(self):
        counts = self.baseline.compare(self._right, self._index)
        return super()._against_start() | counts

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
        if configs.votes_on_other_images(
            configs.flatten(self.config.to_dict())
        ):
            lines += (
                "Warning: kNN votes on the embedded shapes, not on the images "
                "that are trained on: it says nothing about those.\n"
            )
        return lines + self._no_probe

    def take(self):
        """Returns the newest features of bank and query once, then None."""
        encoded, self._encoded = self._encoded, None
        return encoded

    def __call__(self, encoder):
        """Measures an encoder.

        Returns:
          dict of figures by column of metrics.csv: knn_backbone and
          knn_projection, top-1 fractions, and those of a Monitor, of the query
          set. With one image that can be read, kNN alone.
        """
        bank = self._extract(encoder, self.bank)
        query = self._extract(encoder, self.query)
        self._encoded = bank, query
        self._index = query.index
        self._right = knn.hits(
            bank,
            query,
            self.truth[query.index],
            self.classes,
            k=self.config.knn.k,
            temperature=self.config.knn.temperature,
        )
        figures = {
            f"knn_{layer}": int(rows.sum()) / len(rows)
            for layer, rows in self._right.items()
        }
        return figures | self._representation(encoder, query)

    def _first(self, encoder):
        """As of a Monitor; and kNN of the encoder, raw pixels and chance.

        Raw pixels are of up to 100,000 images. Chance is the guess that every
        image is of the class that the bank has most images of.
        """
        starts = super()._first(encoder)
        self._encoded = None  # nobody draws pictures of them
        figures = {
            f"start_{layer}": int(rows.sum()) / len(rows)
            for layer, rows in self._right.items()
        }
        if max(len(self.bank), len(self.query)) <= _PIXELS:
            pixels = knn.compare_pixels(
                self.bank,
                self.query,
                self.recipe,
                self.config.data.image_size,
                k=self.config.knn.k,
                temperature=self.config.knn.temperature,
            )
            figures["knn_pixels"] = float(pixels)
        guess = np.bincount(np.asarray(self.bank.labels)).argmax()
        figures["knn_chance"] = float(np.mean(self.truth == guess))
        right = {
            layer: baseline.letters(rows, self._index, len(self.query))
            for layer, rows in self._right.items()
        }
        figures |= starts.figures
        return starts._replace(figures=figures, right=right)

    def _conditions(self):
        return {
            "bank": self.bank.fingerprint(),
            "query": self.query.fingerprint(),
            "k": self.config.knn.k,
            "temperature": self.config.knn.temperature,
        }

    def baseline_words(self):
        """The baseline's kNN, of the layer that chooses the best, or ""."""
        figures = self.baseline.figures if self.baseline else {}
        layer = self.config.knn.features
        start = plan.start_words(self.config)
        return "  ".join(
            f"{metrics_csv.words_of(name, start)} {100 * figures[name]:.2f} %"
            for name in ("knn_pixels", f"start_{layer}", "knn_chance")
            if name in figures
        )

    def _probe_top1(self, probe):
        """The share of the newest query features that a probe classes right."""
        _, query = self._encoded
        truth = self._probed_truth[query.index]
        return float(np.mean(probe.classify(query.backbone) == truth))


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
