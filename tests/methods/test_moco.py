"""MoCo's step against NumPy, and what it promises about keys."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import moco
from tests.methods import finite_differences, numpy_moco, small_methods

BATCH = small_methods.BATCH
layers = tf.keras.layers
_batches, _train = small_methods.batches, small_methods.train
_deal, _values = small_methods.deal, small_methods.values
_backbone = small_methods.backbone


def _method(backbone=None, rate=0.1, decay=0.01, **arguments):
    defaults = {"head": "fc", "dim": 5, "queue_size": 10, "temperature": 0.5}
    method = moco.MoCo(backbone or _backbone(), **defaults | arguments)
    return small_methods.compiled(method, rate, decay)


def _encode(encoder, images):
    return tf.math.l2_normalize(encoder(images, training=True), axis=1)


@pytest.fixture(autouse=True)
def _seed():
    tf.keras.utils.set_random_seed(0)


# All combinations of any three of the four options: half of all, each traced.
OPTIONS = [
    (fresh, mask, fresh ^ mask ^ (place == 1), shuffle_keys)
    for fresh, mask in itertools.product([False, True], repeat=2)
    for place, shuffle_keys in enumerate(["gather", "address", "none"])
]


@pytest.mark.parametrize(
    ("fresh", "mask", "symmetric", "shuffle_keys"), OPTIONS
)
def test_three_steps_follow_algorithm_1(fresh, mask, symmetric, shuffle_keys):
    method = _method(
        momentum=0.6,
        symmetric=symmetric,
        mask_same_image=mask,
        batch_negatives=fresh,
        shuffle_keys=shuffle_keys,
    )
    oracle = numpy_moco.NumpyMoCo(
        _values(method.trained_variables()),
        method.queue.keys.numpy(),
        momentum=0.6,
        temperature=0.5,
        symmetric=symmetric,
        mask=mask,
        fresh=fresh,
    )
    # With the mask, half of a batch's images come again in the next.
    batches = list(_batches(3, index_step=BATCH // 2 if mask else 100))
    if shuffle_keys == "none":
        for batch in batches:
            batch["order"] = tf.range(BATCH, dtype=tf.int64)
    expected = [
        oracle.step(number, b["query"], b["key"], b["index"], 0.1, 0.01)
        for number, b in enumerate(batches)
    ]
    if shuffle_keys == "address":
        batches = [_deal(batch) for batch in batches]
    logged = _train(method, batches)
    losses, wins = zip(*expected, strict=True)
    np.testing.assert_allclose(logged["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(logged["instance_top1"], wins)
    np.testing.assert_allclose(logged["unreadable"], [0, 1 / BATCH, 0])
    positive = [cosines[:, 0].mean() for cosines in oracle.cosines]
    np.testing.assert_allclose(logged["positive"], positive, rtol=1e-4)
    nearest = [cosines[:, 1:].max(1).mean() for cosines in oracle.cosines]
    np.testing.assert_allclose(logged["hardest_negative"], nearest, rtol=1e-4)
    for encoder, weights in (
        (method.query_encoder, oracle.query_weights),
        (method.key_encoder, oracle.key_weights),
    ):
        for result, weight in zip(
            encoder.trainable_variables, weights, strict=True
        ):
            np.testing.assert_allclose(result, weight, atol=1e-5)
    np.testing.assert_allclose(method.queue.keys, oracle.queue, atol=1e-5)
    np.testing.assert_array_equal(method.queue.samples, oracle.samples)
    np.testing.assert_array_equal(method.queue.steps, oracle.steps)
    assert method.queue.pointer.numpy() == oracle.pointer
    assert method.step.numpy() == 3


def test_keys_come_from_weights_that_have_moved_already():
    method = _method(momentum=0.0)
    for batch in _batches(2):  # in the first step both encoders are equal
        before = _values(method.query_encoder.weights)
        expected = _encode(method.query_encoder, batch["key"])
        _train(method, [batch])
    for result, weight in zip(method.key_encoder.weights, before, strict=True):
        np.testing.assert_array_equal(result, weight)
    np.testing.assert_allclose(
        method.queue.keys[BATCH : 2 * BATCH], expected, atol=1e-6
    )


@pytest.mark.parametrize(("epochs", "steps"), [(2, 1), (1, 4), (3, 1)])
def test_the_momentum_rises_from_0_over_its_warm_up(epochs, steps):
    method = _method(
        momentum=0.6, momentum_warmup_epochs=epochs, steps_per_epoch=steps
    )
    assert method.momentum is None  # it is not always the same
    weights = _values(method.trained_variables())
    keys = method.queue.keys.numpy()
    oracle = numpy_moco.NumpyMoCo(weights, keys, 0.6, 0.5, symmetric=False)
    batches, losses = list(_batches(4)), []
    for number, batch in enumerate(batches):
        part = min(number / (epochs * steps), 1)
        oracle.momentum = 0.6 * (1 - np.cos(np.pi * part)) / 2
        images = batch["query"], batch["key"], batch["index"]
        losses.append(oracle.step(number, *images, 0.1, 0.01)[0])
    logged = _train(method, batches)
    np.testing.assert_allclose(logged["loss"], losses, rtol=1e-5)
    for result, weight in zip(
        method.key_encoder.trainable_variables, oracle.key_weights, strict=True
    ):
        np.testing.assert_allclose(result, weight, atol=1e-5)


@pytest.mark.parametrize("fresh", [False, True])
def test_no_gradient_reaches_the_key_encoder(fresh):
    method = _method(momentum=1.0, batch_negatives=fresh)
    query, key = tf.random.stateless_normal([2, BATCH, 5], [0, 1])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([query, key])
        samples = tf.range(BATCH, dtype=tf.int64)
        negatives = method.dictionary(key, samples)
        loss, _ = method.contrast(query, key, samples, *negatives)
    assert tape.gradient(loss, key) is None
    assert np.abs(tape.gradient(loss, query)).max() > 0.01
    before = _values(method.key_encoder.weights)
    moved = _values(method.query_encoder.weights)
    _train(method, _batches(3))
    for result, weight in zip(method.key_encoder.weights, before, strict=True):
        np.testing.assert_array_equal(result, weight)
    for result, weight in zip(method.query_encoder.weights, moved, strict=True):
        assert (result.numpy() != weight).any()


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_key_of_a_step_is_a_negative_of_that_step(symmetric):
    method = _method(symmetric=symmetric)
    contrast, negatives = method.contrast, []

    def watched(*arguments):
        negatives.append(set(method.queue.samples.numpy()))
        return contrast(*arguments)

    method.contrast = watched
    for batch in _batches(3):
        seen = len(negatives)
        method.train_step(tf.nest.map_structure(tf.constant, batch))
        assert len(negatives) == seen + (2 if symmetric else 1)
        for samples in negatives[seen:]:
            assert not samples & set(batch["index"])
        assert set(batch["index"]) <= set(method.queue.samples.numpy())


def test_bytes_are_normalised_and_floats_are_taken_as_they_are():
    mean, std = np.float64([0.5, 0.4, 0.3]), np.float64([0.2, 0.3, 0.4])
    losses = []
    for normalise in (False, True):
        batches = list(_batches(3, np.uint8))
        for batch in batches if normalise else []:
            for view in ("query", "key"):
                pixels = (batch[view] / 255 - mean) / std
                batch[view] = pixels.astype(np.float32)
        tf.keras.utils.set_random_seed(0)
        method = _method(mean=mean, std=std)
        losses.append(_train(method, batches)["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_the_loss_falls_on_a_fixed_batch():
    method = _method(queue_size=256, temperature=0.2)
    batch = next(_batches(1))
    batch["key"] = batch["key"][::-1].copy()  # views that are not alike yet
    loss = _train(method, [batch] * 15)["loss"]
    # Not to 0: the queue fills with older keys of the same four samples.
    assert loss[-1] < 0.8 * loss[0]


class _Inverted(layers.Layer):
    """Written for AutoGraph: `if` on a tensor."""

    def call(self, images):
        if tf.reduce_mean(images) > 0:
            images = -images
        return images


def test_a_model_of_the_user_trains_by_fit():
    backbone = tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 3]),
            _Inverted(),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
        ]
    )
    method = _method(backbone, queue_size=64)
    batches = list(_batches(10, np.uint8))
    stacked = {n: np.stack([b[n] for b in batches]) for n in batches[0]}
    dataset = tf.data.Dataset.from_tensor_slices(stacked)
    history = method.fit(dataset, steps_per_epoch=5, epochs=2, verbose=0)
    assert method.backbone is backbone
    assert method.step.numpy() == 10
    # Keras reports the last step's loss of an epoch.
    logged = method.step_log.read(0, 10)["loss"]
    np.testing.assert_allclose(
        history.history["loss"], [logged[4], logged[9]], rtol=1e-6
    )
    assert backbone(batches[0]["query"]).shape == [BATCH, 4]
    # Neither shares a variable with the other, moving statistics included.
    query, key = method.query_encoder.weights, method.key_encoder.weights
    assert len(query) == len(key) == 8
    for ours, theirs in zip(query, key, strict=True):
        assert ours is not theirs
        assert (ours.numpy() != theirs.numpy()).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shuffle_keys": "ring"}, "shuffle.*'gather', 'address'.*'ring'"),
        ({"momentum": 1.5}, "momentum must lie in 0..1.*momentum=1.5"),
        ({"momentum": -0.1}, "momentum must lie in 0..1.*momentum=-0.1"),
        ({"temperature": 0.0}, "temperature must be above 0.*=0.0"),
        ({"head": "mpl"}, "head must be one of.*'mpl'"),
        ({"dim": 0}, "dim=0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_argument_is_refused_with_its_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        _method(**arguments)


def test_a_backbone_that_gives_a_feature_map_is_refused():
    images = tf.keras.Input([8, 8, 3])
    backbone = tf.keras.Model(images, layers.Conv2D(4, 3)(images))
    with pytest.raises(ValueError, match="GlobalAveragePooling2D"):
        moco.MoCo(backbone)


def test_a_queue_smaller_than_the_keys_of_a_step_is_refused():
    method = _method(queue_size=3)
    with pytest.raises(ValueError, match="4 keys for a queue of 3"):
        _train(method, _batches(1))
    assert method.step.numpy() == 0


def test_small_views_are_queries_of_their_images_key():
    method = _method(momentum=0.6)
    weights = finite_differences.weights(method.query_encoder)
    queue = method.queue.keys.numpy()
    batch = next(iter(small_methods.batches(1, small=2)))
    # At the first step both encoders are equal.
    keys = numpy_moco.encode(weights, batch["key"])[0]
    views = np.concatenate([batch["query"][:, np.newaxis], batch["small"]], 1)
    terms = []
    for image in range(BATCH):
        for query in numpy_moco.encode(weights, views[image])[0]:
            logits = np.array([keys[image] @ query, *(queue @ query)])
            probabilities = np.exp(logits / 0.5)
            terms.append(-np.log(probabilities[0] / probabilities.sum()))
    loss = _train(method, [batch])["loss"][0]
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(
        method.queue.keys.numpy()[:BATCH], keys, atol=1e-5
    )
