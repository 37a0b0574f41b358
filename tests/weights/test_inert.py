"""Values beside the weights: they do no harm, whoever wrote them."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import logging
import operator
import pathlib
import pickle
import re
import resource
import types
import uuid

import ml_dtypes
import numpy as np
import pytest

from moco_tf.weights import pickle_reader, torch_file, weight_files
from tests.weights import no_code, torch_files

plain = torch_files.plain


class Color(enum.Enum):
    RED = 1


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Slots:
    __slots__ = ("a",)

    def __init__(self):
        self.a = 1


class Config(dict):
    pass


class Numbers(list):
    pass


class Names(set):
    pass


class Stateful:
    def __getstate__(self):
        return {"a": [1, 2]}

    def __setstate__(self, state):
        raise AssertionError


class Given:
    """As objects that give their items and entries after their class."""

    def __reduce__(self):
        return Given, (), {"a": 1}, iter([1, 2]), iter([("k", 1)])

    def append(self, value):
        raise AssertionError

    def __setitem__(self, key, value):
        raise AssertionError


@dataclasses.dataclass
class Data:
    a: int = 1


Point = collections.namedtuple("Point", "x y")


def _function(value):
    return value


def _cycle():
    value = argparse.Namespace()
    value.itself = value
    return value


VALUES = {
    "Namespace": argparse.Namespace(lr=0.1, path=pathlib.Path("a")),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "Counter": collections.Counter("aab"),
    "OrderedDict": collections.OrderedDict(a=1),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "defaultdict of a class": collections.defaultdict(Data, a=1),
    "deque": collections.deque([1, 2], 3),
    "ChainMap": collections.ChainMap({"a": 1}),
    "UserDict": collections.UserDict(a=1),
    "path": pathlib.PurePosixPath("a/b"),
    "Windows path": pathlib.PureWindowsPath("a/b"),
    "datetime": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(3),
    "enum": Color.RED,
    "flags": Flags.A | Flags.B,
    "partial": functools.partial(_function, 3),
    "partial of a method": functools.partial("a".join, ["b"]),
    "function": _function,
    "bound method": "a,b".split,
    "built-in": len,
    "itemgetter": operator.itemgetter(1),
    "type": Data,
    "numpy type": np.float32,
    "instance": Data(),
    "slots": Slots(),
    "stateful": Stateful(),
    "items and entries": Given(),
    "dict of a class": Config(a=1),
    "list of a class": Numbers([1]),
    "set of a class": Names({1}),
    "namedtuple": Point(1, 2),
    "cycle": _cycle(),
    "decimal": decimal.Decimal("0.1"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=3),
    "address": ipaddress.ip_address("127.0.0.1"),
    "pattern": re.compile("a+"),
    "logger": logging.getLogger("a"),
    "range": range(3),
    "slice": slice(1, 2),
    "complex": 1 + 2j,
    "bytes": b"\xff\x00",
    "bytearray": bytearray(b"ab"),
    "frozenset": frozenset((1, (2, 3))),
    "Ellipsis": ...,
    "NotImplemented": NotImplemented,
    "error": ValueError("a"),
    "large number": 2**3000,
    "tuple as key": {(1, 2): 3, frozenset((1,)): 4},
    "enum as key": {Color.RED: 3, Data: 4, None: 5, 1.5: 6},
    "float64": np.float64(0.5),
    "float16": np.float16(0.5),
    "bool_": np.bool_(True),
    "complex64": np.complex64(1j),
    "str_": np.str_("a"),
    "datetime64": np.datetime64("2026-01-01"),
    "bfloat16": ml_dtypes.bfloat16(2),
    "text array": np.array(["a", "bc"]),
    "object array": np.array([Data(), None], object),
    "records": np.zeros(2, [("a", "f4"), ("b", "i8")]),
    "dates": np.array(["2026-01-01"], "M8[D]"),
    "matrix": np.matrix([[1, 2]]),
    "masked": np.ma.masked_array([1, 2], [True, False]),
    "dtype": np.dtype("f4"),
    "record dtype": np.dtype([("a", "f4")]),
    "RandomState": np.random.RandomState(3),
    "Generator": np.random.default_rng(3),
    "poly1d": np.poly1d([1, 2]),
}
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def _read(path, data, seconds=20):
    path.write_bytes(data)
    with no_code.no_code(seconds):
        return torch_file.read(path)


CASES = [
    (name, protocol)
    for name in VALUES
    for protocol in range(6)
    if name != "slots" or protocol > 1  # older ones do not write them
]


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_a_value_beside_the_weights_does_no_harm(name, protocol, tmp_path):
    saved = {"before": VALUES[name], "w": WEIGHT, "after": [VALUES[name]]}
    data = pickle.dumps(saved, protocol)
    loaded = _read(tmp_path / "file.pkl", data)
    assert list(loaded) == ["before", "w", "after"]
    assert loaded["w"].dtype == WEIGHT.dtype
    np.testing.assert_array_equal(loaded["w"], WEIGHT)


def test_plain_values_are_read_as_they_are(tmp_path):
    data = pickle.dumps({"c": collections.Counter("aab"), "z": 1 + 2j})
    loaded = _read(tmp_path / "file.pkl", data)
    assert loaded == {"c": {"a": 2, "b": 1}, "z": 1 + 2j}


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e5m2", "float8_e4m3fn"])
def test_arrays_of_small_floats_are_read(kind, tmp_path):
    value = np.array([1, -2.5], getattr(ml_dtypes, kind))
    loaded = _read(tmp_path / "file.pkl", pickle.dumps({"w": value}))["w"]
    assert loaded.dtype == value.dtype
    np.testing.assert_array_equal(loaded, value)


def test_settings_of_libraries_that_are_not_here_do_no_harm(tmp_path):
    config = (
        b"comegaconf.dictconfig\nDictConfig\n)\x81}(X\x08\0\0\0_content}"
        b"X\2\0\0\0lrcomegaconf.nodes\nAnyNode\n)\x81}X\4\0\0\0_valG?\xb9\x99"
        b"\x99\x99\x99\x99\x9asbsX\7\0\0\0_parentNub"
    )
    file = torch_files.File("zip")
    opcodes = file.dict(cfg=torch_files.Opcodes(config), w=WEIGHT)
    loaded = _read(tmp_path / "file.pth", file.bytes(opcodes))
    assert loaded["cfg"].kind == "omegaconf.dictconfig.DictConfig"
    np.testing.assert_array_equal(loaded["w"], WEIGHT)


# Files that try to run code through what is inert, and through setters.


def _dotted_path(marker):
    """A module that has another one as an attribute."""
    return (
        plain("posixpath") + plain("os.system") + b"\x93("
        + plain(f"touch {marker}") + b"tR"
    )  # fmt: skip


def _attribute_of_inert(marker):
    return (
        b"cbuiltins\ngetattr\n(cposixpath\nos\n" + plain("system") + b"tR("
        + plain(f"touch {marker}") + b"tR"
    )  # fmt: skip


def _run_string(marker):
    return (
        b"cnumpy.testing._private.utils\nrunstring\n("
        + plain(f"open({str(marker)!r}, 'w').close()") + b"}tR"
    )  # fmt: skip


def _partial_with_state(marker):
    """functools.partial gets its function by __setstate__, then is called."""
    return (
        b"cfunctools\npartial\n(cbuiltins\nprint\ntR("
        + plain("posixpath") + plain("os.system") + b"\x93("
        + plain(f"touch {marker}") + b"t}}tb)R"
    )  # fmt: skip


def _method_caller(marker):
    return (
        b"coperator\nmethodcaller\n(" + plain("system")
        + plain(f"touch {marker}") + b"tR(cposixpath\nos\ntR"
    )  # fmt: skip


def _mapped_call(marker):
    """A call that another call makes: list(map(system, [text]))."""
    return (
        b"cbuiltins\nlist\n(cbuiltins\nmap\n("
        + plain("posixpath") + plain("os.system") + b"\x93"
        + plain([f"touch {marker}"]) + b"tRtR"
    )  # fmt: skip


def _default_factory(marker):
    """A factory that a missing entry would call."""
    return (
        b"ccollections\ndefaultdict\n(cfunctools\npartial\n("
        + plain("posixpath") + plain("os.system") + b"\x93"
        + plain(f"touch {marker}") + b"tRtR"
        + b"0cbuiltins\nstr.format\n(" + plain("{0.a.b}") + b"tR"
    )  # fmt: skip


def _setter_on_inert(marker):
    """An attribute that Python's unpickler calls at the next BUILD."""
    return (
        b"cargparse\nNamespace\n)R}" + plain("__setstate__")
        + plain("posixpath") + plain("os.system") + b"\x93sb"
        + plain(f"touch {marker}") + b"b"
    )  # fmt: skip


def _reduce_result(marker):
    """The result of one call is the function of the next."""
    return (
        b"coperator\nattrgetter\n(" + plain("os.system") + b"tR"
        b"(cposixpath\n__builtins__\ntR0coperator\nattrgetter\n("
        + plain("system") + b"tR(cposixpath\nos\ntR("
        + plain(f"touch {marker}") + b"tR"
    )  # fmt: skip


def _class_with_code(marker):
    """A class that is made by its metaclass, with a method that acts."""
    return (
        b"cbuiltins\ntype\n(" + plain("X") + b")}" + plain("__del__")
        + b"cfunctools\npartial\n(" + plain("posixpath")
        + plain("os.system") + b"\x93" + plain(f"touch {marker}")
        + b"tRstR)\x81"
    )  # fmt: skip


ACTING = (
    _dotted_path,
    _attribute_of_inert,
    _run_string,
    _partial_with_state,
    _method_caller,
    _mapped_call,
    _default_factory,
    _setter_on_inert,
    _reduce_result,
    _class_with_code,
)
# What Python's own unpickler runs as it is: the files are no dummies.
REAL = (
    _dotted_path,
    _run_string,
    _partial_with_state,
    _mapped_call,
    _setter_on_inert,
)


@pytest.mark.parametrize("layout", torch_files.LAYOUTS)
@pytest.mark.parametrize("make", ACTING, ids=lambda make: make.__name__)
def test_a_file_that_calls_what_is_inert_runs_nothing(make, layout, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "file.pth"
    file = torch_files.File(layout)
    values = {"it": torch_files.Opcodes(make(marker)), "epoch": 3}
    data = file.bytes(b"\x80\x04" + file.dict(**values))
    loaded = _read(path, data)
    assert loaded["epoch"] == 3
    assert isinstance(loaded["it"], pickle_reader.Inert | dict)
    assert not marker.exists()


@pytest.mark.parametrize("make", REAL, ids=lambda make: make.__name__)
def test_the_same_file_runs_code_in_pythons_unpickler(make, tmp_path):
    marker = tmp_path / "marker"
    try:
        pickle.loads(b"\x80\x04" + make(marker) + b".")
    except (TypeError, AttributeError):
        assert marker.exists()  # what the call returned did not fit
    assert marker.exists()


# Files that are made to take long, or much memory.


def _hash_bomb():
    """A tuple of two of a tuple of two ...: as a key it is hashed for ever."""
    return b"}" + b")" + b"2\x86" * 60 + plain(1) + b"s"


def _put(number):
    """Into the memo, far from where plain values go."""
    return b"r" + (10**6 + number).to_bytes(4, "little")


def _get(number):
    return b"j" + (10**6 + number).to_bytes(4, "little")


def _state_bomb():
    """One state, built again and again on copies of one array."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0t"
        + plain(b"b") + b"tR"
    )  # fmt: skip
    dtype = (
        b"cnumpy\ndtype\n(" + plain("u1") + b"\x89\x88tR"
        + plain((3, "|", None, None, None, -1, -1, 0)) + b"b"
    )  # fmt: skip
    state = b"(" + plain(1) + plain((100_000,)) + dtype + b"\x89"
    state += plain("x" * 100_000) + b"t" + _put(0) + b"0"
    return state + array + b"2" * 5000 + (_get(0) + b"b0") * 5000


def _memo_bomb():
    """One unfinished type in many places of the memo, finished often."""
    kind = b"cnumpy\ndtype\n(" + plain("f4") + b"\x89\x88tR"
    state = plain((3, "<", None, None, None, -1, -1, 0)) + _put(0) + b"0"
    places = b"".join(map(_put, range(1, 100_000)))
    built = (_get(0) + b"b0") * 20_000
    return state + kind + places + b"2" * 20_000 + built


def _deep():
    return b"(" * 300_000 + b"l" * 300_000


def _long_number():
    return b"\x8b" + (2**24).to_bytes(4, "little") + b"\xff" * 2**24


def _text_number():
    return (
        b"L"
        + b"9" * 4000
        + b"L\n0"
        + (b"I" + b"9" * 4090 + b"\n0") * 500
        + b"N"
    )


def _large_keys():
    """Numbers are hashed at each use as a key."""
    number = b"\x8b" + (10**6).to_bytes(4, "little") + b"\x7f" * 10**6
    return number + _put(0) + b"}" + (_get(0) + b"Ns") * 100_000


def _printed_bomb():
    """What a message shows must not unfold."""
    return b"]" + b"2\x86" * 60


def _many_marks():
    return b"(" * 1_000_000 + b"1" * 1_000_000 + b"N"


def _repeated_call():
    ordered = b"ccollections\nOrderedDict\n" + _put(0)
    pairs = plain([(str(n), n) for n in range(1000)]) + b"\x85" + _put(1)
    return ordered + pairs + (_get(0) + _get(1) + b"R0") * 100_000 + b"N"


SLOW = {
    _hash_bomb: None,
    _state_bomb: "many times its own size",
    _memo_bomb: None,
    _deep: None,
    _long_number: "A number of it has 16777216 bytes",
    _text_number: None,
    _large_keys: "A number of it has 1000000 bytes",
    _printed_bomb: None,
    _many_marks: None,
    _repeated_call: "many times its own size",
}


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("make", SLOW, ids=lambda make: make.__name__)
def test_a_file_that_would_take_long_or_much_memory_does_not(make, tmp_path):
    path = tmp_path / "file.pkl"
    data = torch_files.pickled(make())
    before = _peak()
    path.write_bytes(data)
    with no_code.no_code(seconds=10):
        if SLOW[make]:
            with pytest.raises(ValueError, match=SLOW[make]):
                torch_file.read(path)
        else:
            torch_file.read(path)
    assert _peak() - before < 400e6


@pytest.mark.parametrize("index", range(1, 5))
def test_each_pickle_of_an_old_file_may_be_a_bomb(index, tmp_path):
    values = [torch_files.MAGIC, 1001, {"little_endian": True}, {}, []]
    pickles = [pickle.dumps(value, 2) for value in values]
    pickles[index] = torch_files.pickled(_printed_bomb())
    path = tmp_path / "file.pth"
    path.write_bytes(b"".join(pickles))
    with no_code.no_code(seconds=10):
        try:
            torch_file.read(path)
        except ValueError as error:
            assert len(str(error)) < 1000


def test_long_keys_do_not_unfold(tmp_path):
    """Each name is the path of its keys: these would be 10 GB of them."""
    values = {f"k{n}": 1 for n in range(10_000)}
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"x" * 1_000_000: values}))
    before = _peak()
    with no_code.no_code(seconds=10):
        with pytest.raises(ValueError, match="must hold a ResNet"):
            weight_files.read(path)
    assert _peak() - before < 400e6
