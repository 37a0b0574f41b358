"""keras-cv's augmentations: pure functions of the seed, labels in step."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources, stream, views
from moco_tf.evaluation import label_augment
from moco_tf.models import cloning

SIZE = 16


def plain(image, size, seed):
    """A view that leaves the image as it is."""
    del size, seed
    return image


@pytest.fixture(name="distort", scope="module")
def _distort():
    """RandAugment alone, made under another global policy."""
    with cloning.global_policy("mixed_bfloat16"):
        return label_augment.rand_augment(plain, 0.5)


def picture(seed=0):
    rng = np.random.default_rng(seed)
    return tf.constant(rng.integers(0, 256, [SIZE, SIZE, 3], dtype=np.uint8))


def seed_of(*numbers):
    return tf.constant(numbers, tf.int64)


def operations(graph):
    """Names of the operations in a graph and in all its functions."""
    definition = graph.as_graph_def()
    functions = [f.node_def for f in definition.library.function]
    return {
        node.op for nodes in [definition.node, *functions] for node in nodes
    }


def assert_stateless(function, *arguments):
    graph = tf.function(function).get_concrete_function(*arguments).graph
    drawing = {name for name in operations(graph) if "Random" in name}
    assert drawing and all("Stateless" in name for name in drawing)
    assert not any("Rng" in name for name in operations(graph))


def test_rand_augment_is_a_function_of_the_seed(distort):
    image = picture()
    once = [distort(image, SIZE, seed_of(3, n)).numpy() for n in range(12)]
    again = [distort(image, SIZE, seed_of(3, n)).numpy() for n in range(12)]
    np.testing.assert_array_equal(once, again)
    different = {view.tobytes() for view in once}
    assert len(different) > 6
    assert once[0].dtype == np.uint8 and once[0].shape == (SIZE, SIZE, 3)


def test_rand_augment_in_the_pipeline_is_the_eager_one(distort):
    dataset = tf.data.Dataset.range(6).map(
        tf.autograph.experimental.do_not_convert(
            lambda n: distort(picture(), SIZE, tf.stack([seed_of(5)[0], n]))
        ),
        num_parallel_calls=2,
    )
    for number, view in enumerate(dataset):
        expected = distort(picture(), SIZE, seed_of(5, number))
        np.testing.assert_array_equal(view, expected)


def test_rand_augment_holds_no_random_state(distort):
    assert_stateless(
        lambda image, seed: distort(image, SIZE, seed), picture(), seed_of(1, 2)
    )


def test_a_stream_with_rand_augment_resumes_with_the_same_views():
    recipe = views.RECIPES["cifar"]
    recipe = recipe._replace(
        augment=label_augment.rand_augment(views.crop_and_flip(0.2), 0.7)
    )
    source = sources.ArraySource(
        np.stack([picture(n) for n in range(6)]), np.zeros(6, int), None, "set"
    )
    batches = stream.Stream(source, recipe, 8, 3, threads=2, key_views=False)
    whole = list(batches.batches(1, 0, 4))
    rest = list(batches.batches(1, 2, 4))
    halves = list(batches.batches(3, 2, 3))  # on three replicas
    for left, right in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(left["query"], right["query"])
    np.testing.assert_array_equal(
        whole[2]["query"], np.concatenate([x["query"] for x in halves])
    )


def pixels_of_rows(count):
    """Images whose pixels are one-hot for their row in the batch."""
    rows = np.eye(count, dtype=np.float32)[:, np.newaxis, np.newaxis]
    return tf.constant(np.tile(rows, [1, SIZE, SIZE, 1]))


@pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_the_shares_of_the_pixels(mixup, cutmix):
    mixing = label_augment.Mixing(mixup, cutmix, seed=4)
    images, targets = pixels_of_rows(6), tf.eye(6)
    for step in range(4):
        mixed, shares = mixing(images, targets, tf.constant(step, tf.int64))
        np.testing.assert_allclose(
            shares, tf.reduce_mean(mixed, axis=[1, 2]), atol=1e-5
        )
        np.testing.assert_allclose(tf.reduce_sum(shares, 1), 1.0, atol=1e-5)
        assert np.abs(shares - np.eye(6)).max() > 0.1


def test_cut_mix_exchanges_whole_pixels_and_mix_up_blends_all():
    cut, _ = label_augment.Mixing(0, 1.0, 0)(pixels_of_rows(4), tf.eye(4), 0)
    assert set(np.unique(cut)) == {0.0, 1.0}
    blended, _ = label_augment.Mixing(1.0, 0, 0)(
        pixels_of_rows(4), tf.eye(4), 0
    )
    np.testing.assert_array_equal(
        blended, np.tile(blended[:, :1, :1], [1, SIZE, SIZE, 1])
    )


def test_both_methods_take_turns_by_batch():
    mixing = label_augment.Mixing(1.0, 1.0, seed=0)
    whole = []
    for step in range(40):
        mixed, _ = mixing(pixels_of_rows(4), tf.eye(4), step)
        whole.append(bool(np.isin(mixed, [0.0, 1.0]).all()))
    # CutMix's batches hold whole pixels alone: 20 of 40, deviation 3.2.
    assert 8 < sum(whole) < 32


def test_mixing_is_a_function_of_seed_and_step():
    images, targets = pixels_of_rows(5), tf.eye(5)
    first = label_augment.Mixing(1.0, 1.0, seed=1)
    run = tf.function(lambda step: first(images, targets, step))
    for step in (0, 1, 2, 3):
        step = tf.constant(step, tf.int64)
        again = label_augment.Mixing(1.0, 1.0, seed=1)(images, targets, step)
        np.testing.assert_allclose(run(step)[1], again[1], atol=1e-6)
    other = label_augment.Mixing(1.0, 1.0, seed=2)(images, targets, step)
    assert np.abs(other[1] - again[1]).max() > 0.01
    before = first(images, targets, step - 1)
    assert np.abs(before[1] - again[1]).max() > 0.01


def test_mixing_holds_no_random_state():
    mixing = label_augment.Mixing(0.2, 1.0, seed=1)
    assert_stateless(
        lambda step: mixing(pixels_of_rows(4), tf.eye(4), step), seed_of(1)[0]
    )


def test_a_small_alpha_gives_numbers():
    mixing = label_augment.Mixing(0.001, 0.0, seed=0)
    for step in range(5):
        mixed, shares = mixing(pixels_of_rows(8), tf.eye(8), step)
        assert np.isfinite(mixed).all() and np.isfinite(shares).all()


def test_shares_follow_the_beta_distribution():
    # Beta(1, 1) is uniform: mean 1/2, variance 1/12.
    images = tf.zeros([1000, 1, 1, 3])
    mixing = label_augment.Mixing(1.0, 0.0, seed=3)
    targets = tf.one_hot(tf.range(1000), 1000)
    _, mixed = mixing(images, targets, 0)
    own = np.diag(mixed)
    assert abs(own.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 1000)
    assert abs(own.var() - 1 / 12) < 0.015


def test_functions_of_tensorflow_are_put_back():
    names = ("uniform", "normal", "gamma", "shuffle", "get_global_generator")
    before = [getattr(tf.random, name) for name in names]
    draws = label_augment.SeededDraws()
    with pytest.raises(RuntimeError), draws.use(seed_of(0, 0)):
        assert tf.random.uniform != before[0]
        raise RuntimeError
    assert [getattr(tf.random, name) for name in names] == before


def test_draws_differ_from_one_another_and_need_a_seed():
    draws = label_augment.SeededDraws()
    with draws.use(seed_of(1, 2)):
        first, second = tf.random.uniform([4]), tf.random.uniform([4])
    with draws.use(seed_of(1, 2)):
        np.testing.assert_array_equal(tf.random.uniform([4]), first)
    assert np.abs(first - second).min() > 0
    with pytest.raises(ValueError, match="a draw without a seed"):
        draws.uniform([1])
