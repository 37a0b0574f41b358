"""Damaged images of any kind: read or replaced, counted and named."""

import csv

import numpy as np
import pytest

from benchmarks import damaged_images
from moco_tf.data import sources, stream, unreadable, views

BATCH = 20


@pytest.fixture(name="corpus", scope="module")
def _corpus(tmp_path_factory):
    """The folder, and what each file in it is."""
    root = tmp_path_factory.mktemp("corpus")
    return root, damaged_images.write(root, 60, 20, seed=0)


def test_the_stream_reads_or_replaces_counts_and_names_them_all(
    corpus, tmp_path
):
    root, written = corpus
    source = sources.open_source(f"folder:{root}")
    assert len(source) == len(written) == 80
    recipe = views.RECIPES["v1"]
    batches = stream.Stream(source, recipe, 16, BATCH, threads=2)
    log = unreadable.UnreadableLog(tmp_path / "unreadable.csv", batches, 1.0)
    counted, bad_steps = 0, {}
    for step, batch in enumerate(batches.batches(1, 0, 4).as_numpy_iterator()):
        for view in (batch["query"], batch["key"]):
            assert view.shape == (BATCH, 16, 16, 3) and view.dtype == np.uint8
        counted += (~batch["valid"]).sum()
        if not batch["valid"].all():
            bad_steps[step] = (~batch["valid"]).sum()
    log.add(bad_steps)
    with (tmp_path / "unreadable.csv").open() as file:
        rows = list(csv.DictReader(file))
    named = [row["name"] for row in rows]
    assert damaged_images.faults(written, named, counted) == []
    assert all(row["reason"] for row in rows)
    # Some of a cut or changed file's kind can be read, and some cannot.
    kinds = {written[name] for name in named}
    assert {"truncated", "misnamed"} < kinds


def test_the_corpus_is_a_function_of_its_seed(corpus, tmp_path):
    root, written = corpus
    assert damaged_images.write(tmp_path, 60, 20, seed=0) == written
    for name in written:
        assert (tmp_path / name).read_bytes() == (root / name).read_bytes()


def test_a_name_too_many_or_too_few_is_a_fault():
    written = {"a.png": "intact", "b.png": "empty", "c.png": "flipped"}
    assert damaged_images.faults(written, ["b.png"], 1) == []
    for named, counted in (
        (["a.png", "b.png"], 2),
        ([], 0),
        (["b.png"], 2),
        (["b.png", "b.png"], 2),
    ):
        assert damaged_images.faults(written, named, counted)
