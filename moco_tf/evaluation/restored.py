"""The encoder of a finished or running pre-training, from its workdir."""

import pathlib

import tensorflow as tf

from moco_tf import workdirs
from moco_tf.data import views
from moco_tf.models import configured
from moco_tf.models import encoder as encoders
from moco_tf.training import checkpoints, distribution


def load_config(workdir):
    """Returns the configuration that a run saved in its workdir.

    Raises:
      ValueError: if the workdir holds no run.
    """
    if not (pathlib.Path(workdir) / "config.json").is_file():
        raise ValueError(
            "A workdir must hold the config.json of a pre-training run. "
            f"Received {str(workdir)!r} without one. Give the --workdir of "
            "the `pretrain` command."
        )
    return workdirs.load_saved(workdir)


def find_checkpoint(workdir, checkpoint):
    """Returns the folder of a run's checkpoint.

    Args:
      workdir: of the run.
      checkpoint: "latest", "best", a step such as "1200", or a path.

    Raises:
      ValueError: if there is no such complete checkpoint, with those that
        there are.
    """
    complete = checkpoints.complete(workdir)
    steps = {str(step): path for step, path in complete}
    if checkpoint == "latest":
        path = checkpoints.latest(workdir)
    elif checkpoint == "best":
        path = checkpoints.best(workdir)
    elif str(checkpoint) in steps:
        path = steps[str(checkpoint)]
    else:
        path = pathlib.Path(checkpoint)
        path = path if (path / "meta.json").is_file() else None
    if path is None:
        held = ", ".join(steps) or "none"
        raise ValueError(
            'checkpoint must be "latest", "best", a step or the path of a '
            f"complete checkpoint. Received {str(checkpoint)!r}; steps in "
            f"{checkpoints.folder(workdir)}: {held}."
        )
    return path


def build_encoder(config):
    """Builds an encoder as configured, with random weights fixed by the seed.

    Side effects: seeds Python's, NumPy's and TensorFlow's generators; sets TF32
    as configured.
    """
    distribution.set_precision(config.train.tf32)
    tf.keras.utils.set_random_seed(config.seed)
    recipe = views.RECIPES[config.data.views]
    # One BatchNorm group: inference uses the moving statistics only.
    parts = configured.make_parts(config, recipe.mean, recipe.std)
    return encoders.Encoder(*parts)
