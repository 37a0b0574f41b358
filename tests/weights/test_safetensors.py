"""safetensors: what the package writes, and headers that lie."""

import json
import pickle
import resource
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as safetensors_numpy

from moco_tf.weights import (
    exporting,
    importing,
    pickle_reader,
    safetensors_file,
    weight_files,
)
from tests import properties, shallow
from tests.weights import no_code, small_weights, torch_files

_network = shallow.fixture((1, 1, 1, 1))
DTYPES = """float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16
    uint8 bool complex64""".split()


@pytest.fixture(name="tensors", scope="module")
def _tensors():
    named = small_weights.tensors()
    return {n: v for n, v in named.items() if not n.startswith("fc.")}


def _file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    return struct.pack("<Q", length) + text + data


def _entry(dtype="F32", shape=(2,), places=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(places)}


def _read(path, data):
    path.write_bytes(data)
    with open(path, "rb") as file:
        return safetensors_file.read(path, memoryview(file.read()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_that_the_package_writes_is_read(dtype, tmp_path):
    values = {
        "x": np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype),
        "empty": np.zeros((0, 3), dtype),
        "single": np.array(1).astype(dtype),
    }
    loaded = _read(tmp_path / "a.safetensors", safetensors_numpy.save(values))
    assert set(loaded) == set(values)
    for name, value in values.items():
        assert loaded[name].dtype == value.dtype
        assert loaded[name].shape == value.shape
        np.testing.assert_array_equal(loaded[name], value)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
    ],
)
def test_floats_that_numpy_has_not_are_read(kind, dtype, tmp_path):
    value = np.array([1, -2.5], dtype)
    data = value.tobytes()
    header = {"x": _entry(kind, (2,), (0, len(data)))}
    loaded = _read(tmp_path / "a.safetensors", _file(header, data))["x"]
    assert loaded.dtype == value.dtype
    np.testing.assert_array_equal(loaded.astype(np.float32), [1, -2.5])


def test_types_without_a_meaning_here_are_inert(tmp_path):
    header = {"x": _entry("F8_E8M0", (2,), (0, 2))}
    loaded = _read(tmp_path / "a.safetensors", _file(header, b"ab"))["x"]
    assert isinstance(loaded, pickle_reader.Inert)
    assert loaded.kind == "a tensor of F8_E8M0"


@pytest.mark.parametrize("name", ["model.safetensors", "renamed.pth"])
def test_an_encoder_in_safetensors_is_imported(name, tensors, tmp_path):
    path = tmp_path / name
    prefixed = {f"resnet.{n}": v for n, v in tensors.items()}
    path.write_bytes(safetensors_numpy.save(prefixed, {"format": "pt"}))
    file = weight_files.read(path)
    read = file.query | file.counts["query"]
    small_weights.assert_same_tensors({n: read[n] for n in tensors}, tensors)


def test_export_and_import_give_the_same_tensors(tensors, tmp_path, capsys):
    source = torch_files.write(tmp_path / "in.pth", "zip", **tensors)
    fields = small_weights.FIELDS
    importing.import_weights(source, tmp_path / "run", overrides=fields)
    paths = [tmp_path / f"out{n}.safetensors" for n in range(2)]
    for path in paths:
        exporting.export_weights(
            tmp_path / "run", "latest", path, "torchvision"
        )
    written = safetensors_numpy.load_file(paths[0])
    small_weights.assert_same_tensors({n: written[n] for n in tensors}, tensors)
    assert set(written) == set(tensors)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    capsys.readouterr()


def test_a_queue_goes_through_safetensors(tmp_path, capsys):
    state = small_weights.state_dict()
    source = small_weights.write_moco(tmp_path / "m.pth.tar", state)
    fields = small_weights.FIELDS
    importing.import_weights(source, tmp_path / "one", overrides=fields)
    path = tmp_path / "out.safetensors"
    exporting.export_weights(tmp_path / "one", "latest", path, "moco")
    assert "without the epoch and the optimiser's" in capsys.readouterr().out
    written = safetensors_numpy.load_file(path)
    small_weights.assert_same_tensors({n: written[n] for n in state}, state)
    assert weight_files.read(path).can_resume
    with pytest.raises(ValueError, match="ends in .pkl"):
        exporting.export_weights(
            tmp_path / "one", "latest", tmp_path / "d.safetensors", "detectron2"
        )


def _nested(depth):
    return b'{"x":' * depth + b"1" + b"}" * depth


LIES = {
    "cut": (b"\x10\0\0", "cut off or damaged"),
    "length": (_file({}, length=2**63), "header has 9223372036854775808"),
    "longer than the file": (_file({}, length=3), "cut off or damaged"),
    "large header": (
        _file(b'{"a":' + b" " * (9 * 2**20) + b"1}"),
        "must have up to 8388608 bytes",
    ),
    "no JSON": (_file(b'{"a": nonsense}'), "is no JSON"),
    "no text": (_file(b'{"\xff": 1}'), "is no JSON"),
    "deep": (_file(_nested(100_000)), "is no JSON"),
    "deep lists": (_file(b'{"a":' + b"[" * 10**6), "is no JSON"),
    "long number": (_file(b'{"a": ' + b"9" * 10**6 + b"}"), "is no JSON"),
    "no object": (_file(b'{ "a'), "is no JSON"),
    "list": (_file(b'[{"a": 1}]'), "must be a JSON object"),
    "twice": (
        _file(b'{"x": %b, "x": %b}' % ((json.dumps(_entry()).encode(),) * 2)),
        "names something twice",
    ),
    "field twice": (
        _file(b'{"x": {"dtype": "F32", "dtype": "F32"}}'),
        "names something twice",
    ),
    "no entry": (_file({"x": 3}), "must have data_offsets, dtype, shape"),
    "more fields": (_file({"x": _entry() | {"a": 1}}), "must have data_off"),
    "unknown type": (_file({"x": _entry("F31")}, bytes(8)), "unknown type"),
    "type of no text": (
        _file({"x": _entry(["F32"])}, bytes(8)),
        "unknown type",
    ),
    "negative size": (_file({"x": _entry(shape=(-2,))}, bytes(8)), "sizes"),
    "size of true": (_file({"x": _entry(shape=(True, 2))}, bytes(8)), "sizes"),
    "fraction": (_file({"x": _entry(shape=(2.0,))}, bytes(8)), "sizes"),
    "many sizes": (_file({"x": _entry(shape=(1,) * 99)}, bytes(4)), "sizes"),
    "huge size": (
        _file({"x": _entry(shape=(2**62, 2**62))}, bytes(8)),
        "needs .* bytes. Received 8",
    ),
    "overflow": (
        _file({"x": _entry(shape=(2**32, 2**32, 4))}, bytes(8)),
        "needs .* bytes. Received 8",
    ),
    "wrong size": (_file({"x": _entry(shape=(3,))}, bytes(8)), "needs 12 byt"),
    "backwards": (_file({"x": _entry(places=(8, 0))}, bytes(8)), "an end"),
    "negative place": (
        _file({"x": _entry(places=(-8, 0))}, bytes(8)),
        "an end",
    ),
    "three places": (
        _file({"x": _entry(places=(0, 8, 8))}, bytes(8)),
        "an end",
    ),
    "past the end": (_file({"x": _entry()}, bytes(4)), "8 bytes, and 4 follow"),
    "bytes behind": (_file({"x": _entry()}, bytes(12)), "and 12 follow"),
    "hole": (
        _file({"x": _entry(), "y": _entry(places=(16, 24))}, bytes(24)),
        "begins at 16, after 8",
    ),
    "overlap": (
        _file({"x": _entry(), "y": _entry(places=(4, 12))}, bytes(12)),
        "begins at 4, after 8",
    ),
    "same place": (
        _file({"x": _entry(), "y": _entry()}, bytes(8)),
        "begins at 0, after 8",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(lie, tmp_path):
    data, message = LIES[lie]
    path = tmp_path / "a.safetensors"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with no_code.no_code(seconds=5):
        with pytest.raises(pickle_reader.Unreadable, match=message):
            _read(path, data)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < 200e6


VALID = safetensors_numpy.save(
    {"x": np.arange(6, dtype=np.float32), "y": np.ones((2, 2), np.int64)}
)


@properties.few
@given(data=st.data())
def test_any_flipped_bits_are_read_or_refused(tmp_path_factory, data):
    damaged = bytearray(VALID)
    last = 8 * len(damaged) - 1
    for bit in data.draw(st.sets(st.integers(0, last), max_size=6)):
        damaged[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.getbasetemp() / "a.safetensors"
    with no_code.no_code():
        try:
            values = _read(path, bytes(damaged)).values()
        except pickle_reader.Unreadable:
            return
    kinds = (np.ndarray, pickle_reader.Inert)
    assert all(isinstance(value, kinds) for value in values)


def test_a_pickle_named_safetensors_is_read_as_what_it_is(tensors, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(tensors))
    assert weight_files.read(path).chosen.missing == 0


def test_a_lie_names_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(LIES["hole"][0])
    with pytest.raises(ValueError, match="a.safetensors cannot be read as"):
        weight_files.read(path)
