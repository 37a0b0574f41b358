"""A linear classifier on the served features (`classify`)."""

import pathlib
import zipfile

import numpy as np
import tensorflow as tf

from moco_tf import workdirs
from moco_tf.evaluation import embedding_files

SHOWN = 5  # classes of an answer, most probable first


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
        self.classes = tuple(map(embedding_files.as_text, classes))

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
        found, place = tf.math.top_k(tf.nn.softmax(logits), shown)
        return tf.gather(tf.constant(self.classes), place), found


def open_head(path, judged, features):
    """Opens the linear.npz of the `linear` command.

    Args:
      path: of the file, or of the folder that holds it.
      judged: frozen.Frozen that is exported. features: F of its backbone.

    Returns:
      LinearHead, and the dict of the result.json beside the file; {} without.

    Raises:
      ValueError: for a file that is no such head, or the head of another
        encoder, of other features or of another width.
    """
    path = pathlib.Path(path)
    path = path / "linear.npz" if path.is_dir() else path
    kernel, bias, classes = _read(path)
    if kernel.shape[0] != features:
        raise ValueError(
            f"The head must take the encoder's {features} features. Received "
            f"{str(path)!r} for {kernel.shape[0]} features. Train one with "
            "`moco-tf linear` on this encoder."
        )
    result = path.parent / "result.json"
    if not result.is_file():
        return LinearHead(kernel, bias, classes), {}
    found = workdirs.read_json(result)
    _check_origin(found, path, judged)
    return LinearHead(kernel, bias, classes), found


def _read(path):
    """Returns kernel, bias and class names, of shapes that fit."""
    try:
        with np.load(path, allow_pickle=False) as file:
            kernel, bias, classes = (
                file[name] for name in ("kernel", "bias", "classes")
            )
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        TypeError,  # a bare array
        zipfile.BadZipFile,
    ) as e:
        raise ValueError(
            "A head must be the linear.npz of `moco-tf linear`, with kernel, "
            f"bias and classes. Received {str(path)!r}: {e}"
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


def _check_origin(result, path, judged):
    """Refuses a head of another encoder or layer, told by its result.json."""
    trained = result.get("encoder_identity", "")
    if trained != judged.identity:
        raise ValueError(
            "The head must be trained on the encoder that is exported. "
            f"Received {str(path)!r} of the encoder {trained[:16]} "
            f"({result.get('encoder')}), and the encoder "
            f"{judged.identity[:16]} ({judged.title}). Give the head's own "
            "--checkpoint, or train one with `moco-tf linear`."
        )
    if result.get("features") != "backbone":
        raise ValueError(
            "The head must be trained on the features that are served, those "
            f"of the backbone. Received one of {result.get('features')!r}. "
            "Train one with --config.probe.features=backbone."
        )
