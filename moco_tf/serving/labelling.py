"""Class names in the answers of an export.

`classify` asks a linear classifier on the served features, `neighbours` the
labelled features of a bank by the vote of the nearest ones.
"""

import contextlib
import os
import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from moco_tf import file_kinds, naming, paths, state_files
from moco_tf.data import sources
from moco_tf.evaluation import embeddings, features, voting

SHOWN = 5  # classes of an answer, most probable first
_FEATURE_FILES = (".npz", ".parquet")


class LinearHead(tf.Module):
    """Class probabilities of features: softmax(features @ kernel + bias).

    Attributes:
      kernel: float32 [F, C] variable. bias: float32 [C] variable.
      classes: C names.
    """

    def __init__(self, kernel, bias, classes):
        """Copies float32 [F, C] and [C] arrays."""
        super().__init__()
        self.kernel = tf.Variable(kernel, name="kernel")
        self.bias = tf.Variable(bias, name="bias")
        self.classes = tuple(map(naming.as_text, classes))

    def __call__(self, features):
        """Names the most probable classes.

        Args:
          features: float32 [n, F], as the encoder gives them.

        Returns:
          classes string [n, k], probabilities float32 [n, k], in falling
          order; k is 5, or the number of classes if that is lower.
        """
        logits = tf.linalg.matmul(features, self.kernel) + self.bias
        shown = min(SHOWN, len(self.classes))
        shares, index = tf.math.top_k(tf.nn.softmax(logits), shown)
        return tf.gather(tf.constant(self.classes), index), shares


def open_head(path, encoder, features):
    """Opens the linear.npz of the `linear` command.

    Args:
      path: of the file, or of the folder that holds it.
      encoder: frozen.FrozenEncoder to export. features: F of its backbone.

    Returns:
      LinearHead, and the dict of the result.json beside the file; {} without.

    Raises:
      ValueError: for a file that is no such head, or the head of another
        encoder, of other features or of another width.
    """
    path = paths.expand(path)
    path = path / "linear.npz" if path.is_dir() else path
    kernel, bias, classes = _read_head(path)
    if kernel.shape[0] != features:
        raise ValueError(
            f"The head must take the encoder's {features} features. Received "
            f"{str(path)!r} for {kernel.shape[0]} features. Train one with "
            "`moco-tf linear` on this encoder."
        )
    beside = path.parent / "result.json"
    if not os.path.lexists(beside):
        return LinearHead(kernel, bias, classes), {}
    remedy = (
        "Give the command of `moco-tf linear` again with the same --output: it "
        "sets the file aside and measures again. Or copy linear.npz alone to "
        "another folder, and give that."
    )
    result = state_files.read_json(beside, remedy)
    _check_origin(result, path, encoder)
    return LinearHead(kernel, bias, classes), result


def _read_head(path):
    """Returns kernel, bias and class names, of shapes that fit."""
    try:
        with np.load(path, allow_pickle=False) as file:
            kernel, bias, classes = (
                file[name] for name in ("kernel", "bias", "classes")
            )
    except state_files.DAMAGED_ARRAY as e:
        raise ValueError(
            "A head must be the linear.npz of `moco-tf linear`, with kernel, "
            f"bias and classes. Received {str(path)!r}: {e}."
            f"{file_kinds.substitute(path)} Give another, or the command of "
            "`moco-tf linear` with a new --output."
        ) from e
    shapes = kernel.shape, bias.shape, classes.shape
    fit = kernel.ndim == 2 and shapes[1:] == (kernel.shape[1:],) * 2
    if not fit or not np.isfinite(kernel).all() or not np.isfinite(bias).all():
        raise ValueError(
            "A head must hold a finite kernel [F, C], bias [C] and classes "
            f"[C]. Received {shapes} in {str(path)!r}."
        )
    names = [str(name) for name in classes]
    return kernel.astype(np.float32), bias.astype(np.float32), names


def _check_origin(result, path, encoder):
    """Refuses a head whose result.json names another encoder or layer."""
    trained = result.get("encoder_identity", "")
    if trained != encoder.identity:
        raise ValueError(
            "The head must be trained on the encoder that is exported. "
            f"Received {str(path)!r} of the encoder {trained[:16]} "
            f"({result.get('encoder')}), and the encoder "
            f"{encoder.identity[:16]} ({encoder.title}). Give the head's own "
            "--checkpoint, or train one with `moco-tf linear`."
        )
    if result.get("features") != "backbone":
        raise ValueError(
            "The head must be trained on the features that are served, those "
            f"of the backbone. Received one of {result.get('features')!r}. "
            "Train one with --config.probe.features=backbone."
        )


class FeatureBank(tf.Module):
    """Class scores of features by the vote of the nearest neighbours.

    The vote is that of moco_tf.evaluation.voting (arXiv:1805.01978, Sec. 3.4).

    Attributes:
      blocks: list of float32 [b, F] variables, unit rows.
      labels: int64 [B] variable, index into `classes`.
      classes: tuple of str.
      k: neighbours that vote. temperature: of their votes.
      title: where the features came from, and how they vote.
    """

    def __init__(self, rows, labels, classes, k, temperature, title=""):
        """Copies float [B, F] rows; B is at least k.

        Raises:
          ValueError: for labels, a k or a temperature that cannot serve.
        """
        super().__init__()
        voting.check_k(k, len(rows))
        voting.check_scores(k, temperature)
        labels = voting.check_labels(labels, len(rows), len(classes), "bank")
        # One block of similarities has 65,536 columns, however large the bank.
        self.blocks = [
            tf.Variable(
                voting.unit_rows(rows[start : start + voting.BANK_BLOCK], name),
                trainable=False,
                name=name,
            )
            for start in range(0, len(rows), voting.BANK_BLOCK)
            for name in [f"bank{start // voting.BANK_BLOCK}"]
        ]
        self.labels = tf.Variable(labels, trainable=False, name="labels")
        self.classes = tuple(map(naming.as_text, classes))
        self.k = k
        self.temperature = temperature
        self.title = f"{title} (k = {k}, temperature = {temperature:g})"

    def __call__(self, normalised):
        """Names the classes with the most votes.

        Args:
          normalised: float32 [n, F], unit rows.

        Returns:
          classes string [n, m], scores float32 [n, m], in falling order; m is
          5, or the number of classes if that is lower.
        """
        count = tf.shape(normalised)[0]
        near = tf.fill([count, self.k], np.float32(-np.inf))
        index = tf.zeros([count, self.k], tf.int64)
        offset = 0
        for block in self.blocks:
            rows = tf.convert_to_tensor(block)
            near, index = voting.merge_nearest(
                normalised, rows, tf.constant(offset, tf.int64), near, index
            )
            offset += rows.shape[0]
        label = tf.gather(self.labels, index)
        classes = len(self.classes)
        cell = tf.range(count, dtype=tf.int64)[:, tf.newaxis] * classes + label
        votes = tf.math.unsorted_segment_sum(
            tf.exp(near / self.temperature),
            cell,
            tf.cast(count, tf.int64) * classes,
        )
        shown = min(SHOWN, classes)
        scores, index = tf.math.top_k(tf.reshape(votes, [-1, classes]), shown)
        return tf.gather(tf.constant(self.classes), index), scores


def open_bank(bank, encoder, workdir=""):
    """Opens labelled features of the encoder to export.

    Args:
      bank: file of `moco-tf embed`, or the spec of a labelled source such as
        "folder:DIR", whose features are extracted now.
      encoder: frozen.FrozenEncoder with a config, whose knn.k and
        knn.temperature are used; k is at most the size of the bank.
      workdir: of the run, for stored features; "": they are not kept.

    Returns:
      FeatureBank.

    Raises:
      ValueError: for features of another encoder, or without labels.
    """
    is_folder = os.path.isdir(os.path.expanduser(bank.partition(":")[2]))
    if pathlib.Path(bank).suffix in _FEATURE_FILES and not is_folder:
        rows, labels, classes = _read_bank(bank, encoder)
    else:
        source = sources.open_source(bank, encoder.channels)
        try:
            source = sources.labelled(source, "bank")
        except ValueError as error:
            raise ValueError(
                f"The bank must have labels. Received {str(bank)!r} without. "
                f"{error}"
            ) from error
        with _store(workdir) as folder:
            stored = features.extract_to_disk(encoder, source, folder)
            # The bank copies them: the folder may go.
            rows = np.array(stored.rows["backbone"])
        labels = stored.labels
        classes = source.class_names
    if classes is None:
        classes = [str(number) for number in range(int(labels.max()) + 1)]
    knn = encoder.config.knn
    k = min(knn.k, len(rows))
    return FeatureBank(
        rows, labels, classes, k, knn.temperature, title=str(bank)
    )


@contextlib.contextmanager
def _store(workdir):
    """The folder of a run's features; without a run a temporary one."""
    if workdir:
        yield pathlib.Path(workdir) / "features"
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield folder


def _read_bank(path, encoder):
    """Rows, labels and class names of a file of embeddings."""
    stored = embeddings.load(path)
    if stored.about.get("encoder") != encoder.identity:
        raise ValueError(
            "The bank must hold features of the encoder that is exported. "
            f"Received {str(path)!r} of the encoder "
            f"{str(stored.about.get('encoder'))[:16]} "
            f"({stored.about.get('title')}), and the encoder "
            f"{encoder.identity[:16]} ({encoder.title}). Write it with "
            "`moco-tf embed` from the same --checkpoint."
        )
    if "backbone" not in stored.rows:
        raise ValueError(
            "The bank must hold backbone features, which are those that are "
            f"served. Received {', '.join(stored.rows)} in {str(path)!r}. "
            "Write it with `moco-tf embed --features=backbone`."
        )
    _check_labels(path, stored.labels)
    rows, labels = stored.rows["backbone"], stored.labels
    if (labels < 0).any():  # of images without a class
        chosen = np.flatnonzero(labels >= 0)
        rows, labels = rows[:][chosen], labels[chosen]
    return rows, labels, stored.class_names


def _check_labels(bank, labels):
    if labels is None or (labels < 0).all():
        raise ValueError(
            f"The bank must have labels. Received {str(bank)!r} without. Give "
            "a folder of class folders, or the features of one."
        )
