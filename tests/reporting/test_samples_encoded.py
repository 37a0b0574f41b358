import numpy as np
import pytest

from moco_tf.evaluation import features, frozen
from moco_tf.reporting import page, samples
from tests import shallow
from tests.evaluation import small_encoder

_network = shallow.fixture()


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    """Of a test set of 6 dark images, 4 light ones and one unreadable."""
    workdir = small_encoder.write(tmp_path_factory.mktemp("encoded"))
    return page.read_runs([str(workdir)])[0]


@pytest.fixture(name="all_shown", scope="module")
def _all_shown(run):
    return samples.encode(run, "latest", 11)


def test_images_are_evenly_spaced_and_readable(run):
    test = samples.encode(run, "latest", 3)
    # Of indices 0, 5 and 10 in 7 dark files, the last damaged, and 4 light.
    assert list(test.shown.names) == ["dark/0.png", "dark/5.png", "light/3.png"]
    assert test.shown.labels.tolist() == [0, 0, 1]
    assert test.total == 11
    assert [image.shape for image in test.images] == 3 * [(16, 16, 3)]
    assert test.images[0].mean() < test.images[2].mean() - 50


def test_features_are_those_of_the_images(all_shown):
    assert len(all_shown.images) == len(all_shown.shown.index) == 10
    images = np.stack(all_shown.images)
    expected = all_shown.encoder.encode(images)[samples.LAYER]
    np.testing.assert_allclose(
        all_shown.shown.rows[samples.LAYER], expected, rtol=1e-4, atol=1e-5
    )


def test_neighbours_come_from_the_complete_set_where_it_is_stored(run):
    source = samples.open_source(run, run.config.knn.query)
    encoder = frozen.open_frozen(run.workdir)
    features.extract_to_disk(encoder, source, run.workdir / "features", 4)
    test = samples.encode(run, "latest", 5)
    assert len(test.bank.index) == 10 and len(test.shown.index) == 5


def test_beside_other_runs_neighbours_come_from_what_is_shown(run):
    test = samples.encode(run, "latest", 5, is_single=False)
    assert len(test.bank.index) == len(test.shown.index) == 5


def test_a_workdir_that_cannot_be_written_stays_as_it_is(run, monkeypatch):
    monkeypatch.setattr(samples.os, "access", lambda path, mode: False)
    before = sorted(run.workdir.rglob("*"))
    assert len(samples.encode(run, "latest", 2).images) == 2
    assert sorted(run.workdir.rglob("*")) == before


def test_queries_are_of_each_class_in_turn(all_shown):
    near = samples.find_neighbours(all_shown, queries=5, k=3)
    classes = all_shown.shown.labels[near.query].tolist()
    assert classes == [0, 1, 0, 1, 0]
    assert near.index.shape == (5, 3)


def test_no_image_is_its_own_neighbour_and_the_nearest_comes_first(all_shown):
    near = samples.find_neighbours(all_shown, queries=2, k=20)
    assert near.index.shape == (2, 9)  # all the others
    rows = np.array(all_shown.bank.rows[samples.LAYER], np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for query, index in zip(near.query, near.index, strict=True):
        expected = np.argsort(-(rows @ rows[query]))
        expected = [row for row in expected if row != query]
        assert index.tolist() == expected


def test_a_single_image_has_no_neighbours(all_shown):
    one = all_shown.bank._replace(index=all_shown.bank.index[:1])
    assert samples.find_neighbours(all_shown._replace(bank=one)) is None


def test_images_are_drawn_from_where_they_are(all_shown):
    views = all_shown.views([2, 8, 6])  # 6 is the damaged one
    assert sorted(views) == [2, 8]
    assert views[2].mean() < views[8].mean()
