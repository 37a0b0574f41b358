import errno
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import (
    event_accumulator,
    event_file_loader,
    plugin_event_accumulator,
)

from moco_tf.monitoring import tensorboard
from tests import small_disk


def _read(folder):
    """Steps and values by tag, as TensorBoard shows them."""
    reader = plugin_event_accumulator.EventAccumulator(str(folder))
    reader.Reload()
    return {
        tag: [
            (event.step, float(tf.make_ndarray(event.tensor_proto)))
            for event in reader.Tensors(tag)
        ]
        for tag in reader.Tags()["tensors"]
    }


def _write(folder, steps, resumed_step=0, offset=0.0):
    writer = tensorboard.EventWriter(folder, resumed_step)
    for step in steps:
        writer.write({"step": step, "loss": step + offset})
    writer.close()


def test_figures_stand_under_their_groups(tmp_path):
    writer = tensorboard.EventWriter(tmp_path, chance=8.5)
    writer.write(
        {
            "step": 50,
            "epoch": 1,
            "steps": 50,
            "loss": 6.5,
            "instance_top1": 0.25,
            "learning_rate": 0.5,
            "images_per_second": 80,
            "input_wait_share": np.float32(0.125),
            "knn_backbone": None,
            "health/entropy": 2.0,
        }
    )
    writer.close()
    assert _read(tmp_path) == {
        "1 loss/contrastive": [(50, 6.5)],
        "1 loss/chance": [(50, 8.5)],
        "4 keys/instance accuracy": [(50, 0.25)],
        "8 optimizer/learning_rate": [(50, 0.5)],
        "7 speed/images per second": [(50, 80.0)],
        "7 speed/share of waiting for images": [(50, 0.125)],
        "health/entropy": [(50, 2.0)],
    }


def test_knn_without_loss_brings_no_chance(tmp_path):
    writer = tensorboard.EventWriter(tmp_path, chance=8.5)
    writer.write({"step": 9, "knn_backbone": 0.5, "knn_projection": 0.25})
    writer.close()
    assert _read(tmp_path) == {
        "2 kNN/backbone": [(9, 0.5)],
        "2 kNN/projection": [(9, 0.25)],
    }


def test_the_figures_of_the_representation_are_a_group(tmp_path):
    writer = tensorboard.EventWriter(tmp_path)
    writer.write({"step": 9, "alignment": 0.25, "effective_rank": 7.5})
    writer.write({"step": 18, "uniformity": -2.5, "feature_norm": 4.0})
    writer.close()
    assert _read(tmp_path) == {
        "6 representation/alignment": [(9, 0.25)],
        "6 representation/effective_rank": [(9, 7.5)],
        "6 representation/uniformity": [(18, -2.5)],
        "6 representation/feature_norm": [(18, 4.0)],
    }


def test_the_figures_of_a_probe_are_a_group(tmp_path):
    writer = tensorboard.EventWriter(tmp_path)
    writer.write({"step": 9, "probe_loss": 2.5, "probe_train_top1": None})
    writer.write({"step": 9, "probe_top1": 0.5})
    writer.close()
    assert _read(tmp_path) == {
        "3 probe/loss": [(9, 2.5)],
        "3 probe/top-1 of knn.query": [(9, 0.5)],
    }


def test_tensorboard_recognises_the_points_as_scalars(tmp_path):
    _write(tmp_path, [1])
    reader = plugin_event_accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    metadata = reader.SummaryMetadata("1 loss/contrastive")
    assert metadata.plugin_data.plugin_name == "scalars"


def test_points_are_on_disk_before_the_writer_closes(tmp_path):
    writer = tensorboard.EventWriter(tmp_path)
    writer.write({"step": 50, "loss": 6.5})
    assert _read(tmp_path) == {"1 loss/contrastive": [(50, 6.5)]}
    writer.close()


def test_nothing_after_the_checkpoint_shows_twice(tmp_path):
    _write(tmp_path, [50, 97, 100, 150])
    # Killed at 160, resumed from the checkpoint of step 97, on another grid.
    _write(tmp_path, [120, 170], resumed_step=97, offset=0.5)
    assert _read(tmp_path) == {
        "1 loss/contrastive": [
            (50, 50.0),
            (97, 97.0),
            (120, 120.5),
            (170, 170.5),
        ]
    }


def test_a_reader_that_has_seen_the_old_points_forgets_them(tmp_path):
    _write(tmp_path, [50, 97, 100])
    reader = event_accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    _write(tmp_path, [120], resumed_step=97)
    reader.Reload()
    steps = [event.step for event in reader.Scalars("1 loss/contrastive")]
    assert steps == [50, 97, 120]


def test_the_old_points_leave_the_files(tmp_path):
    # TensorBoard's default reader does not look at session starts.
    _write(tmp_path, [50, 97, 100])
    tensorboard.EventWriter(tmp_path, resumed_step=97).close()
    steps = [
        event.step
        for path in sorted(tmp_path.iterdir())
        for event in event_file_loader.EventFileLoader(str(path)).Load()
        if event.HasField("summary")
    ]
    assert steps == [50, 97]


def test_a_file_torn_by_a_kill_keeps_its_complete_points(tmp_path):
    _write(tmp_path, [50, 97, 100])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    _write(tmp_path, [120], resumed_step=50)
    assert _read(tmp_path) == {"1 loss/contrastive": [(50, 50.0), (120, 120.0)]}


def test_a_run_killed_before_its_first_checkpoint_starts_a_new_chart(tmp_path):
    _write(tmp_path, [0, 5, 10])
    _write(tmp_path, [0, 5], offset=0.5)
    assert _read(tmp_path) == {"1 loss/contrastive": [(0, 0.5), (5, 5.5)]}


def test_a_restart_within_a_second_sorts_after_the_earlier_file(tmp_path):
    start = int(time.time())
    (tmp_path / f"events.out.tfevents.{start:010d}.zz.9").touch()
    _write(tmp_path, [1])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0].endswith(".zz.9")
    assert len(names) == 2


def test_an_unknown_figure_is_refused(tmp_path):
    writer = tensorboard.EventWriter(tmp_path)
    with pytest.raises(ValueError, match="Received 'accuracy'"):
        writer.write({"step": 1, "accuracy": 0.5})
    writer.close()


def test_a_graph_is_written_for_its_tab(tmp_path):
    @tf.function
    def step(x):
        return tf.linalg.matmul(x, x, name="the_product")

    writer = tensorboard.EventWriter(tmp_path)
    writer.graph(step.get_concrete_function(tf.ones([2, 2])).graph)
    writer.close()
    reader = event_accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    assert "the_product" in [node.name for node in reader.Graph().node]


def test_a_full_disk_is_an_error_of_its_kind(tmp_path):
    with small_disk.mounted(tmp_path, "size=100k"):
        writer = tensorboard.EventWriter(tmp_path / "run")
        small_disk.fill(tmp_path)
        with pytest.raises(OSError) as caught:
            for step in range(1000):
                writer.write({"step": step, "loss": 1.0})
    assert caught.value.errno == errno.ENOSPC


def _drive(traced, steps):
    """Runs a compiled step after another, as `fit` does."""

    @tf.function
    def step(x):
        return tf.linalg.matmul(x, x, name="the_product")

    x = tf.ones([4, 4])
    for number in range(1, steps + 1):
        traced.before_step(number)
        x = step(x)
        traced.on_step(None, number)
    traced.on_end(None, steps)


def _traces(folder):
    return list(folder.glob("plugins/profile/*/*.xplane.pb"))


def test_the_steps_are_traced_once(tmp_path):
    _drive(tensorboard.Profile(tmp_path, 3, 4), steps=6)
    (trace,) = _traces(tmp_path)
    assert b"the_product" in trace.read_bytes()


def test_a_run_that_ends_sooner_writes_what_there_is(tmp_path):
    _drive(tensorboard.Profile(tmp_path, 2, 100), steps=3)
    assert len(_traces(tmp_path)) == 1


def test_steps_that_never_come_write_nothing(tmp_path):
    _drive(tensorboard.Profile(tmp_path, 50, 60), steps=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [(0, 3), (5, 4)])
def test_other_steps_are_refused(steps, tmp_path):
    with pytest.raises(ValueError, match="first and a last step"):
        tensorboard.Profile(tmp_path, *steps)
