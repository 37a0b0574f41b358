"""Overrides: any value of a field comes through, anything else is named."""

import difflib
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moco_tf import config as configs
from moco_tf import config_schema
from tests import properties

# A configuration of each command.
NAMES = {"pretrain": "moco_cifar10", "linear": "linear", "finetune": "finetune"}
FIELDS = [
    (command, name)
    for command, table in config_schema.TABLES.items()
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
    value = data.draw(_values(config_schema.TABLES[command][name]))
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
        field = config_schema.TABLES[command][name]
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
    assume(slip not in config_schema.TABLES[command])
    with pytest.raises(ValueError, match="There is no field") as caught:
        _load(command, slip, "1")
    meant = re.search(r"Did you mean '(.+)'\?", str(caught.value))[1]

    def likeness(known):
        return difflib.SequenceMatcher(None, slip, known).ratio()

    assert meant in {*config_schema.TABLES[command], *METHOD_FIELDS}
    assert likeness(meant) >= likeness(name) - 1e-9


METHOD_FIELDS = [f"moco.{key}" for key in configs.load("moco_cifar10").moco]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", np.int64(3), 3),
        ("seed", np.array(3, np.uint8), 3),
        ("optimizer.momentum", np.float32(0.5), 0.5),
        ("optimizer.momentum", np.float64(0.1), 0.1),
        ("optimizer.momentum", np.int8(0), 0.0),
        ("log.tensorboard", np.bool_(False), False),
        ("data.views", np.str_("v2"), "v2"),
        ("schedule.milestones", np.array([120, 160]), (120, 160)),
        ("schedule.milestones", [np.int64(120), 160], (120, 160)),
        ("schedule.milestones", np.array([], int), ()),
        ("data.small_scale", np.array([0.25, 0.5], "f"), (0.25, 0.5)),
        ("data.small_scale", (np.float32(0.25), np.int64(1)), (0.25, 1.0)),
    ],
)
def test_numpys_numbers_are_numbers(name, value, expected):
    plain = config_schema.coerce(config_schema.PRETRAIN, name, value)
    assert plain == expected and type(plain) is type(expected)
    if type(plain) is tuple:
        assert [type(v) for v in plain] == [type(v) for v in expected]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", np.float64(3)),
        ("seed", np.bool_(True)),
        ("seed", np.array([3])),
        ("log.tensorboard", np.int64(1)),
        ("optimizer.momentum", np.array([0.5])),
        ("schedule.milestones", np.array([1.5])),
        ("schedule.milestones", np.array([[1, 2]])),
        ("schedule.milestones", np.int64(1)),
    ],
)
def test_numpys_values_of_another_type_are_refused(name, value):
    with pytest.raises(ValueError, match=f"config.{name} must be .*Received"):
        config_schema.coerce(config_schema.PRETRAIN, name, value)
