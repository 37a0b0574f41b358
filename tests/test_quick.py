"""The quick tests: every folder has some; the list names files there are."""

import ast
import re
import types

import pytest

from tests import conftest

FILES = {
    path.relative_to(conftest.TESTS).as_posix()
    for path in conftest.TESTS.rglob("test_*.py")
}

# What gives something else in every process, if it is called.
CHANGING = re.compile(
    r"time\.(time|monotonic)(_ns)?|.*\bnow|uuid\.uuid\d|os\.(getpid|urandom)"
    r"|random\.\w+|secrets\.\w+|tempfile\.\w+|id|hash"
)


class _Item:
    """As much of a test as the hook looks at."""

    def __init__(self, name):
        file, bracket, parameters = name.partition("[")
        self.path = conftest.TESTS / file
        self.name = f"test_it{bracket}{parameters}"
        self.marks = []

    def add_marker(self, name):
        self.marks.append(name)


def _collect(names, turn="all"):
    """The tests that are run of some, as the hook leaves them.

    Args:
      names: of str, a test's file, or FILE[PARAMETERS].
    """
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


def test_on_three_days_every_test_is_run():
    turns = {turn: set(names) for turn, names in conftest.TURNS.items()}
    parts = {name for names in turns.values() for name in names - FILES}
    assert {name.partition("[")[0] for name in parts} <= FILES
    every = FILES | parts
    days = {
        turn: {
            conftest.name_of(item) + item.name.removeprefix("test_it")
            for item in _collect(every, turn)
        }
        for turn in turns
    }
    assert set.union(*days.values()) == every
    for turn, names in turns.items():
        others = set.union(*(days[other] for other in turns if other != turn))
        assert every - others == names, turn


def test_a_test_is_of_its_file_and_of_each_of_its_parameters():
    (item,) = _collect(["data/test_a.py[small-knn.csv]"])
    assert conftest.names_of(item) == {
        "data/test_a.py",
        "data/test_a.py[small]",
        "data/test_a.py[knn.csv]",
    }


def test_what_both_lanes_run_is_there_and_of_the_platform():
    items = _collect(conftest.BOTH_LANES)
    assert {conftest.name_of(item) for item in items} <= FILES
    assert all({"platform", "both_lanes"} <= set(i.marks) for i in items)


def changing_parameters(source):
    """The calls in decorators of a source that differ between processes."""
    decorators = [
        decorator
        for node in ast.walk(ast.parse(source))
        for decorator in getattr(node, "decorator_list", ())
    ]
    calls = [
        node
        for decorator in decorators
        for node in ast.walk(decorator)
        if isinstance(node, ast.Call)
    ]
    return [ast.unparse(call) for call in calls if _changes(call)]


def _changes(call):
    name = ast.unparse(call.func)
    if name == "gzip.compress":  # has the time in its head
        return "mtime" not in {keyword.arg for keyword in call.keywords}
    return bool(CHANGING.fullmatch(name))


@pytest.mark.parametrize(
    ("written", "changes"),
    [
        ("[gzip.compress(b'x')]", True),
        ("[time.time()]", True),
        ("[random.random()]", True),
        ("[gzip.compress(b'x', mtime=0)]", False),
        ("[gzip, time.sleep]", False),
    ],
)
def test_parameters_that_change_are_seen(written, changes):
    source = f"@mark.parametrize('a', {written})\ndef test(a): pass"
    assert bool(changing_parameters(source)) == changes


def test_every_process_has_the_same_names_of_tests():
    """Else the processes that share the tests give up before the first."""
    seen = {
        name: changing_parameters((conftest.TESTS / name).read_text())
        for name in FILES
    }
    assert {name: calls for name, calls in seen.items() if calls} == {}


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
