import os

import numpy as np
import pytest

from moco_tf import plan, workdirs
from moco_tf.data import views
from moco_tf.evaluation import features
from moco_tf.reporting import page, samples
from tests import small_run


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    small_run.write_images(root / "images")
    workdirs.save(small_run.make_config(root / "images"), root / "run")
    return page.read_runs([str(root / "run")])[0]


def test_pairs_are_what_the_first_step_sees(run):
    source = samples.open_source(run, run.config.data.source)
    stream = plan.make_stream(run.config, source)
    pairs = samples.pairs(run.config, source, count=4)
    batch = next(iter(stream.batches(1, 0, 1)))
    order = np.asarray(batch["order"])
    for slot, pair in enumerate(pairs):
        assert pair.name == source.name(int(batch["index"][slot]))
        np.testing.assert_array_equal(pair.query, batch["query"][slot])
        # Keys are dealt in the shuffled order.
        position = int(np.flatnonzero(order == slot)[0])
        np.testing.assert_array_equal(pair.key, batch["key"][position])
        assert pair.image.shape == (20, 20, 3)


def test_an_image_that_cannot_be_read_is_no_pair(run, tmp_path):
    images = small_run.write_images(tmp_path / "images")
    for path in images.rglob("*.png"):
        if path.name != "003.png":
            path.write_bytes(b"no image")
    source = samples.open_source(run, f"folder:{images}")
    stream = plan.make_stream(run.config, source)
    batches = [stream.samples(stream.positions(step)) for step in range(8)]
    names = [[source.name(int(x)) for x in batch] for batch in batches]
    (step, *_) = [n for n in range(8) if "dark/003.png" in names[n]]
    pairs = samples.pairs(run.config, source, len(source), step)
    assert [pair.name for pair in pairs] == ["dark/003.png"]


def test_evaluation_views_are_those_of_evaluation_and_leave_out_the_unreadable(
    run, tmp_path
):
    images = small_run.write_images(tmp_path / "images", 10)
    (images / "bright" / "004.png").write_bytes(b"no image")
    # A name that is no text: TensorFlow cannot say what is wrong with it.
    no_text = os.path.join(os.fsencode(images), b"dark", b"\xff.png")
    with open(no_text, "wb") as file:
        file.write(b"no image")
    source = samples.open_source(run, f"folder:{images}")
    recipe = views.RECIPES["v2"]
    expected = {}
    for batch, index in features.evaluation_batches(source, recipe, 16, 4):
        expected |= zip(index.numpy().tolist(), batch.numpy(), strict=True)
    assert len(expected) == 9
    seen = samples.EvaluationViews(source, recipe, 16)
    for indices in (np.arange(11), np.array([3, 3, 0])):
        images = seen(indices)
        assert images.keys() == expected.keys() & set(indices.tolist())
        for index, image in images.items():
            np.testing.assert_array_equal(image, expected[index])


def test_a_path_is_taken_from_where_the_run_was_started(run, tmp_path):
    small_run.write_images(tmp_path / "images", 10)
    start = {"directory": str(tmp_path)}
    moved = run._replace(starts=[start])
    assert not os.path.exists("images")
    assert len(samples.open_source(moved, "folder:images")) == 10


def test_both_folders_of_pairs_are_taken_from_there(run, tmp_path):
    for name in ("colour", "depth"):
        small_run.write_images(tmp_path / name, 10)
    config = run.config.copy_and_resolve_references()
    config.model.input = "pair"
    start = {"directory": str(tmp_path)}
    moved = run._replace(starts=[start], config=config)
    assert len(samples.open_source(moved, "pairs:colour,depth")) == 10


def test_images_that_have_gone_are_named(run):
    with pytest.raises(ValueError, match="'/gone', which is missing"):
        samples.open_source(run, "folder:/gone")
