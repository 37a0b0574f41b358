"""CPC's step against NumPy: contexts, predictions, negatives, gradients."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import cpc
from moco_tf.models import inputs
from tests.methods import finite_differences, small_methods

SIDE, DIM, NEGATIVES, RATE = 3, 4, 7, 0.05
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _patch_backbone(channels, name):
    layers = tf.keras.layers
    patches = tf.keras.Input([4, 4, channels])
    features = layers.Dense(6)(layers.Flatten()(patches))
    return tf.keras.Model(patches, features, name=name)


def _method(**arguments):
    tf.keras.utils.set_random_seed(0)
    backbone = inputs.grid_backbone(_patch_backbone, 8, 4, MEAN, STD)
    options = {"rows": 2, "blocks": 1} | arguments
    method = cpc.CPC(
        backbone, head="fc", dim=DIM, negatives=NEGATIVES, **options
    )
    return small_methods.compiled(method, RATE, decay=0.0)


def _places(weights, images, factors=None):
    """z of each patch: grey, cut, two linear layers.

    With factors [N, g, g, 2]: of the patches' brightness and contrast.
    """
    kernel, bias, head, head_bias = weights
    pixels = images * np.array(STD) + np.array(MEAN)
    grey = (pixels @ [0.299, 0.587, 0.114] - MEAN[1]) / STD[1]
    z = np.zeros([len(images), SIDE, SIDE, DIM])
    for row in range(SIDE):
        for column in range(SIDE):
            patch = grey[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
            if factors is not None:
                patch = _changed(patch, *factors[:, row, column].T)
            features = patch.reshape(len(images), -1) @ kernel + bias
            z[:, row, column] = features @ head + head_bias
    return z


def _changed(patches, brightness, contrast):
    """Pixels in 0..1 times a factor, then their distance from the mean."""
    pixels = (patches * STD[1] + MEAN[1]) * brightness[:, None, None]
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    pixels = mean + (pixels - mean) * contrast[:, None, None]
    return (pixels - MEAN[1]) / STD[1]


def _context(weights, z):
    """One block: 1x1, 1x3 along the row, 2x1 with the row above, 1x1, sum."""
    entry, entry_bias, row, row_bias, above, above_bias, out, out_bias = weights
    y = np.maximum(z @ entry[0, 0] + entry_bias, 0)
    wide = np.pad(y, ((0, 0), (0, 0), (1, 1), (0, 0)))
    y = sum(wide[:, :, at : at + SIDE] @ row[0, at] for at in range(3))
    y = np.maximum(y + row_bias, 0)
    tall = np.pad(y, ((0, 0), (1, 0), (0, 0), (0, 0)))
    y = tall[:, :-1] @ above[0, 0] + tall[:, 1:] @ above[1, 0] + above_bias
    y = np.maximum(y, 0) @ out[0, 0] + out_bias
    return np.maximum(z + y, 0)


def _loss(encoder, context, predictors, images, drawn, factors=None):
    """Eq. 4 for each k, every context and every patch k rows below, by hand."""
    z = _places(encoder, images, factors)
    above = _context(context, z)
    all_patches = z.reshape(-1, DIM)
    means = []
    for below, predictor in enumerate(predictors, start=1):
        terms = []
        for image in range(len(images)):
            for row in range(SIDE - below):
                for column in range(SIDE):
                    number = (image * SIDE + row + below) * SIDE + column
                    guess = above[image, row, column] @ predictor
                    others = all_patches[drawn[drawn != number]]
                    logits = np.array(
                        [all_patches[number] @ guess, *(others @ guess)]
                    )
                    terms.append(np.log(np.exp(logits).sum()) - logits[0])
        means.append(np.mean(terms))
    return np.mean(means)


def _state(method):
    return [
        finite_differences.weights(method.query_encoder),
        finite_differences.weights(method.context),
        [finite_differences.weights(layer)[0] for layer in method.predictors],
    ]


def test_each_step_follows_the_equations():
    method = _method()
    for step, batch in enumerate(small_methods.batches(3)):
        state = _state(method)
        with method.distribute_strategy.scope():
            drawn = tf.random.stateless_uniform(
                [NEGATIVES],
                seed=tf.constant([0, step], tf.int64),
                maxval=4 * SIDE**2,
                dtype=tf.int32,
                alg="philox",
            ).numpy()
        expected = _loss(*state, batch["query"], drawn)
        iterator = iter(tf.data.Dataset.from_tensors(batch))
        loss = float(method.make_train_function()(iterator)["loss"])
        np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_the_first_step_goes_down_the_slope_of_the_loss():
    method = _method()
    batch = next(iter(small_methods.batches(1)))
    drawn = method.draw(4 * SIDE**2).numpy()
    # No ReLU at its edge: biases start at 0, and so does the row above.
    rng = np.random.default_rng(0)
    for variable in method.context.trainable_variables:
        variable.assign_add(rng.uniform(0.05, 0.1, variable.shape))
    before = _state(method)
    small_methods.train(method, [batch])
    finite_differences.assert_downhill(
        lambda *state: _loss(*state, batch["query"], drawn),
        before,
        _state(method),
        RATE,
    )


def test_each_patch_changes_by_its_own_brightness_and_contrast():
    method = _method(patch_jitter=0.6)
    steps = []
    for batch in small_methods.batches(2):
        state = _state(method)
        drawn = method.draw(4 * SIDE**2).numpy()
        factors = method.patch_factors(4 * SIDE**2).numpy()
        steps.append(factors)
        factors = factors.reshape(4, SIDE, SIDE, 2)
        expected = _loss(*state, batch["query"], drawn, factors)
        iterator = iter(tf.data.Dataset.from_tensors(batch))
        loss = float(method.make_train_function()(iterator)["loss"])
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert len(np.unique(steps)) == 2 * 4 * SIDE**2 * 2  # none comes twice
    assert 0.4 <= np.min(steps) < 0.5 < 1.5 < np.max(steps) <= 1.6


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_patches_under_xla_give_the_same_step(jitter):
    batch = next(iter(small_methods.batches(1)))
    plain = _method(patch_jitter=jitter)
    compiled = _method(patch_jitter=jitter, jit_compile=True)
    expected = small_methods.train(plain, [batch])["loss"]
    result = small_methods.train(compiled, [batch])["loss"]
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    for a, b in zip(
        compiled.trained_variables(), plain.trained_variables(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    graph = str(compiled.step_graph.as_graph_def())
    assert "_XlaMustCompile" in graph
    assert "_XlaMustCompile" not in str(plain.step_graph.as_graph_def())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 3}, r"rows must lie in 1\.\.2 for 3 x 3 patches"),
        ({"micro_batches": 2}, "needs train.micro_batches=1"),
        ({"patch_jitter": 1.5}, r"must lie in 0\.\.1. Received .*=1.5"),
    ],
)
def test_what_it_cannot_honour_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        _method(**arguments)
