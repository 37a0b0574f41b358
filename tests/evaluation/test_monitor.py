import itertools
import math
import types

import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources, views
from moco_tf.evaluation import baseline, features, monitor
from moco_tf.methods import online_probe
from tests import small_run
from tests.evaluation import fakes


def _passes(source, size=2, view=None):
    return monitor.RepeatedBatches(source, fakes.RECIPE, 4, size, view)


def _read(batches):
    return [(x.numpy().tolist(), i.numpy().tolist()) for x, i in batches]


@pytest.mark.parametrize("broken", [(), (0, 3), (4,)])
def test_every_pass_has_the_batches_of_one(broken):
    source = fakes.Source([1, 2, 3, 4, 5], broken=broken)
    expected = _read(features.evaluation_batches(source, fakes.RECIPE, 4, 2))
    again = _passes(source)
    for _ in range(3):
        assert _read(again) == expected


def test_a_source_of_which_nothing_is_read_has_empty_passes():
    again = _passes(fakes.Source([1, 2], broken=(0, 1)))
    assert _read(again) == _read(again) == []


def test_after_one_that_is_broken_off_comes_a_whole_pass():
    again = _passes(fakes.Source(range(5)))
    assert len(list(itertools.islice(again, 2))) == 2
    assert np.concatenate([i for _, i in again]).tolist() == [0, 1, 2, 3, 4]


def test_one_iterator_makes_all_passes(monkeypatch):
    iterators = []
    monkeypatch.setattr(
        monitor, "iter", lambda x: iterators.append(x) or iter(x), raising=False
    )
    again = _passes(fakes.Source(range(5)))
    assert _read(again) == _read(again)
    assert len(iterators) == 1


def test_nothing_is_read_ahead_of_a_pass():
    seen = []

    def view(image, index):
        tf.py_function(lambda i: seen.append(int(i)), [index], [])
        return tf.fill([4, 4, 3], tf.cast(image[0, 0, 0], tf.uint8))

    again = _passes(fakes.Source(range(5)), view=view)
    for count in (5, 10):
        assert len(_read(again)) == 3
        assert sorted(seen) == sorted([*range(5)] * (count // 5))


FIGURES = {
    "knn_backbone",
    "knn_projection",
    "alignment",
    "uniformity",
    "effective_rank",
    "feature_norm",
}


def _config(bank="bank", query="query", seed=3, size=4):
    return ml_collections.ConfigDict(
        {
            "seed": seed,
            "data": {
                "source": "",
                "views": "v1",
                "strength": 1.0,
                "image_size": size,
            },
            "model": {"input": "rgb"},
            "knn": {
                "bank": bank,
                "query": query,
                "batch_size": 4,
                "k": 1,
                "temperature": 0.1,
                "features": "backbone",
            },
        }
    )


def _inverted_in_one_view(image, size, seed):
    """One view of an image is as it is, the other its negative."""
    image = tf.image.resize(image, [size, size], "nearest")
    return tf.cond(seed[1] % 2 == 0, lambda: image, lambda: 255 - image)


@pytest.fixture(name="make")
def _make(monkeypatch):
    """A function of the query set -> monitor of fake sources."""

    def make(query, augment=_inverted_in_one_view, probed=None):
        bank = fakes.Source([0, 255], [0, 1])
        opened = {"bank": bank, "query": query}
        monkeypatch.setattr(
            sources, "open_source", lambda spec, channels: opened[spec]
        )
        recipe = fakes.RECIPE._replace(augment=augment)
        monkeypatch.setitem(views.RECIPES, "v1", recipe)
        return monitor.KnnMonitor(_config(), probed=probed)

    return make


def test_knn_and_the_representation_are_measured_on_the_same_features(make):
    # Backbone rows (0, 1), (1, 0), and the wrong label of the last (1, 0).
    measure = make(fakes.Source([0, 255, 255], [0, 1, 0]))
    result = measure(fakes.Encoder())
    assert set(result) == FIGURES
    assert result["knn_backbone"] == pytest.approx(2 / 3)
    # Of three pairs two have the squared distance 2, one has 0.
    expected = math.log((1 + 2 * math.exp(-4)) / 3)
    assert result["uniformity"] == pytest.approx(expected, abs=1e-5)
    assert result["effective_rank"] == pytest.approx(1.0)
    assert result["feature_norm"] == pytest.approx(1.0)
    # Each image's two views are at a right angle.
    assert result["alignment"] == pytest.approx(2.0)


def test_sources_are_encoded_once_and_with_one_trace(make, monkeypatch):
    counts, extract = [], features.extract_in_memory

    def counted(encoder, source, *rest):
        counts.append(len(source))
        return extract(encoder, source, *rest)

    monkeypatch.setattr(features, "extract_in_memory", counted)
    monkeypatch.setattr(monitor, "_PAIRS", 3)
    encoder = fakes.Encoder()
    measure = make(fakes.Source([0, 255, 0, 255, 0], [0, 1, 0, 1, 0]))
    measure(encoder)
    measure(encoder)
    # Bank, query set, and two views of no more images than are wanted.
    assert counts == [2, 5, 3, 3] * 2
    assert encoder.traces == 1


def test_views_are_of_images_that_can_be_read(make):
    values = [0, 255, 51, 204, 102]
    drawn = []

    def augment(image, size, seed):
        def note(pixel, place):
            drawn.append((int(pixel), int(place)))
            return np.int32(0)

        noted = tf.numpy_function(note, [image[0, 0, 0], seed[1]], tf.int32)
        with tf.control_dependencies([noted]):
            return tf.image.resize(image, [size, size], "nearest")

    measure = make(fakes.Source(values, [0, 1, 0, 1, 0], broken=[2]), augment)
    result = measure(fakes.Encoder())
    assert result["alignment"] == pytest.approx(0.0)
    assert sorted(pixel for pixel, _ in drawn) == sorted(2 * [0, 255, 204, 102])
    # No two views share their random numbers, with none of the training's.
    assert sorted(place for _, place in drawn) == list(range(-8, 0))


def test_one_image_that_can_be_read_has_a_knn_only(make):
    measure = make(fakes.Source([0, 255], [0, 1], broken=[1]))
    result = measure(fakes.Encoder())
    assert result == {"knn_backbone": 1.0, "knn_projection": 1.0}


def test_the_views_follow_the_seed_of_the_run(tmp_path):
    spec = f"folder:{small_run.write_images(tmp_path, 6)}"
    result = [
        monitor.KnnMonitor(_config(spec, spec, seed, size=16))(fakes.Encoder())
        for seed in (3, 3, 4)
    ]
    assert result[0] == result[1]
    assert result[0]["alignment"] > 0
    assert result[0]["alignment"] != result[2]["alignment"]


def test_a_run_is_measured_every_few_epochs_and_after_the_last(make):
    measure = make(fakes.Source([0, 255], [0, 1]))
    measure.config = _config()
    measure.config.knn.every_epochs = 2
    measure.config.train = {"epochs": 5}
    method = types.SimpleNamespace(query_encoder=fakes.Encoder())
    rows = [{"step": step} for step in range(1, 6)]
    for row in rows:
        measure.on_epoch(method, row)
    measured = [row["step"] for row in rows if "knn_backbone" in row]
    assert measured == [2, 4, 5]
    assert measure.newest_top1 == rows[-1]["knn_backbone"]
    measure.config.train = {"epochs": 5, "max_steps": 3}
    rows = [{"step": step} for step in range(1, 4)]
    for row in rows:
        measure.on_epoch(method, row)
    assert [row["step"] for row in rows if "knn_backbone" in row] == [2, 3]


_FIGURES = {
    "knn_pixels": 0.75,
    "start_backbone": 0.75,
    "start_projection": 0.75,
    "knn_chance": 0.75,
}


@pytest.fixture(name="measured")
def _measured(make, tmp_path):
    """A function: a monitor, which may take up what another one has measured.

    Three of four images are of class 0, so guessing gives 75 %.
    """

    def measured(encoder=None, **settings):
        measure = make(fakes.Source([0, 255, 255, 0], [0, 1, 0, 0]))
        measure.config = _config()
        measure.config.knn.update(settings)
        if encoder:
            measure.measure_baseline(encoder, tmp_path)
        else:
            measure.recall_baseline(tmp_path)
        return measure

    return measured


def _kept(measure):
    """The baseline's kNN."""
    figures = measure.baseline.figures
    return {name: figures[name] for name in _FIGURES}


def test_the_baseline_names_the_layer_and_all_figures(measured):
    measure = measured(fakes.Encoder())
    assert _kept(measure) == _FIGURES
    assert measure.baseline_words() == (
        "raw pixels 75.00 %  untrained encoder (backbone) 75.00 %  "
        "chance 75.00 %"
    )


def test_a_later_session_has_the_baseline_in_every_epoch(measured):
    measured(fakes.Encoder())
    measure = measured()
    measure.config.train = {"epochs": 3}
    measure.config.knn.every_epochs = 3
    row = {"step": 3}
    method = types.SimpleNamespace(query_encoder=fakes.Encoder())
    measure.on_epoch(method, row)
    assert {name: row[name] for name in _FIGURES} == _FIGURES


def test_a_baseline_of_other_votes_is_left_out(measured, capsys):
    measured(fakes.Encoder())
    assert measured(k=2).baseline is None
    assert "another bank, query set, k" in capsys.readouterr().out
    assert _kept(measured()) == _FIGURES


def test_a_baseline_that_cannot_be_read_is_kept_beside(
    measured, tmp_path, capsys
):
    path = tmp_path / baseline.FILE
    assert measured().baseline is None
    assert measured().baseline_words() == ""
    path.write_text('{"knn_pixels": 0.5}')
    assert measured().baseline is None
    assert "lacks figures" in capsys.readouterr().out
    assert path.with_name(path.name + ".damaged-1").exists()
    path.write_text('{"format": 99}')
    assert measured().baseline is None
    assert "later version" in capsys.readouterr().out
    assert path.exists()


def _row_with_probe(measure):
    """An epoch's row of a probe whose class 0, "b", is of dark images."""
    labels = online_probe.Labels(np.array([0, 1, -1]), 2)
    probe = online_probe.OnlineProbe(2, labels, rate=1.0)
    probe.kernel.assign([[0.0, 5.0], [5.0, 0.0]])  # backbone rows (x, 1 - x)
    method = types.SimpleNamespace(query_encoder=fakes.Encoder(), probe=probe)
    measure.config = _config()
    measure.config.data.source = "train"
    measure.config.knn.every_epochs = 1
    measure.config.train = {"epochs": 5}
    row = {"step": 1}
    measure.on_epoch(method, row)
    return row


def test_a_probe_is_measured_on_the_queries_by_the_names_of_classes(make):
    probed = fakes.Source([0, 255, 0], [0, 1, -1], class_names=["b", "w"])
    # Dark, bright, bright and dark; the third is not, and the last not read.
    query = fakes.Source(
        *([0, 255, 255, 0, 0], [1, 0, 1, 1, 0], [4]), class_names=["w", "b"]
    )
    measure = make(query, probed=probed)
    assert _row_with_probe(measure)["probe_top1"] == 3 / 4
    assert "probe" not in measure.describe()


def test_a_probe_of_other_classes_is_not_measured_and_it_is_said(make):
    probed = fakes.Source([0, 255], [0, 1], class_names=["b", "w"])
    query = fakes.Source([0, 255, 0], [0, 1, 0], class_names=["b", "grey"])
    measure = make(query, probed=probed)
    assert "probe_top1" not in _row_with_probe(measure)
    said = measure.describe()
    assert "  probe    not measured on knn.query: " in said
    assert "missing in the training source: grey" in said


def test_a_run_says_whether_and_on_what_knn_votes(make):
    assert "off: name labelled images" in monitor.describe(None)
    config = _config(bank="")
    config.knn.sample = 2
    measure = monitor.of_run(config, 1, fakes.Source(range(5)))
    assert "2 training images are looked at" in monitor.describe(measure)
    measure = make(fakes.Source([0, 255], [0, 1]))
    measure.config.data.source = "folder:mine"
    assert "embedded shapes" not in monitor.describe(measure)
    measure.config.knn.bank = "shapes:train"
    # The same two images twice, of which the monitor warns too.
    assert "kNN votes on the embedded shapes" in monitor.describe(measure)


def test_without_labels_the_start_is_compared_image_by_image(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, 12)
    config = _config(bank="")
    config.knn.update({"sample": 10, "every_epochs": 1})
    config.train = {"epochs": 5}
    rows = []
    for _ in range(2):  # the second session takes up what the first measured
        measure = monitor.of_run(config, 1, fakes.Source(values, broken=[3]))
        if not rows:
            measure.measure_baseline(fakes.Encoder(), tmp_path)
        else:
            measure.recall_baseline(tmp_path)
        rows.append({"step": 1})
        method = types.SimpleNamespace(query_encoder=fakes.Encoder())
        measure.on_epoch(method, rows[-1])
    assert rows[0] == rows[1]
    row = rows[0]
    assert row["neighbour_stability"] == row["start_neighbour_stability"]
    assert row["start_alignment"] == row["alignment"]
    assert row["stability_error"] == 0
    assert "knn_backbone" not in row


@pytest.mark.parametrize("layer", ["backbone", "projection"])
def test_queries_are_counted_that_the_start_classed_otherwise(layer):
    right = np.array([True, True, False, True])
    index = np.array([0, 1, 2, 4])
    marks = baseline.letters(right, index, 5)
    assert marks == "110-1"
    start = baseline.Baseline({}, {layer: marks})
    # Now the fourth is read and the last is not; one is lost and one gained.
    now = {layer: np.array([True, False, True, True])}
    counts = start.compare(now, np.array([0, 1, 2, 3]))
    assert counts == {
        f"gained_{layer}": 1,
        f"lost_{layer}": 1,
        "knn_queries": 3,
    }
    assert baseline.Baseline({}).compare(now, index) == {}
    assert start.compare({layer: right[:1]}, np.array([3])) == {}
