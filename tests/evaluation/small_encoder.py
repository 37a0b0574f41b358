"""The workdir of a tiny run and two labelled folders to judge it on."""

import json

import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import workdirs
from moco_tf.evaluation import frozen


def write_images(root, part, counts, seed=0):
    """Folders dark/ and light/ with noisy 9 x 9 images."""
    random = np.random.default_rng(seed)
    for (name, level), count in zip(
        (("dark", 60), ("light", 190)), counts, strict=True
    ):
        folder = root / part / name
        folder.mkdir(parents=True)
        for number in range(count):
            image = random.integers(level - 50, level + 50, [9, 9, 3])
            data = tf.io.encode_png(image.astype(np.uint8)).numpy()
            (folder / f"{number}.png").write_bytes(data)
    return f"folder:{root / part}"


def write(root, steps=(5,)):
    """Makes root/{train, test, workdir}; the encoder's weights are random.

    Returns:
      the workdir.
    """
    train = write_images(root, "train", (20, 20))
    test = write_images(root, "test", (6, 4), seed=1)
    (root / "test" / "dark" / "9.png").write_bytes(b"not an image")
    config = configs.load(
        "quickstart",
        {
            "data.image_size": "16",
            "model.width": "0.0625",
            "model.dim": "8",
            "model.head": "mlp",
            "model.stem": "cifar",
            "knn.bank": train,
            "knn.query": test,
            "knn.batch_size": "4",
        },
    )
    workdir = root / "workdir"
    workdirs.save(config, workdir)
    encoder = frozen.build_encoder(config)
    for step in steps:
        path = workdir / "checkpoints" / f"step-{step:09d}"
        model = tf.train.Checkpoint(query_encoder=encoder)
        tf.train.Checkpoint(model=model).write(str(path / "state"))
        (path / "meta.json").write_text(json.dumps({"step": step}))
    return workdir
