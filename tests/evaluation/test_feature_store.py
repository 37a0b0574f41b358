import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import views
from moco_tf.evaluation import features, frozen
from tests import small_disk
from tests.evaluation import fakes

VALUES = [0, 51, 102, 153, 204, 255, 25]
LABELS = [3, 1, 4, 1, 5, 9, 2]


class _Source(fakes.Source):
    digest = "f" * 64

    def fingerprint(self):
        return self.digest


def _judged(count=None, identity="a" * 64):
    """A Frozen of the fake encoder that counts the rows it encodes."""
    encoder = fakes.Encoder()

    def encode(images):
        if count is not None:
            count.append(len(images))
        images = views.normalize(images, fakes.RECIPE.mean, fakes.RECIPE.std)
        backbone, projection = encoder.features(images)
        return {"backbone": backbone, "projection": projection}

    return frozen.Frozen(
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
    source = _Source(VALUES, LABELS, broken)
    expected = features.extract(fakes.Encoder(), source, fakes.RECIPE, 4, 3)
    stored = features.store(_judged(), source, tmp_path, 3)
    _assert_same(stored, expected)
    assert stored.rows["backbone"].dtype == np.float32


@pytest.mark.parametrize("count", [7, 30_000])
def test_a_disk_without_room_is_told_of_before_it_is_full(tmp_path, count):
    """Without room for the header, and with room for a part of the rows."""
    values = np.resize(VALUES, count)
    source = _Source(values, np.resize(LABELS, count))
    with small_disk.mounted(tmp_path, "size=100k"):
        ballast = small_disk.fill(tmp_path) if count == 7 else None
        with pytest.raises(OSError, match="no room for .*backbone.npy"):
            features.store(_judged(), source, tmp_path, 3)
        assert not list(tmp_path.rglob("*.npy"))
        if ballast:
            ballast.unlink()
            stored = features.store(_judged(), source, tmp_path, 3)
            assert len(stored.index) == count


def test_the_second_time_nothing_is_encoded(tmp_path):
    source = _Source(VALUES, LABELS, broken=(2,))
    first = features.store(_judged(), source, tmp_path, 3)
    count = []
    again = features.store(_judged(count), source, tmp_path, 3)
    assert not count
    np.testing.assert_array_equal(
        again.rows["backbone"], first.rows["backbone"]
    )
    assert again.skipped == ["image-2.png"]


def test_a_killed_extraction_goes_on_where_it_stood(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_FLUSH_ROWS", 1)
    source = _Source(VALUES, LABELS, broken=(1,))

    def until_killed(first):
        for number, batch in enumerate(
            features.evaluation_batches(source, fakes.RECIPE, 4, 2, first)
        ):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        features.store(_judged(), source, tmp_path, 2, until_killed)
    count = []
    stored = features.store(_judged(count), source, tmp_path, 2)
    assert len(count) == 1  # batch of images 5 and 6; 0 2, 3 4 were there
    expected = features.extract(fakes.Encoder(), source, fakes.RECIPE, 4, 2)
    _assert_same(stored, expected)


def test_another_encoder_data_set_or_view_has_features_of_its_own(tmp_path):
    source, other = _Source(VALUES, LABELS), _Source(VALUES, LABELS)
    other.digest = "c" * 64
    features.store(_judged(), source, tmp_path, 3)
    for judged, found, tag in (
        (_judged(identity="b" * 64), source, ""),
        (_judged(), other, ""),
        (_judged(), source, "-crop"),
    ):
        count = []
        judged = judged._replace(
            encode=lambda images, judged=judged, count=count: (
                count.append(1) or judged.encode(images)
            )
        )
        features.store(judged, found, tmp_path, 3, tag=tag)
        assert count
    assert len(list(tmp_path.iterdir())) == 4


def test_the_last_batch_is_filled_so_that_one_trace_serves(tmp_path):
    count = []
    features.store(_judged(count), _Source(VALUES), tmp_path, 3)
    assert count == [3, 3, 3]


def test_a_source_without_a_readable_image_is_refused(tmp_path):
    source = _Source(VALUES, broken=range(7))
    with pytest.raises(ValueError, match="7 images, none readable"):
        features.store(_judged(), source, tmp_path, 3)
    mended = features.store(_judged(), _Source(VALUES), tmp_path, 3)
    assert len(mended.index) == 7


def test_rows_are_mapped_and_not_loaded(tmp_path):
    stored = features.store(_judged(), _Source(VALUES), tmp_path, 3)
    assert isinstance(stored.rows["backbone"], np.memmap)
    assert tf.constant(stored.rows["backbone"]).shape == [7, 2]
