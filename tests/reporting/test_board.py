"""TensorBoard beside scalars, read as TensorBoard reads it."""

import io
import types

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard import context as tb_context
from tensorboard.backend.event_processing import (
    data_provider,
    plugin_event_accumulator,
    plugin_event_multiplexer,
)
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import (
    backend_context,
    plugin_data_pb2,
    summary_v2,
)
from tensorboard.plugins.projector import projector_config_pb2

from moco_tf import config as configs
from moco_tf import paths, plan
from moco_tf.data import sources
from moco_tf.evaluation import monitor
from moco_tf.methods import table
from moco_tf.monitoring import tensorboard
from moco_tf.reporting import board
from tests import small_run


@pytest.fixture
def config(tmp_path):
    images = small_run.write_images(tmp_path / "images", count=12)
    return small_run.make_config(images, evaluated=True)


@pytest.fixture
def opened(config, tmp_path):
    """A board on a new folder, its monitor and its events."""
    source = sources.open_source(config.data.source)
    batches = plan.make_stream(config, source)
    events = tensorboard.EventWriter(tmp_path / "board")
    knn = monitor.KnnMonitor(config)
    opened = board.Board(config, events, tmp_path / "board", batches, knn, 6)
    return types.SimpleNamespace(
        board=opened, monitor=knn, events=events, folder=tmp_path / "board"
    )


def _read(folder):
    reader = plugin_event_accumulator.EventAccumulator(str(folder))
    reader.Reload()
    return reader


def _pictures(folder, tag):
    """Steps and pictures of a tag, uint8 [H, W, 3]."""
    for event in _read(folder).Tensors(tag):
        data = tf.make_ndarray(event.tensor_proto)[2]
        yield event.step, np.asarray(Image.open(io.BytesIO(data)))


def test_the_views_of_the_next_batch_are_shown_as_pairs(opened):
    opened.board.on_start(None, 3)
    tag = "9 pictures/image, query, key"
    ((step, picture),) = _pictures(opened.folder, tag)
    assert step == 3
    assert picture.shape == (8 * 100 + 4, 3 * 100 + 4, 3)


def test_the_fields_are_hyperparameters(opened, config):
    opened.board.on_start(None, 0)
    opened.board.on_end(None, 6)
    reader = _read(opened.folder)
    data = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(content)
        for tag, content in reader.PluginTagToContent("hparams").items()
    }
    start = data["_hparams_/session_start_info"].session_start_info
    assert start.hparams["moco.queue_size"].number_value == 37
    assert start.hparams["data.source"].string_value == config.data.source
    assert start.hparams["schedule.milestones"].string_value == "120, 160"
    # The name of the run's folder, and which of that name.
    assert start.group_name.startswith(f"{opened.folder.parent.name} (")
    end = data["_hparams_/session_end_info"].session_end_info
    assert end.status == board.Status.Value("STATUS_SUCCESS")


def _encoded(rows, index):
    return types.SimpleNamespace(
        backbone=np.array(rows, np.float32),
        index=np.array(index),
        labels=np.array(index) // 6,  # six bright, then six dark
    )


def test_neighbours_are_the_nearest_by_cosine(opened, tmp_path):
    """Row 0: the query image itself, then the bank's order by angle."""
    query = _encoded([[1, 0]], [4])
    # The longest is not the nearest.
    bank = _encoded([[9, 9], [1, 0.1], [0, 1]], [1, 4, 2])
    opened.monitor.take = lambda: (bank, query)
    opened.board.draw(6)
    tag = "9 pictures/query, nearest"
    ((step, picture),) = _pictures(opened.folder, tag)
    assert step == 6
    images = [
        Image.open(tmp_path / "images" / opened.monitor.bank.name(index))
        for index in (4, 4, 1, 2)
    ]
    for column, image in enumerate(images):
        left = 4 + 100 * column
        tile = picture[4:100, left : left + 96]
        # JPEG, and another way of resizing.
        assert abs(tile.mean() - np.asarray(image).mean()) < 6


def test_the_projector_has_points_pictures_and_classes(opened):
    index = np.arange(12)
    rows = np.random.default_rng(0).standard_normal([12, 5])
    opened.monitor.take = lambda: (_encoded(rows, index),) * 2
    opened.board.draw(6)
    text = (opened.folder / "projector_config.pbtxt").read_text()
    config = text_format.Parse(text, projector_config_pb2.ProjectorConfig())
    (embedding,) = config.embeddings
    assert list(embedding.tensor_shape) == [12, 5]
    points = np.fromfile(opened.folder / embedding.tensor_path, np.float32)
    np.testing.assert_array_equal(points, np.float32(rows).ravel())
    lines = (opened.folder / embedding.metadata_path).read_text().splitlines()
    assert lines[0] == "name\tclass" and len(lines) == 13
    assert lines[1].endswith("\tbright") and lines[7].endswith("\tdark")
    sprite = Image.open(opened.folder / embedding.sprite.image_path)
    assert list(embedding.sprite.single_image_dim) == [32, 32]
    assert sprite.size == (128, 128)  # 4 x 4 tiles for 12
    bright = np.asarray(sprite)[:32, :32].mean()
    assert bright > 120 > np.asarray(sprite)[32:64, 64:96].mean()


def test_without_knn_there_is_no_picture_of_an_epoch(opened, config):
    blind = board.Board(
        config, opened.events, opened.folder, opened.board._batches, None, 6
    )
    blind.draw(6)
    assert not (opened.folder / "projector").exists()


def test_images_that_have_gone_cost_a_picture_and_no_run(opened, tmp_path):
    rows = np.eye(12)
    opened.monitor.take = lambda: (_encoded(rows, np.arange(12)),) * 2
    for path in (tmp_path / "images").rglob("*.png"):
        path.unlink()
    opened.board.on_start(None, 0)
    opened.board.draw(6)
    tags = _read(opened.folder).Tags()["tensors"]
    assert "9 pictures/image, query, key" not in tags


def test_histograms_keep_their_fractions(opened):
    fractions = np.zeros([2, 40], np.float32)
    fractions[0, 38], fractions[1, 18:22] = 1.0, 0.25
    opened.board.histograms(5, fractions)
    opened.events.close()
    reader = _read(opened.folder)
    for tag, low, high in (
        ("4 keys/similarities of own keys", 0.9, 0.95),
        ("4 keys/similarities of queued keys", -0.1, 0.1),
    ):
        (event,) = reader.Tensors(tag)
        buckets = tf.make_ndarray(event.tensor_proto)
        filled = buckets[buckets[:, 2] > 0]
        np.testing.assert_allclose(filled[:, 2].sum(), 1.0, rtol=1e-5)
        np.testing.assert_allclose(filled[0, 0], low, atol=1e-6)
        np.testing.assert_allclose(filled[-1, 1], high, atol=1e-6)


def _experiment(folder):
    """The table of hyperparameters, as TensorBoard's own code makes it."""
    runs = plugin_event_multiplexer.EventMultiplexer()
    runs.AddRunsFromDirectory(str(folder)).Reload()
    provider = data_provider.MultiplexerDataProvider(runs, str(folder))
    hparams = backend_context.Context(
        base_plugin.TBContext(data_provider=provider, logdir=str(folder))
    )
    request = tb_context.RequestContext()
    metadata = hparams.hparams_metadata(request, "")
    return hparams.experiment_from_metadata(request, "", True, metadata, [])


def test_the_table_of_runs_begins_with_what_differs(tmp_path):
    """Of any two methods, under the names of their runs."""
    for method in ("moco", "simclr"):
        config = configs.load(table.METHODS[method].configs[0])
        events = tensorboard.EventWriter(tmp_path / method / "tensorboard")
        for name in ("loss", "epoch_loss", "knn_backbone", "input_wait_share"):
            events.write({"step": 1, name: 0.5})
        folder = tmp_path / method
        values = board.hyperparameters(config)
        events.summary(summary_v2.hparams_pb(values, board.trial(folder)))
        events.close()
    experiment = _experiment(tmp_path)
    fields = experiment.hparam_infos
    differs = [field.differs for field in fields]
    assert differs == sorted(differs, reverse=True) and differs[0]
    names = [field.name for field in fields]
    assert {"method", "moco.momentum", "simclr.temperature"} <= set(names)
    assert names.index("method") < names.index("model.backbone")
    assert [x.name.tag for x in experiment.metric_infos] == [
        "1 loss/contrastive",
        "1 loss/epoch",
        "2 kNN/backbone",
        "7 speed/share of waiting for images",
    ]


def test_runs_of_one_name_are_two_rows(tmp_path):
    assert board.trial(tmp_path / "a") != board.trial(tmp_path / "b" / "a")
    assert board.trial(tmp_path / "a") == board.trial(tmp_path / "a")


def test_hyperparameters_are_numbers_and_texts(config):
    values = board.hyperparameters(config)
    assert values["seed"] == config.seed
    assert values["moco.symmetric"] is False
    assert set(map(type, values.values())) <= {int, float, bool, str}


@pytest.mark.parametrize("name", ["two\nlines", "\udcff", "a[b]", "é"])
def test_a_source_of_any_name_is_a_hyperparameter(name, config):
    config.data.source = f"folder:/{name}"
    values = board.hyperparameters(config)
    assert values["data.source"] == paths.shown(f"folder:/{name}")
    summary_v2.hparams_pb(values)


def test_pictures_of_epochs_take_a_two_hundredth_of_the_time(
    opened, config, monkeypatch
):
    now = [0.0]
    cheap = board.Board(
        config, None, opened.folder, None, opened.monitor, 8, lambda: now[0]
    )
    opened.monitor.take = lambda: (None, None)
    drawn = []

    def draw(step, *features):
        drawn.append(step)
        now[0] += 0.5

    monkeypatch.setattr(cheap, "_neighbours", draw)
    monkeypatch.setattr(cheap, "_project", lambda query: None)
    for epoch in range(1, 9):  # of 20 seconds
        now[0] = 20.0 * epoch
        cheap.draw(epoch)
    # Half a second is that of 100 seconds, a second of 200.
    assert drawn == [1, 5, 8]
