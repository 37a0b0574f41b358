"""Writes one of each file that goes from lane to lane.

python -m tests.lane_files FOLDER

images/           what is trained on
stopped/          a run that stopped after its third step
finished/         the same run at its end, the sixth step
batch.npz         the batch of the second step
encoded.npz       features of images by the finished run
embeddings.npz    what `moco-tf embed` writes of it
cache/, jpegs/    what `moco-tf prepare` writes of the images
export/encoder/1  what `moco-tf export` writes of the run
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import tensorflow as tf

from moco_tf import lane, plan, prepare, pretrain
from moco_tf.evaluation import embeddings, frozen
from moco_tf.serving import export
from tests import shallow, small_run

FIELDS = {
    "checkpoint__every_steps": 1,
    "log__every_steps": 1,
    "train__epochs": 1,
    "optimizer__name": "lamb",  # of another package in each lane
}


def make_config(images, **fields):
    return small_run.make_config(images, **FIELDS | fields)


def train(images, workdir, **fields):
    """Trains, or goes on, in this process."""
    strategy = tf.distribute.get_strategy()
    config = make_config(images, **fields)
    return pretrain.pretrain(config, workdir, strategy)


def second_batch(images):
    """The batch of the second step, as arrays."""
    plan_ = plan.make(make_config(images), tf.distribute.get_strategy())
    (batch,) = plan_.batches.batches(1, 1, 2)
    return {name: value.numpy() for name, value in batch.items()}


def encode(workdir):
    """Images, normalised as tensors, and their features by layer."""
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    encoder = frozen.open_frozen(workdir)
    features = {n: x.numpy() for n, x in encoder.encode(images).items()}
    return {"images": images, **features}


def write(folder):
    images = folder / "images"
    small_run.write_images(images)
    train(images, folder / "stopped", train__max_steps=3)
    shutil.copytree(folder / "stopped", folder / "finished")
    train(images, folder / "finished")
    np.savez(folder / "batch.npz", **second_batch(images))
    np.savez(folder / "encoded.npz", **encode(folder / "finished"))
    encoder = frozen.open_frozen(folder / "finished")
    path = folder / "embeddings.npz"
    embeddings.embed_source(encoder, f"folder:{images}", path)
    prepare.prepare(f"folder:{images}", folder / "cache", 12)
    prepare.prepare(f"folder:{images}", folder / "jpegs", 12, stored_as="jpeg")
    export.export_run(encoder, folder / "export", "encoder", 1)
    (folder / "lane.json").write_text(json.dumps(lane.NAME))


if __name__ == "__main__":
    with shallow.network():
        write(pathlib.Path(sys.argv[1]))
