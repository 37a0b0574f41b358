"""The embedded data set: its images, and that pixels do not show the class."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from moco_tf.data import shapes, sources
from moco_tf.evaluation import voting


@pytest.fixture(scope="module", name="some")
def fixture_some():
    """The first images of the training split and their labels."""
    indices = np.arange(1500)
    return shapes.render("train", indices), indices % 10


def test_the_pixels_are_the_same_everywhere():
    images = np.concatenate(
        [
            shapes.render("train", np.arange(10)),
            shapes.render("test", np.arange(1990, 2000)),
        ]
    )
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest[:16] == "b5c077d91ea3941a"


def test_any_images_are_those_of_the_split():
    images, labels = shapes.load("test")
    chosen = np.array([1999, 3, 1040, 3, 17])
    np.testing.assert_array_equal(shapes.render("test", chosen), images[chosen])
    assert images.shape == (2000, 64, 64, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64


def test_classes_are_balanced_and_named():
    source = sources.open_source("shapes:test")
    assert np.bincount(source.labels).tolist() == [200] * 10
    assert len(set(source.class_names)) == 10
    assert not source.may_fail
    assert source.name(7) == "shapes:test[7]"
    assert shapes.COUNTS == {"train": 20_000, "test": 2_000}


def test_a_split_is_rendered_once_and_cannot_be_changed():
    first, _ = shapes.load("test")
    second, _ = shapes.load("test")
    assert first is second
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_no_image_is_in_both_splits_or_twice(some):
    train, _ = some
    test, _ = shapes.load("test")
    images = [image.tobytes() for image in [*train, *test]]
    assert len(set(images)) == len(images)


def test_another_split_is_refused():
    with pytest.raises(ValueError, match="Received 'val'. Use shapes:train"):
        shapes.load("val")


def test_layers_add_up_in_every_pixel():
    # 256ths of a pixel, so that no light is lost or added between layers.
    scenes = {k: v[:3] for k, v in shapes._scenes("test").items()}
    cover, pattern = np.random.default_rng(0).random((2, 3, 64, 64))
    axis = np.arange(64, dtype=np.float32)
    layers = shapes._layers(scenes, axis, axis[:, None], cover, pattern)
    np.testing.assert_array_equal(layers[:, :8].sum(1), 256)
    np.testing.assert_array_equal(layers, np.floor(layers))
    assert layers[:, :8].min() >= 0


@pytest.mark.parametrize("kind", range(10))
def test_patterns_repeat_and_show_both_inks(kind):
    u, v = np.meshgrid(np.linspace(-9, 9, 181), np.linspace(-9, 9, 181))
    pattern = shapes.PATTERNS[kind](u, v)
    assert pattern.min() == 0
    assert pattern.max() == 1
    assert 0.3 < pattern.mean() < 0.7


@pytest.mark.parametrize("kind", range(10))
def test_outlines_are_of_like_area(kind):
    u, v = np.meshgrid(np.linspace(-1.5, 1.5, 301), np.linspace(-1.5, 1.5, 301))
    inside = shapes.OUTLINES[kind](u, v) < 0
    assert 1.2 < inside.mean() * 9 < 2.7  # squared radii
    assert np.hypot(u, v)[inside].max() < 1.3


def test_colours_say_little_about_the_class(some):
    images, labels = some
    pixels = images.reshape(len(images), -1, 3).astype(np.float32)
    statistics = np.concatenate(
        [pixels.mean(1), pixels.std(1), pixels.min(1), pixels.max(1)], axis=1
    )
    statistics = (statistics - statistics.mean(0)) / statistics.std(0)
    means = np.stack(
        [statistics[:1000][labels[:1000] == c].mean(0) for c in range(10)]
    )
    distance = ((statistics[1000:, np.newaxis] - means) ** 2).sum(-1)
    assert (distance.argmin(1) == labels[1000:]).mean() < 0.25


def test_raw_pixels_say_little_about_the_class(some):
    images, labels = some
    pixels = images[:, ::2, ::2].reshape(len(images), -1) / 255.0 - 0.5
    accuracy = voting.top1(
        pixels[:1000], labels[:1000], pixels[1000:], labels[1000:], 50, 0.1, 10
    )
    assert accuracy < 0.25


AHEAD = """
import sys
import numpy as np
from moco_tf.data import shapes
shapes.COUNTS |= {"test": 30, "train": 20}
render, parent, calls = shapes.render, shapes.os.getpid(), []
def count_calls(split, indices):
    calls.append(split)
    if sys.argv[1] == "fails" and shapes.os.getpid() != parent:
        raise MemoryError
    return render(split, indices)
shapes.render = count_calls
shapes.render_ahead(["test", "train", "none"])
assert set(shapes._ahead) == {"test", "train"}
for split, count in shapes.COUNTS.items():
    images, labels = shapes.load(split)
    np.testing.assert_array_equal(images, render(split, np.arange(count)))
    assert not images.flags.writeable
    assert shapes.load(split)[0] is images
assert shapes._ahead == {}
assert len(calls) == (2 if sys.argv[1] == "fails" else 0)  # of this process
sys.modules["tensorflow"] = None  # which has threads
shapes.render_ahead(["test"])
assert shapes._ahead == {}
"""


@pytest.mark.parametrize("way", ["works", "fails"])
def test_images_rendered_ahead_are_those_that_a_call_renders(way):
    done = subprocess.run(
        [sys.executable, "-c", AHEAD, way], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
