"""The compiled kernel against the graph form of every view, its reference."""

import concurrent.futures

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from moco_tf.data import augmentation, compiled_views, image_ops, views
from tests import properties

# All that a view may draw, drawn as often as not, and with the longest reach.
STRONG = augmentation.Augmentation(
    low=0.08,
    reach=(0.8, 0.8, 0.8, 0.5),
    jitter=0.9,
    gray=0.2,
    blur=0.6,
    solarize=0.4,
)


def _picture(height, width, channels=3, seed=0):
    """Smooth colours with grain, and some that lie at the ends."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-60, 315, [6, 5, channels]).astype(np.float32)
    smooth = tf.image.resize(coarse, [height, width]).numpy()
    grain = rng.normal(0, 6, smooth.shape)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def _choices(augment, count, seed=0):
    seed = tf.constant([seed, 0], tf.int64)
    return augment.choose(seed, count).numpy()[:, np.newaxis]


def _by_kernel(image, choices, size, distorts=True):
    """Views uint8 [n, S, S, C] of one image by choices [n, 1, CHOICE]."""
    made = np.empty([len(choices), size, size, image.shape[-1]], np.uint8)
    for view, choice in zip(made, choices, strict=True):
        compiled_views.kernel()(
            image[np.newaxis],
            choice[np.newaxis],
            0,
            distorts,
            0,
            view[np.newaxis],
        )
    return made


def _by_graph(make, augment, image, choices, size):
    boxes = augment.boxes(image, choices[:, 0])
    rows = zip(boxes, choices[:, 0], strict=True)
    return np.stack([make(image, size, *row).numpy() for row in rows])


def _traced(make):
    """A view's function, compiled for any image: eager XLA takes seconds."""
    return tf.function(
        make,
        autograph=False,
        reduce_retracing=True,
    )


@pytest.mark.parametrize(("size", "shape"), [(96, (150, 211)), (31, (20, 9))])
def test_any_distortion_is_at_most_a_level_from_the_graphs(size, shape):
    image, choices = _picture(*shape), _choices(STRONG, 60)
    ours = _by_kernel(image, choices, size)
    make = _traced(STRONG.view)
    theirs = _by_graph(make, STRONG, tf.constant(image), choices, size)
    distance = np.abs(ours.astype(int) - theirs)
    assert distance.max() <= 1
    assert np.mean(distance > 0) < 1e-3
    assert len(np.unique(ours)) == 256


@properties.few
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**31 - 1),
    channels=st.sampled_from((3, 6)),
)
def test_any_crop_has_the_graphs_bits(height, width, size, seed, channels):
    augment = augmentation.crop_and_flip(0.05)
    image = _picture(height, width, channels, seed)
    choices = _choices(augment, 3, seed)
    np.testing.assert_array_equal(
        _by_kernel(image, choices, size, distorts=False),
        _by_graph(augment.crop, augment, tf.constant(image), choices, size),
    )


def test_a_crop_of_a_large_photograph_has_the_graphs_bits():
    augment = augmentation.crop_and_flip(0.2)
    image, choices = _picture(1500, 2100), _choices(augment, 4)
    np.testing.assert_array_equal(
        _by_kernel(image, choices, 224, distorts=False),
        _by_graph(augment.crop, augment, tf.constant(image), choices, 224),
    )


@properties.few
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 40),
    ratio=st.floats(1.0, 1.5),
    channels=st.sampled_from((3, 6)),
)
def test_any_evaluation_view_has_the_graphs_bits(
    height, width, size, ratio, channels
):
    image = tf.constant(_picture(height, width, channels))
    view = views.Centre(ratio)
    np.testing.assert_array_equal(view.on_host(image, size), view(image, size))


@properties.few
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    low=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**31 - 1),
)
def test_boxes_are_those_of_the_graph(height, width, low, seed):
    from moco_tf.data import view_kernel  # here: conftest may lack Numba

    augment = augmentation.crop_and_flip(low)
    numbers = _choices(augment, 20, seed)[:, 0, : image_ops.BOX_UNIFORMS]
    boxes = image_ops.box_of(tf.constant([height, width]), numbers).numpy()
    box = view_kernel._box.py_func
    with np.errstate(all="ignore"):
        ours = [box(height, width, row) for row in numbers]
    np.testing.assert_array_equal(ours, boxes)


def test_threads_that_draw_at_a_time_have_the_bits_of_one():
    image, choices = _picture(120, 90), _choices(STRONG, 24)
    alone = _by_kernel(image, choices, 48)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        parts = np.array_split(np.arange(24), 8)
        made = pool.map(
            lambda part: _by_kernel(image, choices[part], 48), parts
        )
        np.testing.assert_array_equal(np.concatenate([*made]), alone)


def test_a_batch_in_one_call_has_the_bits_of_each_image():
    images = np.stack([_picture(40, 33, seed=n) for n in range(5)])
    choices = _choices(STRONG, 10).reshape(5, 2, -1)
    made = compiled_views.make_views(
        tf.constant(images),
        {"pair": choices, "small": choices},
        tf.constant([True, True]),
        {"query": 24, "key": 24, "small": 12},
        True,
    )
    assert made["small"].shape == [5, 2, 12, 12, 3]
    for number, image in enumerate(images):
        for name, view in (("query", 0), ("key", 1)):
            row = choices[number, view : view + 1, np.newaxis]
            expected = _by_kernel(image, row, 24)[0]
            np.testing.assert_array_equal(made[name][number], expected)
        rows = choices[number][:, np.newaxis]
        expected = _by_kernel(image, rows, 12)
        np.testing.assert_array_equal(made["small"][number], expected)


def test_a_view_that_is_not_wanted_is_not_made():
    image = tf.constant(_picture(40, 33) | 1)
    choices = {"pair": _choices(STRONG, 2).reshape(2, -1)}
    made = compiled_views.make_views(
        image,
        choices,
        tf.constant([False, True]),
        {"query": 8, "key": 8},
        True,
    )
    assert not made["query"].numpy().any()
    assert made["key"].numpy().any()
