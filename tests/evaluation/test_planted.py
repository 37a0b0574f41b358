"""Planted continuations, good and bad, get the verdict that they deserve.

Ten of a linear encoder of 8 x 8 pixels, whose good continuation learns to
leave out the colour that its views change; two of a small MoCo, which learns
from images that are none.
"""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.data import sources
from moco_tf.evaluation import baseline, monitor, verdict, voting
from tests import shallow

CLASSES = 4
PIXELS = 8 * 8 * 3
TEMPLATES = np.random.default_rng(9).normal(size=[CLASSES, 8, 8, 1])


def coloured(count, seed):
    """Float32 images [n, F] of four faint patterns under strong colours."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    strength = 0.35 * random.uniform(0.5, 1.5, [count, 1, 1, 1])
    images = strength * TEMPLATES[labels]
    images = images + random.normal(0, 0.25, [count, 8, 8, 3])
    images += random.normal(0, 1, [count, 1, 1, 3])
    return images.reshape(count, PIXELS).astype(np.float32), labels


class Linear:
    """An encoder of one matrix, trained by InfoNCE on two colours of images."""

    def __init__(self, seed=0):
        random = np.random.default_rng(seed)
        self.kernel = random.normal(0, 0.1, [PIXELS, 8])

    @tf.function(reduce_retracing=True)
    def _gradient(self, kernel, first, second):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            query = tf.math.l2_normalize(first @ kernel, 1)
            key = tf.math.l2_normalize(second @ kernel, 1)
            logits = tf.matmul(query, key, transpose_b=True) / 0.2
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                tf.range(tf.shape(logits)[0]), logits
            )
            loss = tf.reduce_mean(loss)
        return tape.gradient(loss, kernel)

    def train(self, images, steps, rate, seed):
        """SGD with momentum 0.9 on batches of 128."""
        random = np.random.default_rng(seed)
        velocity = np.zeros_like(self.kernel)
        for _ in range(steps):
            batch = images[random.integers(len(images), size=128)]
            views = [
                batch + np.tile(random.normal(size=[128, 3]), [1, 64])
                for _ in range(2)
            ]
            gradient = self._gradient(
                *(tf.constant(x, tf.float32) for x in (self.kernel, *views))
            )
            velocity = 0.9 * velocity + gradient.numpy()
            self.kernel = self.kernel - rate * velocity

    def right(self, bank, query):
        """Which queries kNN classes right, bool [n]."""
        rows = [x[0] @ self.kernel for x in (bank, query)]
        result = voting.hits(
            rows[0], bank[1], rows[1], query[1], [20], [0.1], CLASSES
        )
        return result[20, 0.1]


def verdict_of(start, measurements):
    """The verdict on kNN outcomes bool [n] of a start and of checkpoints."""
    index = np.arange(len(start))
    marks = {"backbone": baseline.letters(start, index, len(start))}
    began = baseline.Baseline({}, marks)
    before = {"start_backbone": start.mean(), "knn_chance": 1 / CLASSES}
    rows = [
        {"step": step, "knn_backbone": right.mean(), **before}
        | began.compare({"backbone": right}, index)
        for step, right in enumerate(measurements, start=1)
    ]
    return verdict.of_rows(rows)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *((("own images", seed), verdict.KEPT) for seed in range(3)),
        *((("rate x 100", seed), verdict.START) for seed in range(3)),
        *((("labels of another set", n), verdict.NONE) for n in range(3)),
        (("no step", 0), verdict.NONE),
    ],
    ids=str,
)
def test_a_planted_continuation_of_a_linear_encoder(case, kind):
    plant, seed = case
    bank, query = coloured(300, 1), coloured(400, 2)
    images, _ = coloured(2000, 3)
    encoder = Linear(seed)
    if plant == "labels of another set":
        random = np.random.default_rng(seed)
        bank, query = ((x[0], random.permutation(x[1])) for x in (bank, query))
    if plant == "rate x 100":
        encoder.train(images, 60, 0.02, seed)
    start = encoder.right(bank, query)
    rate = {"rate x 100": 2.0, "no step": 0.0}.get(plant, 0.02)
    # Without BatchNorm a ruined kernel soon learns again.
    steps = 3 if plant == "rate x 100" else 20
    measured = []
    for part in range(2):
        encoder.train(images, steps, rate, 10 + 2 * seed + part)
        measured.append(encoder.right(bank, query))
    reached = verdict_of(start, measured)
    assert reached.kind == kind, reached.words
    assert reached.kind == verdict.NONE or reached.low * reached.high > 0


def stripes(count, seed):
    """uint8 [n, 16, 16, 3] of stripes in four directions, in any colours."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    rows, columns = np.mgrid[:16, :16]
    images = np.empty([count, 16, 16, 3], np.uint8)
    for number, label in enumerate(labels):
        turn = np.pi * label / 4 + random.normal(0, 0.12)
        across = columns * np.cos(turn) + rows * np.sin(turn)
        wave = np.sin(random.uniform(0.7, 1.4) * across + random.uniform(0, 6))
        share = (0.5 + 0.5 * wave)[:, :, np.newaxis]
        colours = random.uniform(0, 255, [2, 3])
        image = share * colours[0] + (1 - share) * colours[1]
        image += random.normal(0, 25, [16, 16, 1])
        images[number] = np.clip(image, 0, 255)
    return images, labels


FIELDS = {
    **{"data.source": "own", "data.views": "cifar", "data.image_size": "16"},
    **{"model.backbone": "resnet18", "model.width": "0.25"},
    **{"model.stem": "cifar", "model.dim": "32", "model.bn_groups": "2"},
    **{"train.batch_size": "32", "moco.queue_size": "64", "data.threads": "2"},
    **{"knn.bank": "bank", "knn.query": "query", "knn.k": "20"},
    **{"knn.features": "backbone", "train.precision": "float32"},
    "optimizer.learning_rate": "0.6",
}


@pytest.fixture(name="run", scope="module")
def _run():
    """A MoCo, its start, and a function: images -> verdict after 40 steps."""
    names = [str(label) for label in range(CLASSES)]
    opened = {
        name: sources.ArraySource(*stripes(count, seed), names, name)
        for name, count, seed in (
            *(("own", 256, 3), ("bank", 400, 1)),
            ("query", 1200, 2),
        )
    }
    with pytest.MonkeyPatch.context() as patch, shallow.network((1, 1)):
        patch.setattr(plan, "open_source", lambda _, spec: opened[spec])
        config = configs.load("moco_cifar10", FIELDS)
        strategy = tf.distribute.get_strategy()
        method = plan.make(config, strategy).make_method(strategy)
        measure = monitor.KnnMonitor(config)
        step = method.make_train_function()
        yield config, method, measure, step


@pytest.mark.parametrize("plant", ["noise", "shuffled pixels"])
def test_a_planted_continuation_of_moco(run, plant, tmp_path):
    config, method, measure, step = run
    images, labels = stripes(256, 3)
    random = np.random.default_rng(5)
    if plant == "noise":
        images = random.integers(0, 256, images.shape, np.uint8)
    else:
        places = np.argsort(random.random([256, 256, 1]), axis=1)
        flat = images.reshape(256, 256, 3)
        images = np.take_along_axis(flat, places, 1).reshape(images.shape)
    source = sources.ArraySource(images, labels, None, plant)
    before = [variable.numpy() for variable in method.variables]
    measure.measure_baseline(method.query_encoder, tmp_path)
    batches = iter(plan.make_stream(config, source).batches(1, 0, 10**6))
    rows = []
    for number in (20, 40):
        for _ in range(20):
            step(batches)
        rows.append({"step": number})
        measure.measure(method, rows[-1])
    for variable, value in zip(method.variables, before, strict=True):
        variable.assign(value)
    reached = verdict.of_rows(rows, "backbone")
    assert reached.kind == verdict.START, reached.words
