"""Rows are no formality: what is not followed, or not named, is seen."""

import pytest

from tests.remedies import following, messages

KEY = ("methods/swav.py:SwAV.check", "Raise config.swav.queue_size")
# As the checks of other rows: of what is advised there.
PLACE, WORDS = KEY


def check(size, batch=64):
    """Raises the message of KEY for a queue of less than a batch."""
    import types

    from moco_tf.methods import swav, two_views

    run = two_views.Run(
        *("swav", 0, batch, 1, "rgb", "batch", 8, 16, 0),
        small_views=0,
    )
    swav.SwAV.check(types.SimpleNamespace(queue_size=size), run)


def follow(function):
    following.follow(KEY, function, {})


def test_a_remedy_that_works_passes():
    def row():
        text = yield lambda: check(8)
        for fields in following.advised(text):
            yield lambda f=fields: check(int(f["swav.queue_size"]))
        yield lambda: check(64)

    follow(row)


def test_a_remedy_that_is_refused_fails():
    def row():
        yield lambda: check(8)
        yield lambda: check(9)

    with pytest.raises(AssertionError, match="the remedy was refused"):
        follow(row)


def test_a_message_that_does_not_appear_fails():
    def row():
        yield lambda: check(64)
        yield lambda: check(64)

    with pytest.raises(AssertionError, match="nothing was raised"):
        follow(row)


def test_another_message_in_its_place_fails():
    def row():
        yield lambda: int("x")
        yield lambda: check(64)

    with pytest.raises(AssertionError, match="are not in .*invalid literal"):
        follow(row)


def test_a_row_without_a_remedy_fails():
    def row():
        yield lambda: check(8)

    with pytest.raises(AssertionError, match="no remedy was followed"):
        follow(row)


def test_rows_name_what_is_missing_twice_or_gone():
    rows = following.Rows("methods/swav.py")
    rows.states(following.OF_A_CALLER, KEY, (PLACE, "no such words"))
    rows.tested("tests/test_house.py::test_there_is_none", (PLACE, WORDS))
    faults = "\n".join(rows.faults())
    assert f"twice in the rows: {KEY}" in faults
    assert "names 0 messages" in faults
    assert "has a remedy" in faults
    assert "no row of methods/swav.py:SwAV.__init__" in faults
    assert "test_there_is_none is not there" in faults


SOURCE = '''
"""Pass this by: a docstring."""


def check(size, name, rest):
    "Use nothing of this either."
    remedy = f"Lower it by {size}."
    if size:
        raise ValueError(
            f"Size must be 0. Received {size}. Pass --config.a.b=0, or "
            f"start anew with {name!r}."
        )
    print("Warning: it is large. " + rest + " Wait for it.")
    raise TypeError("It must be a number.")
'''


def test_messages_are_read_with_their_remedies():
    collected = messages.read(SOURCE, "a.py")
    assert [(m.remedy, m.raised) for m in collected] == [
        ("Lower it by {size}.", False),
        ("Pass --config.a.b=0, or start anew with {name}.", True),
        ("Wait for it.", False),
        ("", True),
    ]
    assert {m.place for m in collected} == {"a.py:check"}
    assert collected[1].fixed == [
        "Size must be 0. Received ",
        ". Pass --config.a.b=0, or start anew with ",
        ".",
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Pass --config.a.b=1, or --config.c=x.", [{"a.b": "1"}, {"c": "x"}]),
        ("Pass --config.a=1 --config.b=2.", [{"a": "1", "b": "2"}]),
        ("Pass --config.a=0.05,0.14.", [{"a": "0.05,0.14"}]),
        ("--config.a= --config.b= (both empty).", [{"a": "", "b": ""}]),
        ("Lower config.a.", []),
    ],
)
def test_advised_fields_are_read_out_of_a_message(text, expected):
    assert following.advised(text) == expected
