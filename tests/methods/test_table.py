import pathlib
import re

import pytest

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.methods import table
from tools import methods_in_readme

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def test_the_readme_has_the_table_of_the_methods_there_are():
    text = (ROOT / "README.md").read_text()
    assert methods_in_readme.with_table(text) == text


def test_every_method_has_a_row_with_its_result_in_the_docs():
    text = (ROOT / "docs" / "methods.md").read_text()
    for name in table.METHODS:
        rows = [row for row in text.splitlines() if f"(`{name}`)" in row]
        assert len(rows) == 1, name
        assert re.search(r"\d\d\.\d", rows[0]), name


@pytest.mark.parametrize(
    ("name", "views", "logits"),
    [
        ("end_to_end_imagenet", 0, 2 * 8),
        ("simclr_imagenet", 0, 4 * 16),
        ("simclr_imagenet", 3, 10 * 16),
        ("byol_imagenet", 0, 0),
        ("moco_v2_imagenet", 3, 8 * 100),
    ],
)
def test_logits_are_counted_of_every_view(name, views, logits):
    """Of two images on a replica, of eight in all."""
    fields = {"train.batch_size": "8", "data.small_views": str(views)}
    if name.startswith("moco"):
        fields["moco.queue_size"] = "100"
    config = configs.load(name, fields)
    method, settings, run = plan.resolve_method(config)
    kept = method.dictionary_bytes(settings, run, 0)
    # float32, kept three times: logits, softmax and its gradient.
    assert method.dictionary_bytes(settings, run, 2) - kept == 3 * 4 * logits


def test_fields_are_the_common_ones_and_the_methods_own():
    fields = table.fields("simclr")
    assert "simclr.temperature" in fields and "train.epochs" in fields
    assert not [name for name in fields if name.startswith("moco.")]
