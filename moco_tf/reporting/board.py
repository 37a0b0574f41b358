"""TensorBoard beside scalars: pictures, histograms, hyperparameters, projector.

The projector has files beside the events: projector_config.pbtxt, and in
projector/ features.bytes (float32, row after row), metadata.tsv (name and class
of each row) and sprite.png (their images). They are of the newest epoch.
"""

import hashlib
import os
import pathlib
import time

import numpy as np
from absl import logging
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.hparams import summary, summary_v2
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.projector import projector_config_pb2

from moco_tf import filesystem, paths
from moco_tf.data import sources
from moco_tf.evaluation import voting
from moco_tf.monitoring import listener
from moco_tf.reporting import samples

_PAIRS = 8  # images whose two views are shown
_QUERIES = 8  # fixed images whose neighbours are shown
_NEIGHBOURS = 8
_TILE = 96  # side of a picture in a grid, pixels
_GAP = 4
_SHARE = 0.005  # of a session's time, for the pictures of epochs
_POINTS = 1000  # images in the projector
_SPRITE = 32  # side of an image in the projector, pixels


class Board(listener.Listener):
    """The listener that writes pictures of a run to its TensorBoard folder.

    Pictures cost time: the two views of a batch are drawn once a session, the
    neighbours and the projector when kNN has encoded their images anyway, in
    the first and the last epoch, and between while they have taken less than a
    two-hundredth of the session.
    """

    def __init__(
        self,
        config,
        events,
        folder,
        batches,
        monitor,
        last_step,
        clock=time.perf_counter,
    ):
        """Stores the parts of the run.

        Args:
          config: ConfigDict of the run. events: EventWriter.
          folder: that holds the events.
          batches: Stream of the run. monitor: KnnMonitor, or None.
          last_step: int, after which the run is finished.
          clock: function that returns seconds.
        """
        self._config = config
        self._events = events
        self._folder = pathlib.Path(folder)
        self._batches = batches
        self._monitor = monitor
        self._last_step = last_step
        self._views = {}  # by source, EvaluationViews
        self._sprite = None  # indices of the images in the newest sprite
        self._clock = clock
        self._started, self._spent = clock(), 0.0  # seconds

    def on_start(self, method, step):
        """Writes the hyperparameters, and the views of the next batch."""
        # No list of columns: TensorBoard would show the first by name. Without
        # one it makes its own, of the fields that differ between runs, and of
        # the figures in the order of their groups.
        values = hyperparameters(self._config)
        name = trial(self._folder.absolute().parent)
        self._events.summary(summary_v2.hparams_pb(values, name))
        try:
            pairs = samples.pairs(
                self._config, self._batches.source, _PAIRS, step
            )
        except samples.FAILURES as error:
            logging.warning("No picture of the views: %s", error)
            return
        rows = [[pair.image, pair.query, pair.key] for pair in pairs]
        if rows:
            self._events.image(
                "9 pictures/image, query, key", step, _grid(rows)
            )

    def on_report(self, method, row):
        self.histograms(row["step"], method.last_histograms.read())

    def on_epoch(self, method, row):
        self.draw(row["step"])

    def on_end(self, method, step):
        """Says that the run is finished, if it is."""
        if step >= self._last_step:
            status = Status.Value("STATUS_SUCCESS")
            self._events.summary(summary.session_end_pb(status))

    def histograms(self, step, fractions):
        """Writes the similarities of a step.

        Args:
          step: int. fractions: float32 [2, bins] (losses.similarities); empty
            for a method without.
        """
        if not fractions.size:
            return
        names = ("own keys", "queued keys")
        for name, row in zip(names, fractions, strict=True):
            self._events.histogram(
                f"4 keys/similarities of {name}", step, row, -1.0, 1.0
            )

    def draw(self, step):
        """Draws neighbours and projector, from the features that kNN has left.

        Args:
          step: int, at the end of an epoch.
        """
        encoded = self._monitor and self._monitor.take()
        start = self._clock()
        too_slow = self._spent > _SHARE * (start - self._started)
        if encoded is None or (too_slow and step < self._last_step):
            return
        bank, query = encoded
        try:
            self._neighbours(step, bank, query)
            self._project(query)
        except samples.FAILURES as error:
            logging.warning("No picture of the epoch: %s", error)
        self._spent += self._clock() - start

    def _neighbours(self, step, bank, query):
        """A grid: fixed queries, then their nearest images of the bank."""
        queries = sources.evenly_spaced(len(query.index), _QUERIES)
        count = min(_NEIGHBOURS, len(bank.index))
        _, near = voting.nearest(bank.backbone, query.backbone[queries], count)
        left = self._views_of(self._monitor.query)(query.index[queries])
        right = self._views_of(self._monitor.bank)(bank.index[near].ravel())
        grey = np.full([_TILE, _TILE, 3], 160, np.uint8)
        rows = [
            [
                left.get(int(query.index[row]), grey),
                *(right.get(int(index), grey) for index in bank.index[nearest]),
            ]
            for row, nearest in zip(queries, near, strict=True)
        ]
        self._events.image("9 pictures/query, nearest", step, _grid(rows))

    def _project(self, query):
        """The files of the projector; its page shows the newest epoch."""
        rows = sources.evenly_spaced(len(query.index), _POINTS)
        indices = query.index[rows]
        folder = self._folder / "projector"
        folder.mkdir(exist_ok=True)
        if self._sprite is None or not np.array_equal(indices, self._sprite):
            self._draw_sprite(folder, indices, query.labels, rows)
            self._sprite = indices
        points = query.backbone[rows].astype(np.float32)
        with filesystem.atomic_file(folder / "features.bytes") as part:
            part.write_bytes(points.tobytes())
        config = projector_config_pb2.ProjectorConfig()
        embedding = config.embeddings.add(
            tensor_name="backbone features",
            tensor_path="projector/features.bytes",
            tensor_shape=points.shape,
            metadata_path="projector/metadata.tsv",
        )
        embedding.sprite.image_path = "projector/sprite.png"
        embedding.sprite.single_image_dim.extend([_SPRITE, _SPRITE])
        with filesystem.atomic_file(
            self._folder / "projector_config.pbtxt"
        ) as part:
            part.write_text(text_format.MessageToString(config))

    def _draw_sprite(self, folder, indices, labels, rows):
        """Draws the images of the projector, and writes their names."""
        source = self._monitor.query
        images = self._views_of(source)(indices)
        # A square, as the projector demands.
        side = int(np.ceil(np.sqrt(len(indices))))
        tiles, lines = [], ["name\tclass"]
        for number, index in enumerate(indices):
            tile = None
            if int(index) in images:
                tile = Image.fromarray(images[int(index)])
                tile = tile.resize((_SPRITE, _SPRITE), Image.Resampling.BOX)
            tiles.append(tile)
            label = "" if labels is None else int(labels[rows[number]])
            if source.class_names and label != "":
                label = source.class_names[label]
            lines.append(f"{_line(source.name(int(index)))}\t{_line(label)}")
        samples.grid(tiles, side, side, _SPRITE).save(folder / "sprite.png")
        text = "\n".join(lines) + "\n"
        with filesystem.atomic_file(folder / "metadata.tsv") as part:
            part.write_text(text, "utf-8", "replace")

    def _views_of(self, source):
        """The views of a source, traced once."""
        if source not in self._views:
            self._views[source] = samples.EvaluationViews(
                source, self._monitor.recipe, self._config.data.image_size
            )
        return self._views[source]


def trial(run):
    """The name of a run in the table of hyperparameters.

    Runs of one name would be one row, with the mean of their figures.

    Args:
      run: pathlib.Path of its folder, absolute.
    """
    mark = hashlib.sha256(os.fsencode(run)).hexdigest()[:4]
    return f"{paths.shown(run.name)} ({mark})"


def hyperparameters(config):
    """The fields of a configuration as "section.name" -> number or text."""
    fields_by_name = {}
    for section, value in config.to_dict().items():
        fields = value if isinstance(value, dict) else {"": value}
        for name, field in fields.items():
            if isinstance(field, (tuple, list)):
                field = ", ".join(map(str, field))
            if isinstance(field, str):  # a path may be no text
                field = paths.shown(field)
            fields_by_name[f"{section}.{name}".rstrip(".")] = field
    return fields_by_name


def _grid(rows):
    """Draws pictures in rows and columns, each fitted into a square.

    Args:
      rows: lists of uint8 [H, W, 3] of any size, equally many in each.

    Returns:
      PIL image.
    """
    tiles = [_fit(array) for row in rows for array in row]
    return samples.grid(tiles, len(rows[0]), len(rows), _TILE, _GAP)


def _fit(array):
    """Fits uint8 [H, W, 3] into a PIL image of _TILE x _TILE on white."""
    picture = Image.fromarray(np.asarray(array))
    scale = _TILE / max(picture.size)
    fitted = [max(1, round(scale * length)) for length in picture.size]
    kind = Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.NEAREST
    tile = Image.new("RGB", (_TILE, _TILE), "white")
    corner = tuple((_TILE - length) // 2 for length in fitted)
    tile.paste(picture.resize(fitted, kind), corner)
    return tile


def _line(text):
    """Text without tabs and line breaks."""
    return " ".join(str(text).split())
