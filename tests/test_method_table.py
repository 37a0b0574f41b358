import pathlib

from moco_tf import method_table
from tests import methods_in_readme

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_the_readme_has_the_table_of_the_methods_there_are():
    text = (ROOT / "README.md").read_text()
    assert methods_in_readme.with_table(text) == text


def test_every_method_has_a_row_with_its_result_in_the_docs():
    text = (ROOT / "docs" / "methods.md").read_text()
    for name in method_table.METHODS:
        rows = [row for row in text.splitlines() if f"(`{name}`)" in row]
        assert len(rows) == 1, name
        assert "%" in rows[0]


def test_fields_are_the_common_ones_and_the_methods_own():
    fields = method_table.fields("simclr")
    assert "simclr.temperature" in fields and "train.epochs" in fields
    assert not [name for name in fields if name.startswith("moco.")]
