"""Imports go down only, and the drawing shows them all."""

import re

import pytest

from tests import house


@pytest.fixture(name="arrows", scope="module")
def _arrows():
    return house.imports()


def test_imports_go_down_only(arrows):
    order = list(house.ROOMS)
    up = [(a, b) for a, b in arrows if order.index(a) > order.index(b)]
    assert up == []


def test_every_room_is_imported_and_none_of_the_ground_imports(arrows):
    assert {imported for _, imported in arrows} == set(house.ROOMS) - {"cli"}
    ground = {"monitoring", "cluster", "models", "data"}
    assert not {room for room, _ in arrows} & ground


def test_the_drawing_has_an_arrow_for_every_import_and_no_other(arrows):
    text = house.DRAWING.read_text()
    shown = re.findall(r"<title>(\w+) imports (\w+)</title>", text)
    assert sorted(shown) == sorted(arrows), "run: tests/house.py --write"
    assert house.drawing(arrows) == text, "run: tests/house.py --write"


def test_every_room_is_told_of_on_the_page_of_the_design():
    text = (house.ROOT / "docs" / "design.md").read_text()
    for room in house.ROOMS:
        assert f"| `{room}" in text, room


def test_a_module_of_no_room_is_refused():
    assert house.room_of("data/views") == "data"
    assert house.room_of("config_schema") == "config"
    with pytest.raises(ValueError, match="moco_tf/attic/chest must be of"):
        house.room_of("attic/chest")
