import json

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as config_lib
from moco_tf import workdirs
from moco_tf.evaluation import features, frozen, knn
from moco_tf.training import checkpoints
from tests.evaluation import fakes


def _sources():
    # Backbone (x, 1 - x): the cosine tells dark (0) from bright (1) images.
    bank = fakes.Source([0, 20, 40, 200, 230, 255], [0, 0, 0, 1, 1, 1])
    query = fakes.Source([10, 30, 250, 240], [0, 0, 1, 0])
    return bank, query


def _compare(bank, query, k):
    """kNN of the fake encoder's features of two sources."""
    truth, classes = features.common_labels(bank, query)
    encoder = fakes.Encoder()
    bank, query = (
        features.extract_in_memory(encoder, source, fakes.RECIPE, 4, 3)
        for source in (bank, query)
    )
    return knn.compare(bank, query, truth[query.index], classes, k, 0.1)


def test_compare_measures_both_outputs():
    assert _compare(*_sources(), 3) == {"backbone": 0.75, "projection": 0.75}


def test_compare_leaves_unreadable_images_out_on_both_sides():
    bank = fakes.Source(
        [0, 20, 40, 200, 230, 255], [0, 0, 0, 1, 1, 1], broken=[0, 5]
    )
    # The wrong one of four queries does not read, so all others are right.
    query = fakes.Source([10, 30, 250, 240], [0, 0, 1, 0], broken=[3])
    assert _compare(bank, query, 2)["backbone"] == 1.0


def test_pixels_are_compared_at_32_at_most():
    sizes = []

    def evaluate(image, size):
        sizes.append(size)
        return tf.image.resize(image, [size, size], "nearest")

    recipe = fakes.RECIPE._replace(evaluate=evaluate, mean=(0.5,) * 3)
    bank, query = _sources()
    assert knn.compare_pixels(bank, query, recipe, 224, 3, 0.1) == 0.75
    assert knn.compare_pixels(bank, query, recipe, 8, 3, 0.1) == 0.75
    assert set(sizes) == {32, 8}


def test_check_refuses_before_anything_runs():
    bank, query = _sources()
    knn.check(bank, query, 6)
    with pytest.raises(ValueError, match="k=7, a bank of 6"):
        knn.check(bank, query, 7)
    with pytest.raises(ValueError, match="The bank has none"):
        knn.check(fakes.Source([1]), query, 1)
    with pytest.raises(ValueError, match="Received an empty set"):
        knn.check(bank, fakes.Source([], []), 1)


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    """A workdir with two checkpoints and two tiny labelled folders."""
    root = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for part, count in (("bank", 6), ("query", 3)):
        for name, level in (("dark", 60), ("light", 190)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(level - 50, level + 50, [9, 9, 3])
                data = tf.io.encode_png(image.astype(np.uint8)).numpy()
                (folder / f"{number}.png").write_bytes(data)
    (root / "query" / "dark" / "9.png").write_bytes(b"not an image")
    config = config_lib.load(
        "quickstart",
        {
            "data.image_size": "16",
            "model.width": "0.0625",
            "model.dim": "8",
            "model.stem": "cifar",
            "knn.bank": f"folder:{root / 'bank'}",
            "knn.query": f"folder:{root / 'query'}",
            "knn.batch_size": "4",
        },
    )
    workdir = root / "workdir"
    workdirs.save(config, workdir)
    encoder = frozen.build_encoder(config)
    for step, factor in ((5, 1.0), (10, 2.0)):
        for weight in encoder.head.trainable_variables:
            weight.assign(factor * weight)
        path = workdir / "checkpoints" / f"step-{step:09d}"
        model = tf.train.Checkpoint(
            query_encoder=encoder, other=tf.Variable(1.0)
        )
        tf.train.Checkpoint(model=model).write(str(path / "state"))
        (path / "meta.json").write_text(json.dumps({"step": step}))
    return workdir


def test_the_latest_checkpoint_is_found_by_default(run):
    paths = {
        name: frozen.find_checkpoint(run, name).name
        for name in (
            "latest",
            "10",
            "5",
            run / "checkpoints" / "step-000000005",
        )
    }
    assert list(paths.values()) == [
        "step-000000010",
        "step-000000010",
        "step-000000005",
        "step-000000005",
    ]


@pytest.mark.parametrize("name", ["best", "7", "nowhere/step-1"])
def test_a_missing_checkpoint_is_refused_with_those_there_are(run, name):
    with pytest.raises(ValueError, match=f"'{name}'; steps in .*: 5, 10"):
        frozen.find_checkpoint(run, name)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="config.json of a pre-training run"):
        frozen.open_frozen(tmp_path)


def test_untrained_weights_are_a_function_of_the_seed(run):
    config = frozen.load_config(run)
    first, second = (frozen.build_encoder(config) for _ in range(2))
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_command_prints_what_it_measured(run, capsys, tmp_path):
    result = knn.evaluate(
        frozen.open_frozen(run),
        tmp_path,
        ks=[1, 5],
        temperatures=[0.1, 1.0],
        baselines=True,
    )
    names = [
        "raw pixels 16x16",
        "untrained backbone",
        "untrained projection",
        "backbone",
        "projection",
    ]
    assert list(result) == [
        (name, k, t) for name in names for k in (1, 5) for t in (0.1, 1.0)
    ]
    assert result["raw pixels 16x16", 1, 0.1] == 1.0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("checkpoints/step-000000010")
    assert lines[2].endswith(
        "bank: 12 images, 2 classes, 0 unreadable left out"
    )
    assert lines[3].endswith(
        "query: 6 images, 2 classes, 1 unreadable left out"
    )
    assert lines[5].split() == (
        ["features", "dim", "mean", "norm", "k", "T", "0.1", "T", "1"]
    )
    table = [line.split() for line in lines[6:16]]
    assert lines[17] == "without labels, of the query images:"
    assert [line.split("  ")[0] for line in lines[18:]] == names
    assert table[0][:4] == ["raw", "pixels", "16x16", "768"]
    assert table[0][5:] == ["1", "100.00", "%", "100.00", "%"]
    assert [row[1] for row in table[6:]] == ["32", "32", "8", "8"]
    assert len({len(line) for line in lines[5:16]}) == 1  # aligned


def test_weights_come_from_the_checkpoint_asked_for(run):
    # The later checkpoint's head is twice the earlier one's.
    first, second = (
        frozen.open_frozen(run, step).encoder.head.get_weights()[0]
        for step in ("5", "10")
    )
    assert np.abs(first).max() > 0
    np.testing.assert_array_equal(second, 2 * first)


def test_the_second_evaluation_reads_the_stored_features(run, tmp_path):
    encoder = frozen.open_frozen(run)
    result = knn.evaluate(encoder, tmp_path, ks=[1])
    again = knn.evaluate(encoder._replace(encode=None), tmp_path, ks=[1])
    assert again == result


def test_a_model_of_another_program_has_no_projection(run, tmp_path, capsys):
    encoder = frozen.open_frozen(run)._replace(layers=("backbone",))
    assert list(knn.evaluate(encoder, tmp_path, ks=[3])) == [
        ("backbone", 3, 0.1)
    ]
    assert "projection" not in capsys.readouterr().out


def test_unknown_features_and_missing_sources_are_refused(run, tmp_path):
    encoder = frozen.open_frozen(run)
    with pytest.raises(ValueError, match="features='head'"):
        knn.evaluate(encoder, tmp_path, features="head")
    with pytest.raises(ValueError, match="k=99, a bank of 12"):
        knn.evaluate(encoder, tmp_path, ks=[1, 99])
    with pytest.raises(ValueError, match="needs a bank .* --bank=SOURCE"):
        knn.evaluate(encoder._replace(config=None), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_encoder_of_another_shape_is_refused(run, tmp_path):
    config = config_lib.load(
        "quickstart",
        {
            "knn.bank": frozen.load_config(run).knn.bank,
            "knn.query": frozen.load_config(run).knn.query,
        },
    )
    workdirs.save(config, tmp_path)
    with pytest.raises(ValueError, match="does not hold such an encoder"):
        frozen.open_frozen(tmp_path, str(checkpoints.latest(run)))
