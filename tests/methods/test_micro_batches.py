"""Micro-batches, XLA, float16, clipping: the step stays Algorithm 1."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import micro_batches, moco
from moco_tf.models import batch_norm
from moco_tf.training import optimizers

BATCH, GROUPS = 8, 4
RATE, DECAY = 0.05, 1e-3
layers = tf.keras.layers


def _backbone(splits, dtype="float32"):
    """Convolution, BatchNorm and a residual sum for 8 x 8 images."""
    policy = tf.keras.mixed_precision.Policy(dtype)
    images = tf.keras.Input([8, 8, 3])
    x = layers.Conv2D(6, 3, strides=2, dtype=policy)(images)
    x = batch_norm.BatchNorm(splits, dtype=policy)(x)
    x = x + layers.Conv2D(6, 1, dtype=policy)(x)
    x = layers.GlobalAveragePooling2D(dtype="float32")(layers.ReLU()(x))
    return tf.keras.Model(images, x)


def _method(
    count=1,
    symmetric=False,
    jit_compile=False,
    dtype="float32",
    clip_norm=0.0,
    optimizer=None,
):
    tf.keras.utils.set_random_seed(0)
    method = moco.MoCo(
        _backbone(GROUPS // count, dtype),
        dim=5,
        queue_size=32,
        momentum=0.6,
        symmetric=symmetric,
        micro_batches=count,
        jit_compile=jit_compile,
        clip_norm=clip_norm,
    )
    if optimizer is None:
        optimizer = optimizers.MomentumSGD(RATE, 0.9, DECAY)
        if dtype == "mixed_float16":
            mixed = tf.keras.mixed_precision
            optimizer = mixed.LossScaleOptimizer(optimizer)
    method.compile(optimizer)
    return method


def _batch():
    rng = np.random.default_rng(0)
    query = rng.integers(0, 256, [BATCH, 8, 8, 3])
    key = np.clip(query + rng.integers(-40, 40, query.shape), 0, 255)
    return {
        "query": query.astype(np.uint8),
        "key": key.astype(np.uint8),
        "index": np.arange(BATCH),
        "order": rng.permutation(BATCH),
        "valid": np.ones(BATCH, bool),
    }


def _train(method, steps=3, batch=None):
    batches = iter(tf.data.Dataset.from_tensors(batch or _batch()).repeat())
    train = method.make_train_function()
    for _ in range(steps):
        train(batches)
    return method.step_log.read(0, steps)


@pytest.fixture(scope="module")
def whole_batches():
    """Three steps on whole batches: symmetric -> the method, what it logged."""
    methods = {symmetric: _method(1, symmetric) for symmetric in (False, True)}
    return {
        symmetric: (method, _train(method))
        for symmetric, method in methods.items()
    }


def _state(method):
    weights = method.query_encoder.weights + method.key_encoder.weights
    return [w.numpy() for w in [*weights, method.queue.keys]]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_loss_function_gets_back_what_it_returns(count):
    """By hand: the loss is the mean of w * row, its gradient that of row."""
    weight = tf.Variable(2.0)
    rows = tf.constant([[1.0, 0.0], [2.0, 0.5], [3.0, 0.0]] * 2)

    def loss_of(part):
        values = part["rows"]
        means = {
            "mean": tf.reduce_mean(values),
            "columns": tf.reduce_mean(values, axis=0),
        }
        loss = weight * tf.reduce_mean(values[:, 0])
        return loss, means, weight * values

    @tf.function
    def step():
        return micro_batches.loss_and_gradients(
            loss_of, {"rows": rows}, count, [weight], None, factor=0.5
        )

    (loss, means, doubled), gradients = step()
    np.testing.assert_allclose(loss, 4.0)
    np.testing.assert_allclose(means["mean"], 6.5 / 6, rtol=1e-6)
    np.testing.assert_allclose(means["columns"], [2.0, 0.5 / 3], rtol=1e-6)
    np.testing.assert_array_equal(doubled, 2.0 * rows)
    np.testing.assert_allclose(gradients, [1.0])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_parts_of_a_batch_give_the_step_of_the_whole(
    count, symmetric, whole_batches
):
    method, expected = whole_batches[symmetric]
    parts = _method(count, symmetric)
    result = _train(parts)
    np.testing.assert_allclose(result["loss"], expected["loss"], rtol=1e-5)
    assert result["instance_top1"] == expected["instance_top1"]
    # Weights, BatchNorm's moving statistics and the queue.
    for a, b in zip(_state(parts), _state(method), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_moving_statistics_take_every_part_once(tmp_path):
    """By hand: 0.9 * old + 0.1 * mean of the parts' means."""
    layer = batch_norm.BatchNorm(momentum=0.9)
    rows = tf.constant([[1.0], [3.0], [10.0], [20.0]])
    layer(rows)
    layer.follow_parts()
    layer.moving_mean.assign([5.0])
    for number in range(2):
        with batch_norm.micro_batch(tf.constant(number), 2, [layer]):
            layer(rows[2 * number : 2 * number + 2], training=True)
    # Parts' means 2 and 15; 0.9 * 5 + 0.1 * 8.5.
    np.testing.assert_allclose(layer.moving_mean, [5.35], rtol=1e-6)
    # What a part begins with is no weight, and in no checkpoint.
    assert len(layer.weights) == 4
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "state"))
    names = [name for name, _ in tf.train.list_variables(path)]
    assert sum(name.startswith("layer/") for name in names) == 4


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("count", [2, 4])
def test_moving_statistics_of_several_calls_are_those_of_whole_batches(
    calls, count
):
    """By hand: s = 0.9 * s + 0.1 * value, once for each call of the batch."""
    layer = batch_norm.BatchNorm(momentum=0.9)
    rng = np.random.default_rng(0)
    views = rng.normal(3, 2, [calls, 8, 1]).astype(np.float32)
    layer(views[0])
    layer.follow_parts()
    mean, variance = 0.0, 1.0
    for _ in range(30):
        for view in views:
            groups = view.reshape(count, -1)
            mean = 0.9 * mean + 0.1 * groups.mean()
            unbiased = groups.var(axis=1, ddof=1).mean()
            variance = 0.9 * variance + 0.1 * unbiased
        for number in range(count):
            rows = slice(8 // count * number, 8 // count * (number + 1))
            with batch_norm.micro_batch(tf.constant(number), count, [layer]):
                for view in views:
                    layer(view[rows], training=True)
    np.testing.assert_allclose(layer.moving_mean, [mean], rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, [variance], rtol=1e-5)


def test_encoders_under_xla_give_the_same_step(whole_batches):
    plain, expected = whole_batches[False]
    compiled = _method(jit_compile=True)
    result = _train(compiled)
    np.testing.assert_allclose(result["loss"], expected["loss"], rtol=1e-4)
    for a, b in zip(_state(compiled), _state(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def _xla_calls(graph):
    """Names of the compiled functions that a graph and its functions call."""
    names = []
    for operation in graph.get_operations():
        for value in operation.node_def.attr.values():
            if value.HasField("func"):
                body = graph._get_function(value.func.name).graph
                names += _xla_calls(body)
        if operation.node_def.attr["_XlaMustCompile"].b:
            names.append(operation.get_attr("f").name)
    return names


def test_xla_compiles_an_encoder_once_for_both_directions():
    symmetric = _method(symmetric=True, jit_compile=True)
    batches = iter(tf.data.Dataset.from_tensors(_batch()))
    train = symmetric.make_train_function()
    names = _xla_calls(train.get_concrete_function(batches).graph)
    names = [name for name in names if "_update_" not in name]
    # Two views through either encoder, and the query encoder's backward pass
    # of both: six calls, three programs.
    assert sorted(map(names.count, set(names))) == [2, 2, 2]


def test_symmetric_encoders_under_xla_give_the_same_step():
    plain, compiled = _method(symmetric=True), _method(1, True, True)
    expected, result = _train(plain), _train(compiled)
    np.testing.assert_allclose(result["loss"], expected["loss"], rtol=1e-4)
    for a, b in zip(_state(compiled), _state(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_float16_takes_nearly_the_step_of_float32(count, whole_batches):
    _, expected = whole_batches[False]
    result = _train(_method(count, dtype="mixed_float16"))
    np.testing.assert_allclose(result["loss"], expected["loss"], rtol=0.02)


def test_float16_skips_a_step_whose_gradient_overflows():
    method = _method(dtype="mixed_float16")
    _train(method, 1)
    before = [w.numpy() for w in method.trained_variables()]
    scale = float(method.optimizer.loss_scale)
    batch = _batch()
    bright = batch["query"].astype(np.float32)
    bright[0] = np.inf
    key = batch["key"].astype(np.float32)
    _train(method, 1, batch | {"query": bright, "key": key})
    for weight, old in zip(method.trained_variables(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert float(method.optimizer.loss_scale) == scale / 2


def _trained(method, steps=1):
    """Values of the trained variables before and after some steps."""
    before = [w.numpy() for w in method.trained_variables()]
    _train(method, steps)
    return before, [w.numpy() for w in method.trained_variables()]


@pytest.fixture(scope="module")
def first_step():
    """Weights before a step that is not clipped, its gradients, and after."""
    before, after = _trained(_method())
    gradients = [
        (old.astype(np.float64) - new) / RATE - DECAY * old
        for old, new in zip(before, after, strict=True)
    ]
    return before, gradients, after


def _norm(gradients):
    return np.sqrt(sum(np.sum(np.square(g)) for g in gradients))


@pytest.mark.parametrize("count", [1, 2])
def test_clipped_gradients_have_the_largest_norm_together(first_step, count):
    before, gradients, _ = first_step
    largest = 0.3 * _norm(gradients)
    _, after = _trained(_method(count, clip_norm=largest))
    for old, gradient, new in zip(before, gradients, after, strict=True):
        # Alg. 1 of arXiv:1211.5063, then SGD; the decay is not clipped.
        expected = old - RATE * (0.3 * gradient + DECAY * old)
        np.testing.assert_allclose(new, expected, atol=3e-6)


def test_a_gradient_of_a_smaller_norm_keeps_its_bits(first_step):
    _, gradients, expected = first_step
    _, after = _trained(_method(clip_norm=2.0 * _norm(gradients)))
    for new, old in zip(after, expected, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("lars", "float32"),
        ("lamb", "mixed_float16"),
        ("sgdw", "float32"),
        ("adam", "mixed_float16"),
    ],
)
def test_other_optimisers_take_clipped_gradients(first_step, name, dtype):
    largest = 0.3 * _norm(first_step[1])
    optimizer = optimizers.make_optimizer(name, 0.01, 0.9, 1e-4)
    if dtype == "mixed_float16":
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    clipped = _method(dtype=dtype, clip_norm=largest, optimizer=optimizer)
    before, after = _trained(clipped)
    assert all(np.isfinite(new).all() for new in after)
    assert all(
        (new != old).any() for new, old in zip(after, before, strict=True)
    )


def test_a_clipped_step_in_float16_is_skipped_where_it_overflows():
    method = _method(dtype="mixed_float16", clip_norm=1e-3)
    _train(method, 1)
    scale = float(method.optimizer.loss_scale)
    batch = _batch()
    bright = batch["query"].astype(np.float32)
    bright[0] = np.inf
    before = [w.numpy() for w in method.trained_variables()]
    key = batch["key"].astype(np.float32)
    _train(method, 1, batch | {"query": bright, "key": key})
    for weight, old in zip(method.trained_variables(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert float(method.optimizer.loss_scale) == scale / 2
