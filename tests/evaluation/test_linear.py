import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import workdirs
from moco_tf.data import unreadable
from moco_tf.evaluation import frozen, linear
from moco_tf.monitoring import printed
from moco_tf.training import callbacks
from tests import shallow
from tests.evaluation import small_encoder

_network = shallow.fixture()
WAYS = ("cached", "published")
STRATEGY = tf.distribute.get_strategy()
FIELDS = {
    "train.batch_size": "8",
    "train.epochs": "4",
    "schedule.milestones": "2,3",
    "optimizer.learning_rate": "0.3",
    "probe.rates": "0.001,0.3",
    "probe.holdout": "0.2",
}


@pytest.fixture(name="encoder", scope="module")
def _encoder(tmp_path_factory):
    workdir = small_encoder.write(tmp_path_factory.mktemp("run"))
    return frozen.open_frozen(workdir)


def _config(**fields):
    values = {name.replace("__", "."): str(v) for name, v in fields.items()}
    return configs.load("linear", FIELDS | values, "linear")


def _run(encoder, output, **fields):
    return linear.run(_config(**fields), encoder, output, STRATEGY)


@pytest.fixture(name="finished", scope="module")
def _finished(encoder, tmp_path_factory):
    """Way -> folder and result of a probe, the weights before and after it."""
    finished = {}
    for way in WAYS:
        folder = tmp_path_factory.mktemp(way)
        before = [weight.numpy() for weight in encoder.weights]
        result = _run(encoder, folder, probe__way=way)
        after = [weight.numpy() for weight in encoder.weights]
        finished[way] = folder, result, before, after
    return finished


@pytest.mark.parametrize("way", WAYS)
def test_either_way_separates_what_can_be_separated(encoder, tmp_path, way):
    result = _run(
        encoder,
        tmp_path,
        probe__way=way,
        train__epochs=30,
        schedule__milestones="20",
    )
    assert result["top1"] == 1.0
    assert result["images"] == 10
    assert result["unreadable_test_images"] == 1
    assert result["feature_size"] == 8
    assert json.loads((tmp_path / "result.json").read_text()) == result


@pytest.mark.parametrize("way", WAYS)
def test_not_one_bit_of_the_encoder_moves(finished, way):
    _, result, before, after = finished[way]
    for old, weight in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, weight)
    assert result["encoder_weights"] == sum(map(np.size, before))


def test_an_encoder_that_moved_is_an_error(encoder, tmp_path, monkeypatch):
    train = linear.train_cached

    def moving(*arguments):
        weight = encoder.weights[0]
        weight.assign(weight + 1e-3)
        return train(*arguments)

    monkeypatch.setattr(linear, "train_cached", moving)
    saved = encoder.weights[0].numpy()
    try:
        with pytest.raises(FloatingPointError, match="weights have changed"):
            _run(encoder, tmp_path)
    finally:
        encoder.weights[0].assign(saved)
    assert not (tmp_path / "result.json").exists()


def test_the_rate_is_chosen_by_held_out_images(encoder, tmp_path, capsys):
    result = _run(encoder, tmp_path, probe__rates="1e-12,0.3")
    assert result["rate"] == 0.3
    assert result["held_out"]["0.3"] > result["held_out"]["1e-12"]
    out = capsys.readouterr().out
    assert "backbone features of 8, mean norm" in out
    assert "rate 0.3" in out
    assert "have not changed by one bit" in out


def test_the_published_start_and_the_cached_one_are_the_same(encoder, tmp_path):
    """No step at rate 1e-30 moves a float32 weight of 0.01."""
    fields = {"optimizer__learning_rate": "1e-30", "probe__rates": "1e-30"}
    for way in WAYS:
        _run(encoder, tmp_path / way, probe__way=way, **fields)
    cached, published = (np.load(tmp_path / way / "linear.npz") for way in WAYS)
    np.testing.assert_array_equal(cached["kernel"], published["kernel"])
    assert cached["classes"].tolist() == ["dark", "light"]


def test_both_ways_are_one_optimisation_of_images_that_crops_do_not_change(
    encoder, tmp_path
):
    """All images in each batch, so the order does not matter either."""
    for part in ("train", "test"):
        for number, level in enumerate((20, 90, 130, 160, 200, 250)):
            folder = tmp_path / part / ("dark" if level < 150 else "light")
            folder.mkdir(parents=True, exist_ok=True)
            image = tf.fill([9, 9, 3], tf.constant(level, tf.uint8))
            data = tf.io.encode_png(image).numpy()
            (folder / f"{number}.png").write_bytes(data)
    fields = {
        "data__train": f"folder:{tmp_path / 'train'}",
        "data__test": f"folder:{tmp_path / 'test'}",
        "train__batch_size": 6,
        "train__epochs": 8,
        "schedule__milestones": "6",
        "probe__rates": "0.3",
        "optimizer__learning_rate": "0.3",
    }
    kernels = []
    for way in WAYS:
        _run(encoder, tmp_path / way, probe__way=way, **fields)
        kernels.append(np.load(tmp_path / way / "linear.npz")["kernel"])
    np.testing.assert_allclose(*kernels, rtol=1e-4, atol=1e-6)


def test_the_head_that_is_saved_gives_the_figure(encoder, tmp_path):
    result = _run(encoder, tmp_path, probe__features="projection")
    head = np.load(tmp_path / "linear.npz")
    (stored,) = (
        path
        for path in (tmp_path / "features").iterdir()
        if len(np.load(path / "index.npy")) == 11
    )
    rows = np.load(stored / "projection.npy")[:10]
    best = (rows @ head["kernel"] + head["bias"]).argmax(axis=1)
    labels = [0] * 6 + [1] * 4
    assert (best == labels).mean() == result["top1"]


def test_crops_are_cached_once_and_learned_from(encoder, tmp_path):
    result = _run(encoder, tmp_path, probe__views=2)
    assert result["train_views"] == 2
    assert result["top1"] == 1.0
    folders = [path.name for path in (tmp_path / "features").iterdir()]
    assert sum("-crop" in name for name in folders) == 2


def test_a_killed_probe_goes_on_to_the_same_bits(
    encoder, finished, tmp_path, monkeypatch
):
    whole = finished["published"][0]
    finish = callbacks.RunCallback.finish_epoch

    def killed(callback):
        finish(callback)
        if callback.step == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.RunCallback, "finish_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            _run(encoder, tmp_path / "killed", probe__way="published")
    _run(encoder, tmp_path / "killed", probe__way="published")
    folders = (tmp_path / "killed", whole)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(
            *[np.load(folder / "linear.npz")[name] for folder in folders]
        )
    rows = [
        [
            (row["step"], row["loss"])
            for row in csv.DictReader((folder / "metrics.csv").open())
        ]
        for folder in folders
    ]
    assert rows[0] == rows[1]


def test_images_that_go_away_end_a_probe_in_words(
    encoder, tmp_path, monkeypatch
):
    def fit(*args, **keywords):
        monkeypatch.setattr(unreadable, "read", lambda *_: (None, "is gone."))
        raise tf.errors.NotFoundError(None, None, "{{node ReadFile}}")

    monkeypatch.setattr(tf.keras.Model, "fit", fit)
    with pytest.raises(ValueError, match="none readable.*is gone"):
        _run(encoder, tmp_path, probe__way="published")


def test_a_finished_probe_says_so(encoder, finished, capsys, monkeypatch):
    folder, result, *_ = finished["cached"]
    monkeypatch.setattr(linear, "train_cached", None)  # would be called
    with printed.copied():
        assert _run(encoder, folder) == result
    said = capsys.readouterr().out
    assert "This probe is finished" in said
    assert (folder / "log.txt").read_text().endswith(said)


def test_a_folder_that_another_process_writes_to_is_refused(encoder, tmp_path):
    with workdirs.hold(tmp_path):
        with pytest.raises(ValueError, match="Only one process at a time"):
            _run(encoder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_another_encoder_in_the_same_folder_is_refused(encoder, finished):
    with pytest.raises(ValueError, match="another encoder: .* then, 'bbbb"):
        _run(encoder._replace(identity="b" * 64), finished["cached"][0])


def test_a_refused_start_is_in_the_log_of_the_task(encoder, finished, tmp_path):
    folder = shutil.copytree(finished["cached"][0], tmp_path / "linear")
    for other in (folder, tmp_path / "new"):
        with pytest.raises(ValueError, match="missing"), printed.copied():
            _run(encoder, other, data__train="folder:/gone")
    assert "missing" in (folder / "log.txt").read_text()
    assert not (tmp_path / "new").exists()


def test_another_configuration_in_the_same_folder_is_refused(encoder, finished):
    with pytest.raises(ValueError, match="probe.holdout: 0.2 -> 0.3"):
        _run(encoder, finished["cached"][0], probe__holdout=0.3)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"train__batch_size": 41}, "Received 41, 40 images and 1 replicas"),
        ({"train__epochs": 2}, "milestones must rise and lie below"),
        ({"data__train": "folder:nowhere"}, "must name a folder"),
    ],
)
def test_what_cannot_be_measured_is_refused(encoder, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        _run(encoder, tmp_path / "output", **fields)
    assert not (tmp_path / "output").exists()


def test_one_image_a_class_leaves_no_rate_to_choose(encoder, tmp_path):
    spec = small_encoder.write_images(tmp_path, "one", (1, 1))
    fields = {"data__train": spec, "train__batch_size": 2}
    with pytest.raises(ValueError, match="2 images, of which none can be held"):
        _run(encoder, tmp_path / "many", **fields)
    result = _run(encoder, tmp_path / "single", probe__rates="0.3", **fields)
    assert (result["rate"], result["held_out"]) == (0.3, {})
    json.loads(
        (tmp_path / "single" / "result.json").read_text(),
        parse_constant=pytest.fail,
    )


def test_features_that_the_encoder_lacks_are_refused(encoder, tmp_path):
    with pytest.raises(ValueError, match="has the features backbone. Received"):
        _run(
            encoder._replace(layers=("backbone",)),
            tmp_path,
            probe__features="projection",
        )
