"""Workers that are asked to leave, and what goes on after them."""

import signal

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import pretrain
from moco_tf.cli import main as cli
from tests import forked, shallow, small_run
from tests.cluster import small_cluster

FIELDS = {
    "train__epochs": 20,
    "checkpoint__every_steps": 3,
}
STEPS = 20 * small_run.STEPS_PER_EPOCH
_network = shallow.fixture(shallow.ONE_BLOCK)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return small_run.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def left(images, tmp_path_factory):
    """A run of two workers of which one was asked to leave."""
    workdir = tmp_path_factory.mktemp("left") / "run"
    processes = small_cluster.start(images, workdir, **FIELDS)
    small_cluster.wait_for_step(workdir, 9, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    statuses, texts = small_cluster.finish(processes)
    return workdir, statuses, texts


def _pretrain(images, workdir):
    """A run of this process to its end, with one replica."""
    config = small_run.make_config(images, **FIELDS)
    pretrain.pretrain(config, workdir, tf.distribute.get_strategy())


@pytest.fixture(scope="module")
def undisturbed(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    _pretrain(images, workdir)
    return workdir


def test_all_save_at_the_same_step_and_leave(left):
    workdir, statuses, texts = left
    step = small_run.step_of(workdir)
    assert statuses == [138, 138], texts
    assert 9 <= step < STEPS
    for text in texts:
        assert f"asked to leave: all is saved at step {step}." in text


def test_each_worker_has_a_log_of_its_start_and_its_end(left):
    workdir, _, _ = left
    for name, words in (
        ("log.txt", "moco-tf starts in"),
        ("log.worker-1.txt", "joins; worker 0 reports."),
    ):
        text = (workdir / name).read_text()
        assert text.startswith("== ") and text.count("\n== ") == 0
        assert words in text and "asked to leave: all is saved" in text


def test_one_replica_goes_on_from_two_workers(
    left, undisturbed, images, capsys
):
    workdir, _, _ = left
    first = small_run.step_of(workdir)
    _pretrain(images, workdir)
    assert f"goes on after step {first}" in capsys.readouterr().out
    assert small_run.step_of(workdir) == STEPS
    ours, theirs = small_run.state(workdir), small_run.state(undisturbed)
    names = [name for name in ours if "queue" in name]
    assert len(names) == 4
    for name in names:
        if "queue/keys" in name:
            # Rounding grows over so many steps; the keys stay unit vectors.
            np.testing.assert_allclose(
                np.linalg.norm(ours[name], axis=1), 1, rtol=1e-6
            )
        else:  # the same samples, written at the same steps
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_finished_run_waits_for_nobody(undisturbed, images, capsys):
    # Worker 0 may have ended for good.
    words = small_run.command(
        images,
        undisturbed,
        "--workers=127.0.0.1:1,127.0.0.1:2",
        "--worker_index=1",
        "--start_timeout=1",
        **FIELDS,
    )
    assert cli.run(words[words.index("pretrain") :]) == 0
    assert "This run is finished" in capsys.readouterr().out


def test_one_process_saves_and_leaves_too(images, tmp_path):
    workdir = tmp_path / "run"
    process = forked.Process(small_run.command(images, workdir, **FIELDS))
    small_cluster.wait_for_step(workdir, 9, process)
    process.send_signal(signal.SIGUSR1)
    (status,), (text,) = small_cluster.finish([process])
    assert status == 138
    step = small_run.step_of(workdir)
    assert f"asked to leave: all is saved at step {step}." in text
