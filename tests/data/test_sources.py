"""The spec of a source, and sources in memory."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources


def small():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    return images, sources.ArraySource(
        images, np.array([1, 0]), ["a", "b"], "small"
    )


def test_an_array_gives_its_images_by_index_in_the_graph():
    images, source = small()
    dataset = tf.data.Dataset.from_tensors(np.array([1, 0, 1]))
    dataset = dataset.map(source.records).unbatch().map(source.image)
    np.testing.assert_array_equal(list(dataset), images[[1, 0, 1]])
    assert len(source) == 2
    assert not source.may_fail
    assert source.name(1) == "small[1]"


def test_the_fingerprint_of_an_array_is_of_pixels_and_labels():
    images, source = small()
    other = images.copy()
    other[0, 0, 0, 0] += 1
    labels, names = np.array([1, 0]), ["a", "b"]
    same = sources.ArraySource(images, labels, names, "small")
    pixel = sources.ArraySource(other, labels, names, "small")
    label = sources.ArraySource(images, labels[::-1].copy(), names, "small")
    assert source.fingerprint() == same.fingerprint()
    assert source.fingerprint() != pixel.fingerprint()
    assert source.fingerprint() != label.fingerprint()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "Received ''. Give, for instance, folder:"),
        ("folder:", "Received 'folder:'. Did you mean 'folder:...'"),
        ("foldr:/data", "Did you mean 'folder:/data'"),
        ("shape", "Did you mean 'shapes:...'"),
        (
            "/nowhere/at/all",
            "Received '/nowhere/at/all'. Give, for instance, folder:",
        ),
        ("shapes:val", "splits train and test. Received 'val'"),
    ],
)
def test_an_unknown_spec_is_refused_with_a_remedy(spec, message):
    with pytest.raises(ValueError, match=message):
        sources.open_source(spec)


def test_a_plain_path_is_refused_with_the_spec_it_needs(tmp_path):
    with pytest.raises(ValueError, match=f"Did you mean 'folder:{tmp_path}'"):
        sources.open_source(str(tmp_path))


def test_tfds_is_not_imported_unless_asked_for():
    code = (
        "import sys; from moco_tf.data import sources; "
        "print('tensorflow_datasets' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[-1] == "False"
