import types

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from moco_tf.data import views
from moco_tf.evaluation import features, frozen
from tests import small_disk
from tests.evaluation import fakes

VALUES = [0, 51, 102, 153, 204, 255, 25]


def _batches(source, batch_size, first=0, view=None):
    return list(
        features.evaluation_batches(
            source, fakes.RECIPE, 4, batch_size, first, view
        ).as_numpy_iterator()
    )


def test_every_image_comes_once_in_order():
    batches = _batches(fakes.Source(VALUES), 3)
    assert [len(index) for _, index in batches] == [3, 3, 1]
    images = np.concatenate([images for images, _ in batches])
    assert images.shape == (7, 4, 4, 3)
    assert images.dtype == np.uint8
    assert images[:, 0, 0, 0].tolist() == VALUES
    index = np.concatenate([index for _, index in batches])
    assert index.tolist() == list(range(7))
    assert index.dtype == np.int64


def test_batches_start_at_any_image():
    (images, index), *others = _batches(fakes.Source(VALUES), 3, first=5)
    assert index.tolist() == [5, 6]
    assert images[:, 0, 0, 0].tolist() == [255, 25]
    assert not others


def test_another_view_knows_the_image_and_its_place():
    def view(image, index):
        return image[:4, :4] // 5 + tf.cast(index, tf.uint8)

    (images, _), *_ = _batches(fakes.Source(VALUES), 3, view=view)
    assert images[:, 0, 0, 0].tolist() == [0 + 0, 10 + 1, 20 + 2]


def test_a_source_that_cannot_fail_is_not_guarded():
    source = fakes.Source(VALUES, broken=[2])
    source.may_fail = False
    with pytest.raises(Exception, match="damaged"):
        _batches(source, 3)


def test_features_are_those_of_each_image():
    source = fakes.Source(VALUES, labels=[3, 1, 4, 1, 5, 9, 2])
    result = features.extract_in_memory(
        fakes.Encoder(), source, fakes.RECIPE, 4, 3
    )
    x = np.array(VALUES, np.float32) / 255
    np.testing.assert_allclose(
        result.backbone, np.stack([x, 1 - x], 1), atol=1e-6
    )
    np.testing.assert_allclose(
        result.projection, np.stack([x, np.ones(7)], 1), atol=1e-6
    )
    assert result.backbone.dtype == result.projection.dtype == np.float32
    assert result.labels.tolist() == [3, 1, 4, 1, 5, 9, 2]
    assert result.skipped == []


def test_images_are_normalised_by_the_recipe():
    recipe = fakes.RECIPE._replace(mean=(0.5,) * 3, std=(0.25,) * 3)
    result = features.extract_in_memory(
        fakes.Encoder(), fakes.Source([255]), recipe, 4, 1
    )
    np.testing.assert_allclose(result.backbone, [[2.0, -1.0]], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_the_batch_size_changes_nothing(batch_size):
    result = features.extract_in_memory(
        fakes.Encoder(), fakes.Source(VALUES), fakes.RECIPE, 4, batch_size
    )
    assert result.backbone.shape == (7, 2)
    np.testing.assert_allclose(
        result.backbone[:, 0], np.array(VALUES) / 255, atol=1e-6
    )


def test_one_trace_serves_a_whole_run():
    encoder = fakes.Encoder()
    for values in (VALUES, VALUES[:5], VALUES):
        features.extract_in_memory(
            encoder, fakes.Source(values), fakes.RECIPE, 4, 3
        )
    assert encoder.traces == 1


def test_new_weights_are_seen_without_a_new_trace():
    encoder = fakes.Encoder()
    source = fakes.Source([0])
    features.extract_in_memory(encoder, source, fakes.RECIPE, 4, 2)
    encoder.one.assign(5.0)
    result = features.extract_in_memory(encoder, source, fakes.RECIPE, 4, 2)
    np.testing.assert_allclose(result.backbone, [[0.0, 5.0]])


def test_unreadable_images_are_skipped_and_named(monkeypatch):
    warnings = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: warnings.append(text % args)
    )
    source = fakes.Source(VALUES, labels=range(7), broken=[0, 4, 6])
    result = features.extract_in_memory(
        fakes.Encoder(), source, fakes.RECIPE, 4, 3
    )
    np.testing.assert_allclose(
        result.backbone[:, 0], np.array([51, 102, 153, 255]) / 255, atol=1e-6
    )
    assert result.labels.tolist() == [1, 2, 3, 5]
    assert result.index.tolist() == [1, 2, 3, 5]
    assert result.skipped == ["image-0.png", "image-4.png", "image-6.png"]
    assert warnings == [
        "3 of 7 images cannot be read and are left out of the evaluation: "
        "image-0.png, image-4.png, image-6.png"
    ]


def test_a_source_without_one_readable_image_is_refused():
    source = fakes.Source([1, 2], broken=[0, 1])
    with pytest.raises(ValueError, match="2 images, none .* image-0.png"):
        features.extract_in_memory(fakes.Encoder(), source, fakes.RECIPE, 4, 3)


def test_a_source_without_labels_has_features_without_labels():
    result = features.extract_in_memory(
        fakes.Encoder(), fakes.Source(VALUES), fakes.RECIPE, 4, 3
    )
    assert result.labels is None


def test_raw_pixels_are_the_normalised_view():
    recipe = fakes.RECIPE._replace(mean=(0.5,) * 3, std=(0.5,) * 3)
    source = fakes.Source([0, 255, 51], labels=[0, 1, 0], broken=[1])
    result = features.raw_pixels(source, recipe, 2, batch_size=2)
    np.testing.assert_allclose(
        result.backbone, [[-1.0] * 12, [-0.6] * 12], atol=1e-6
    )
    assert result.projection is None
    assert result.labels.tolist() == [0, 0]
    assert result.skipped == ["image-1.png"]


def test_labels_follow_the_class_names_of_the_bank():
    bank = fakes.Source([0] * 3, [0, 1, 2], class_names=["ant", "bee", "cat"])
    query = fakes.Source([0] * 2, [0, 1], class_names=["bee", "cat"])
    labels, classes = features.common_labels(bank, query)
    assert labels.tolist() == [1, 2]
    assert classes == 3


def test_labels_without_names_are_taken_as_numbers():
    labels, classes = features.common_labels(
        fakes.Source([0] * 2, [0, 7]), fakes.Source([0], [4])
    )
    assert labels.tolist() == [4]
    assert classes == 8


def test_a_label_above_those_of_the_bank_is_refused_with_both_values():
    with pytest.raises(ValueError, match="8 classes and the label 9"):
        features.common_labels(
            fakes.Source([0] * 2, [0, 7]), fakes.Source([0], [9])
        )


def test_a_class_that_the_bank_lacks_is_refused_by_name():
    bank = fakes.Source([0], [0], class_names=["ant"])
    query = fakes.Source([0] * 2, [0, 1], class_names=["ant", "bee"])
    with pytest.raises(ValueError, match="1 classes and 2; .* bank: bee"):
        features.common_labels(bank, query)


def test_a_source_without_labels_cannot_be_compared():
    with pytest.raises(ValueError, match="The query set has none"):
        features.common_labels(fakes.Source([0], [0]), fakes.Source([0]))


STORED_VALUES = [0, 51, 102, 153, 204, 255, 25]
LABELS = [3, 1, 4, 1, 5, 9, 2]


class _Source(fakes.Source):
    digest = "f" * 64

    def fingerprint(self):
        return self.digest


def _frozen(count=None, identity="a" * 64):
    """A FrozenEncoder of the fake encoder that counts the rows it encodes."""
    encoder = fakes.Encoder()

    def encode(images):
        if count is not None:
            count.append(len(images))
        images = views.normalize(images, fakes.RECIPE.mean, fakes.RECIPE.std)
        backbone, projection = encoder.features(images)
        return {"backbone": backbone, "projection": projection}

    return frozen.FrozenEncoder(
        encode,
        frozen.LAYERS,
        4,
        fakes.RECIPE,
        "fake",
        [encoder.one],
        identity,
    )


def _assert_same(stored, expected):
    np.testing.assert_array_equal(stored.rows["backbone"], expected.backbone)
    np.testing.assert_array_equal(
        stored.rows["projection"], expected.projection
    )
    np.testing.assert_array_equal(stored.index, expected.index)
    np.testing.assert_array_equal(stored.labels, expected.labels)
    assert stored.skipped == expected.skipped


@pytest.mark.parametrize("broken", [(), (0, 3), (6,)])
def test_stored_features_are_the_extracted_ones(tmp_path, broken):
    source = _Source(STORED_VALUES, LABELS, broken)
    expected = features.extract_in_memory(
        fakes.Encoder(), source, fakes.RECIPE, 4, 3
    )
    stored = features.extract_to_disk(_frozen(), source, tmp_path, 3)
    _assert_same(stored, expected)
    assert stored.rows["backbone"].dtype == np.float32


@pytest.mark.parametrize("count", [7, 30_000])
def test_a_disk_without_room_is_refused_before_it_is_full(tmp_path, count):
    """Without room for the header, and with room for a part of the rows."""
    values = np.resize(STORED_VALUES, count)
    source = _Source(values, np.resize(LABELS, count))
    with small_disk.mounted(tmp_path, "size=100k"):
        ballast = small_disk.fill(tmp_path) if count == 7 else None
        with pytest.raises(OSError, match="no room for .*backbone.npy"):
            features.extract_to_disk(_frozen(), source, tmp_path, 3)
        assert not list(tmp_path.rglob("*.npy"))
        if ballast:
            ballast.unlink()
            stored = features.extract_to_disk(_frozen(), source, tmp_path, 3)
            assert len(stored.index) == count


def test_the_second_time_nothing_is_encoded(tmp_path):
    source = _Source(STORED_VALUES, LABELS, broken=(2,))
    first = features.extract_to_disk(_frozen(), source, tmp_path, 3)
    count = []
    again = features.extract_to_disk(_frozen(count), source, tmp_path, 3)
    assert not count
    np.testing.assert_array_equal(
        again.rows["backbone"], first.rows["backbone"]
    )
    assert again.skipped == ["image-2.png"]


def test_a_killed_extraction_goes_on_where_it_stood(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_FLUSH_ROWS", 1)
    source = _Source(STORED_VALUES, LABELS, broken=(1,))

    def until_killed(first):
        for number, batch in enumerate(
            features.evaluation_batches(source, fakes.RECIPE, 4, 2, first)
        ):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        features.extract_to_disk(_frozen(), source, tmp_path, 2, until_killed)
    count = []
    stored = features.extract_to_disk(_frozen(count), source, tmp_path, 2)
    assert len(count) == 1  # batch of images 5 and 6; 0 2, 3 4 were there
    expected = features.extract_in_memory(
        fakes.Encoder(), source, fakes.RECIPE, 4, 2
    )
    _assert_same(stored, expected)


def test_another_encoder_data_set_or_view_has_features_of_its_own(tmp_path):
    source, other = (
        _Source(STORED_VALUES, LABELS),
        _Source(STORED_VALUES, LABELS),
    )
    other.digest = "c" * 64
    features.extract_to_disk(_frozen(), source, tmp_path, 3)
    for encoder, images, tag in (
        (_frozen(identity="b" * 64), source, ""),
        (_frozen(), other, ""),
        (_frozen(), source, "-crop"),
    ):
        count = []
        encoder = encoder._replace(
            encode=lambda images, encoder=encoder, count=count: (
                count.append(1) or encoder.encode(images)
            )
        )
        features.extract_to_disk(encoder, images, tmp_path, 3, tag=tag)
        assert count
    assert len(list(tmp_path.iterdir())) == 4


def test_the_last_batch_is_filled_so_that_one_trace_serves(tmp_path):
    count = []
    features.extract_to_disk(
        _frozen(count), _Source(STORED_VALUES), tmp_path, 3
    )
    assert count == [3, 3, 3]


def test_a_source_without_a_readable_image_is_refused(tmp_path):
    source = _Source(STORED_VALUES, broken=range(7))
    with pytest.raises(ValueError, match="7 images, none readable"):
        features.extract_to_disk(_frozen(), source, tmp_path, 3)
    mended = features.extract_to_disk(
        _frozen(), _Source(STORED_VALUES), tmp_path, 3
    )
    assert len(mended.index) == 7


def test_rows_are_mapped_and_not_loaded(tmp_path):
    stored = features.extract_to_disk(
        _frozen(), _Source(STORED_VALUES), tmp_path, 3
    )
    assert isinstance(stored.rows["backbone"], np.memmap)
    assert tf.constant(stored.rows["backbone"]).shape == [7, 2]


def _of(backbone=None, size=224, config=None):
    """A FrozenEncoder of a backbone, or of layers that nobody knows."""
    encoder = backbone and types.SimpleNamespace(backbone=backbone)
    unknown = (None, frozen.LAYERS[:1], size, fakes.RECIPE, "fake", [], "")
    return frozen.FrozenEncoder(*unknown, encoder=encoder, config=config)


@pytest.mark.parametrize(
    "size, channels, batch",
    [
        # 32 x 32 x 64 floats are 256 KiB; four of them, 1 MiB, go 1024 times
        # into the room; 512 are the most.
        (32, 64, 512),
        (224, 64, 16),  # 12.25 MiB, 49: 20
        (1024, 64, 1),
    ],
)
def test_the_batch_goes_with_the_largest_layer(size, channels, batch):
    layers = [
        tf.keras.Input([size, size, 3]),
        tf.keras.layers.Conv2D(channels, 3, padding="same"),
        tf.keras.layers.GlobalAveragePooling2D(),
    ]
    encoder = _of(tf.keras.Sequential(layers), size)
    assert features.batch_for(encoder) == batch
    assert features.batch_for(encoder, 3) == min(batch, 3)
    # Of a SavedModel, and of views of two sizes, by their pixels.
    assert features.batch_for(_of(size=size)) == batch
    layers[0] = tf.keras.Input([None, None, 3])
    assert features.batch_for(_of(tf.keras.Sequential(layers), size)) == batch


def test_features_are_stored_in_batches_that_the_encoder_takes(
    tmp_path, monkeypatch
):
    taken = []

    def encode(images):
        taken.append(len(images))
        rows = tf.cast(images[:, 0, 0], tf.float32)
        return {"backbone": rows, "projection": rows}

    encoder = _frozen()._replace(encode=encode)
    monkeypatch.setattr(features, "_ROOM", 2 * 4 * 256 * 4**2)  # of two images
    source = _Source(STORED_VALUES, LABELS, ())
    stored = features.extract_to_disk(encoder, source, tmp_path)
    assert set(taken) == {2} and len(stored.index) == len(STORED_VALUES)
