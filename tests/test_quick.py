"""The quick tests: every folder has some; the list names files there are."""

import types

import pytest

from tests import conftest

FILES = {
    path.relative_to(conftest.TESTS).as_posix()
    for path in conftest.TESTS.rglob("test_*.py")
}


class _Item:
    """As much of a test as the hook looks at."""

    def __init__(self, name):
        self.path = conftest.TESTS / name
        self.marks = []

    def add_marker(self, name):
        self.marks.append(name)


def _collect(names, turn="all"):
    """The tests that are run of some files, as the hook leaves them."""
    items = [_Item(name) for name in names]
    hook = types.SimpleNamespace(pytest_deselected=lambda items: None)
    config = types.SimpleNamespace(getoption=lambda name: turn, hook=hook)
    conftest.pytest_collection_modifyitems(config, items)
    return items


def test_every_slow_file_is_there_and_named_once():
    assert set(conftest.SLOW) <= FILES
    assert len(set(conftest.SLOW)) == len(conftest.SLOW)


def test_every_folder_has_quick_tests():
    folders = {name.rpartition("/")[0] for name in FILES}
    quick = FILES - set(conftest.SLOW)
    assert {name.rpartition("/")[0] for name in quick} == folders


def test_slow_files_come_first_in_their_order_and_new_ones_are_quick():
    names = ["test_new.py", conftest.SLOW[1], "data/test_a.py"]
    items = _collect([*names, conftest.SLOW[0]])
    assert [conftest.name_of(item) for item in items] == [
        conftest.SLOW[0],
        conftest.SLOW[1],
        "test_new.py",
        "data/test_a.py",
    ]
    quick = ["quick" in item.marks for item in items]
    assert quick == [False, False, True, True]


def test_files_of_the_platform_are_there_and_marked():
    for name in conftest.PLATFORM:
        assert (conftest.TESTS / name).exists(), name
    names = ["methods/test_moco.py", "test_lane.py", "reporting/test_page.py"]
    items = _collect(names)
    assert {conftest.name_of(i) for i in items if "platform" in i.marks} == {
        "methods/test_moco.py",
        "test_lane.py",
    }


def test_on_two_days_every_file_is_run():
    days = {
        turn: {conftest.name_of(item) for item in _collect(FILES, turn)}
        for turn in conftest.TURNS
    }
    assert days["even"] | days["odd"] == FILES
    assert FILES - days["odd"] == set(conftest.TURNS["even"])
    assert FILES - days["even"] == set(conftest.TURNS["odd"])


def test_what_both_lanes_run_is_there_and_of_the_platform():
    items = _collect(conftest.BOTH_LANES)
    assert {conftest.name_of(item) for item in items} <= FILES
    assert all({"platform", "both_lanes"} <= set(i.marks) for i in items)


def test_files_are_listed_by_their_seconds():
    lines = []
    reports = [
        pytest.TestReport(
            f"tests/{name}.py::test", ("", 0, ""), {}, "passed", None, "call",
            duration=seconds,
        )
        for name, seconds in (("a", 1), ("b", 2), ("a", 3), ("c", 0.5))
    ]  # fmt: skip
    reporter = types.SimpleNamespace(
        stats={"passed": reports[:3], "failed": reports[3:], "warnings": [0]},
        section=lines.append,
        write_line=lines.append,
    )
    config = types.SimpleNamespace(getoption=lambda name: 2)
    conftest.pytest_terminal_summary(reporter, config)
    assert lines == [
        "slowest 2 files",
        "    4.00s tests/a.py",
        "    2.00s tests/b.py",
    ]
