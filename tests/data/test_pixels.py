"""Made files of all kinds, as Pillow, training and serving read them."""

import pathlib

import pytest

from benchmarks import pixels

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture(name="comparisons", scope="module")
def _comparisons():
    return list(pixels.compare())


def _named(comparison):
    return f"{comparison.row}: {comparison.name}"


def test_there_are_hundreds_of_files_and_no_two_of_one_name(comparisons):
    names = [_named(x) for x in comparisons]
    assert len(set(names)) == len(names) > 800
    assert set(pixels.DIFFERENT_SERVED) <= set(names)


def test_training_reads_what_pillow_reads(comparisons):
    wrong = {
        _named(x): x.difference
        for x in comparisons
        if x.difference not in range(pixels.ROUNDING + 1)
    }
    assert set(wrong) == set(pixels.DIFFERENT), wrong


def test_a_served_encoder_reads_the_same_or_names_the_format(comparisons):
    wrong = {}
    for x in comparisons:
        if isinstance(x.trained, str) or not isinstance(x.served, str):
            differs = pixels.difference(x.expected, x.served)
            if differs not in range(pixels.ROUNDING + 1):
                wrong[_named(x)] = differs
    refused = {
        _named(x): x.served
        for x in comparisons
        if isinstance(x.served, str) and not isinstance(x.trained, str)
    }
    assert set(wrong) == set(pixels.DIFFERENT_SERVED) - set(refused), wrong
    remedies = ("Convert it to PNG", "Save it again")
    assert len(refused) > 100
    assert {
        name: text
        for name, text in refused.items()
        if not any(remedy in text for remedy in remedies)
    } == {}


def test_the_page_has_the_table_of_today(comparisons):
    lines = PAGE.read_text().splitlines()
    assert [x for x in pixels.table(comparisons) if x not in lines] == []
