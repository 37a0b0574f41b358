"""Workers that are killed or frozen, and others that are not as they should."""

import os
import random
import shutil
import signal
import time

import pytest

from tests import small_run
from tests.cluster import small_cluster

FIELDS = {
    "train__epochs": 6,
    "checkpoint__every_steps": 3,
    "evaluated": True,
    "knn__every_epochs": 6,
}
STEPS = 6 * small_run.STEPS_PER_EPOCH
# Many more, of either worker: benchmarks/kills.py.
FAULTS = [(0, signal.SIGKILL), (1, signal.SIGSTOP)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return small_run.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def there(images, tmp_path_factory):
    """The images in another place."""
    return shutil.copytree(images, tmp_path_factory.mktemp("there") / "images")


@pytest.fixture(scope="module")
def undisturbed(images, there, tmp_path_factory):
    """A run of two workers that nothing happened to, each with its images."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    changes = {1: [f"--config.data.source=folder:{there}/"]}
    statuses, texts = small_cluster.finish(
        small_cluster.start(images, workdir, changes=changes, **FIELDS)
    )
    assert statuses == [0, 0], texts
    assert small_run.step_of(workdir) == STEPS
    return workdir


def _without_times(workdir):
    """The rows of metrics.csv but for what a clock has measured."""
    rows = (workdir / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    kept = [
        place
        for place, name in enumerate(names)
        if name not in ("images_per_second", "input_wait_share", "time")
    ]
    return [[row.split(",")[place] for place in kept] for row in rows]


def test_killed_and_frozen_workers_change_no_bit(images, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    launcher = small_cluster.launch(
        images, workdir, tmp_path / "logs", **FIELDS
    )
    chance = random.Random(0)
    for worker, kind in FAULTS:
        step = small_run.step_of(workdir) + chance.randrange(1, 10)
        small_cluster.wait_for_step(workdir, step, launcher)
        # Mostly between two checkpoints, whose steps are then made twice.
        time.sleep(chance.random() * 0.2)
        small_cluster.signal_worker(workdir, worker, kind)
    status = launcher.wait(900)
    logs = [path.read_text() for path in (tmp_path / "logs").glob("*.log")]
    assert status == 0, logs
    assert small_run.step_of(workdir) == STEPS
    small_run.assert_same_bits(
        small_run.state(workdir), small_run.state(undisturbed)
    )
    assert _without_times(workdir) == _without_times(undisturbed)
    assert any("Lost worker" in log for log in logs)


def test_a_worker_with_another_seed_is_refused(images, tmp_path):
    statuses, texts = small_cluster.finish(
        small_cluster.start(
            images,
            tmp_path / "run",
            changes={1: ["--config.seed=5"]},
        )
    )
    assert statuses == [138, 1]
    assert "same configuration and the same data" in texts[1]
    assert "Lost worker 1" in texts[0]
    assert "Traceback" not in "".join(texts)


def test_workers_may_have_their_images_in_other_places(
    images, there, undisturbed, tmp_path
):
    # They had at the first start, of `undisturbed`; now both have moved.
    here, there = (
        shutil.copytree(folder, tmp_path / name)
        for name, folder in (("here", images), ("there", there))
    )
    for folder in (here, there):
        (folder / "dark" / "003.png").unlink()
    os.symlink(here, tmp_path / "link")
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    statuses, texts = small_cluster.finish(
        small_cluster.start(
            tmp_path / "link",
            workdir,
            "--extend",
            changes={1: [f"--config.data.source=folder:{there}/"]},
            train__epochs=7,
        )
    )
    assert statuses == [0, 0], texts
    assert "1 removed (dark/003.png)" in texts[0]
    assert small_run.step_of(workdir) == STEPS + small_run.STEPS_PER_EPOCH


def test_a_worker_that_never_comes_is_named(images, tmp_path):
    statuses, texts = small_cluster.finish(
        small_cluster.start(
            images, tmp_path / "run", "--start_timeout=1", indices=[0]
        )
    )
    assert statuses == [138]
    assert "worker 1 (127.0.0.1:" in texts[0]
    assert "did not come within 1 s" in texts[0]
    assert not (tmp_path / "run").exists()
