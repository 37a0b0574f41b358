"""Overrides: any value of a field comes through, anything else is named."""

import difflib
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moco_tf import config as configs
from moco_tf import config_fields
from tests import properties

# A configuration of each command.
NAMES = {"pretrain": "moco_cifar10", "linear": "linear", "finetune": "finetune"}
FIELDS = [
    (command, name)
    for command, table in config_fields.TABLES.items()
    for name in table
    if name != "method"
]


def _load(command, name, text):
    return configs.load(NAMES[command], {name: text}, command)


def _numbers(kind, field):
    """Numbers within the bounds of a field."""
    if kind is int:
        high = 10**9 if field.high is None else field.high
        return st.integers(int(field.low or 0), int(high))
    low = field.low if field.above is None else field.above
    high = field.high if field.below is None else field.below
    return st.floats(
        0 if low is None else low,
        high,
        exclude_min=field.above is not None,
        exclude_max=field.below is not None,
        allow_infinity=False,
    )


def _values(field):
    if field.names is not None:
        return st.sampled_from(field.names)
    if field.kind is bool:
        return st.booleans()
    if field.kind is str:
        return st.text(max_size=20)
    if field.kind is tuple:
        return st.lists(_numbers(field.item, field), max_size=4).map(tuple)
    return _numbers(field.kind, field)


@properties.few
@given(data=st.data(), chosen=st.sampled_from(FIELDS))
def test_any_value_of_any_field_comes_through_the_command_line(data, chosen):
    command, name = chosen
    value = data.draw(_values(config_fields.TABLES[command][name]))
    config = _load(command, name, str(value))
    found = configs.flatten(config.to_dict())[name]
    assert found == value and type(found) is type(value)
    others = configs.flatten(
        configs.load(NAMES[command], {}, command).to_dict()
    )
    assert configs.flatten(config.to_dict()) == others | {name: value}


@properties.few
@given(
    chosen=st.sampled_from(FIELDS),
    text=st.text(max_size=12)
    | st.integers().map(str)
    | st.integers(10**310, 10**320).map(str)
    | st.floats().map(str),
)
def test_any_text_is_a_value_or_is_refused_by_the_name_of_its_field(
    chosen, text
):
    command, name = chosen
    try:
        config = _load(command, name, text)
    except ValueError as error:
        assert f"config.{name} must be " in str(error)
        assert "Received " in str(error)
    else:
        field = config_fields.TABLES[command][name]
        found = configs.flatten(config.to_dict())[name]
        assert type(found) is field.kind


@properties.few
@given(
    chosen=st.sampled_from(FIELDS),
    place=st.integers(0, 30),
    letter=st.sampled_from("aeinrst_"),
    removed=st.integers(0, 1),
)
def test_any_slip_of_the_pen_is_told_a_field_at_least_as_near(
    chosen, place, letter, removed
):
    command, name = chosen
    place = min(place, len(name) - 1)
    slip = name[:place] + letter + name[place + removed :]
    assume(slip not in config_fields.TABLES[command])
    with pytest.raises(ValueError, match="There is no field") as caught:
        _load(command, slip, "1")
    meant = re.search(r"Did you mean '(.+)'\?", str(caught.value))[1]

    def likeness(known):
        return difflib.SequenceMatcher(None, slip, known).ratio()

    assert meant in {*config_fields.TABLES[command], *METHOD_FIELDS}
    assert likeness(meant) >= likeness(name) - 1e-9


METHOD_FIELDS = [f"moco.{key}" for key in configs.load("moco_cifar10").moco]
