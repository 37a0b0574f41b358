"""What one lane has written, read in the other; a run that goes on there."""

import csv
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import lane, prepare, records
from moco_tf.data import sources
from moco_tf.evaluation import embeddings, frozen
from moco_tf.training import checkpoints
from tests import lane_files, shallow

ROOT = pathlib.Path(__file__).resolve().parent.parent
OTHER = "current" if lane.NAME == "2.15" else "2.15"
PYTHON = ROOT / {"2.15": ".venv", "current": ".venv-current"}[OTHER]

pytestmark = pytest.mark.skipif(
    not (PYTHON / "bin/python").exists() or PYTHON.is_symlink(),
    reason=f"needs the other lane: launch/test.sh --lane={OTHER} makes it",
)
_network = shallow.fixture()


@pytest.fixture(name="written", scope="module")
def _written(tmp_path_factory):
    """The folder that a process of the other lane has written."""
    folder = tmp_path_factory.mktemp("written")
    environ = dict(os.environ)
    environ.pop("TF_USE_LEGACY_KERAS", None)  # of this lane
    command = [PYTHON / "bin/python", "-m", "tests.lane_files", folder]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "lane.json").read_text()) == OTHER
    return folder


def rows(workdir):
    with (workdir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_batches_are_the_same_bits(written):
    theirs = dict(np.load(written / "batch.npz"))
    ours = lane_files.second_batch(written / "images")
    assert ours.keys() == theirs.keys() > {"query", "key"}
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_a_checkpoint_gives_the_same_features(written):
    theirs = dict(np.load(written / "encoded.npz"))
    ours = lane_files.encode(written / "finished")
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_and_says_so(written, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(written / "stopped", workdir)
    lane_files.train(written / "images", workdir)
    said = capsys.readouterr().out
    assert "Warning: The last start was on TensorFlow " in said
    assert lane.TOLERANCE in said
    starts = records.read_starts(workdir)
    assert [start["lane"] for start in starts] == [OTHER, lane.NAME]
    ours, theirs = rows(workdir), rows(written / "finished")
    assert [row["step"] for row in ours] == [str(n) for n in range(1, 7)]
    assert ours[:3] == theirs[:3]  # those of the other lane stay
    # The rest of the state is the same, so the next step is, up to rounding.
    assert float(ours[3]["loss"]) == pytest.approx(
        float(theirs[3]["loss"]), rel=1e-3
    )
    path, other = (
        checkpoints.latest(x) for x in (workdir, written / "finished")
    )
    shapes = [
        dict(tf.train.list_variables(str(p / "state"))) for p in (path, other)
    ]
    assert shapes[0] == shapes[1]


def test_a_saved_model_gives_the_same_features(written):
    theirs = dict(np.load(written / "encoded.npz"))
    encoder = frozen.open_frozen(saved_model=written / "export/encoder/1")
    ours = encoder.encode(theirs["images"])["backbone"]
    np.testing.assert_allclose(ours, theirs["backbone"], rtol=1e-4, atol=1e-5)


def test_a_keras_file_gives_the_same_features(written):
    theirs = dict(np.load(written / "encoded.npz"))
    path = written / "export/encoder/1/encoder.keras"
    encoder = frozen.open_frozen(
        saved_model=path, recipe="cifar", image_size=16
    )
    ours = encoder.encode(theirs["images"])["backbone"]
    np.testing.assert_allclose(ours, theirs["backbone"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("folder", "stored_as"), [("cache", "raw"), ("jpegs", "jpeg")]
)
def test_a_prepared_cache_holds_the_images_of_one_of_this_lane(
    written, tmp_path, folder, stored_as
):
    spec = f"folder:{written / 'images'}"
    prepare.prepare(spec, tmp_path / folder, 12, stored_as=stored_as)
    caches = [
        sources.open_source(f"prepared:{root / folder}")
        for root in (tmp_path, written)
    ]
    ours, theirs = caches
    assert len(ours) == len(theirs) == 50
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    for index in (0, 27, 49):
        image, other = (
            cache.image(cache.records(tf.constant([index]))[0])
            for cache in caches
        )
        np.testing.assert_array_equal(image, other)


def test_embeddings_are_read(written):
    theirs = embeddings.load(written / "embeddings.npz")
    assert len(theirs.index) == 50
    assert all(np.isfinite(x).all() for x in theirs.rows.values())
    # The file is finished: what was written there is taken as it is.
    encoder = frozen.open_frozen(written / "finished")
    spec, path = f"folder:{written / 'images'}", written / "embeddings.npz"
    before = path.read_bytes()
    again = embeddings.embed_source(encoder, spec, path)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(again.index, theirs.index)
