"""Workdirs with curves, for reports; with an encoder: small_encoder."""

from moco_tf import config as configs
from moco_tf import workdirs
from moco_tf.monitoring import metrics_csv

STEPS_PER_EPOCH = 5


def row(epoch, **figures):
    """The row of an epoch's end."""
    return {
        "step": STEPS_PER_EPOCH * epoch,
        "epoch": epoch,
        "steps": STEPS_PER_EPOCH,
        "loss": 7 - 0.1 * epoch,
        "instance_top1": 0.125,
        "learning_rate": 0.03,
        "images_per_second": 100.0,
        "input_wait_share": 0.01,
        "unreadable": 0,
        "epoch_loss": 7 - 0.1 * epoch,
        "knn_backbone": 0.5,
        "knn_projection": 0.25,
        **figures,
    }


def loss_and_knn(epoch):
    """A row with two charts' figures alone: drawing one takes 0.3 s."""
    names = ("learning_rate", "images_per_second", "input_wait_share")
    return row(epoch, **dict.fromkeys(names))


def write_rows(workdir, rows):
    """Writes metrics.csv."""
    metrics = metrics_csv.MetricsFile(workdir / "metrics.csv")
    for each in rows:
        metrics.append(each)
    metrics.close()


def write(workdir, rows=(), name="moco_cifar10", fingerprint="", **fields):
    """A workdir without checkpoints; fields by name with __ for the dot.

    Returns:
      the workdir.
    """
    fields = {"data__source": "folder:/nowhere/train", **fields}
    values = {key.replace("__", "."): str(v) for key, v in fields.items()}
    config = configs.load(name, values)
    workdirs.save(config, workdir, fingerprint)
    if rows:
        write_rows(workdir, rows)
    return workdir
