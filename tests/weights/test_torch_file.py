"""Reads every layout of torch; refuses damaged and lying files."""

import collections
import io
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from moco_tf.weights import pickle_reader, torch_file
from tests.weights import torch_files

TENSORS = ("zip", "legacy", "tar")


def _read(tmp_path, data):
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    return torch_file.read(path)


def _weights():
    rng = np.random.default_rng(0)
    return {
        "conv": rng.standard_normal((2, 3, 1, 1), dtype=np.float32),
        "linear": rng.standard_normal((4, 5), dtype=np.float32),
        "count": np.array(7),
    }


@pytest.mark.parametrize("layout", TENSORS)
def test_tensors_numbers_and_text_come_back(layout, tmp_path):
    weights = _weights()
    path = torch_files.write(
        tmp_path / "file.pth", layout, **weights, epoch=200, arch="resnet50"
    )
    loaded = torch_file.read(path)
    assert loaded["epoch"] == 200 and loaded["arch"] == "resnet50"
    assert list(loaded) == [*weights, "epoch", "arch"]
    for name, value in weights.items():
        assert loaded[name].dtype == value.dtype
        np.testing.assert_array_equal(loaded[name], value)


@pytest.mark.parametrize("layout", TENSORS)
@pytest.mark.parametrize(
    "dtype",
    ["float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"],
)
def test_every_type_of_element_is_read(layout, dtype, tmp_path):
    value = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    loaded = torch_file.read(
        torch_files.write(tmp_path / "file.pth", layout, x=value)
    )["x"]
    assert loaded.dtype == value.dtype
    np.testing.assert_array_equal(loaded, value)


@pytest.mark.parametrize("layout", TENSORS)
def test_bfloat16_becomes_float32_without_loss(layout, tmp_path):
    # 1.0, -2.5 and the smallest normal number, by their upper 16 bits.
    bits = np.array([0x3F80, 0xC020, 0x0080], np.uint16)
    file = torch_files.File(layout)
    opcodes = b"}" + torch_files.plain("x") + file.tensor(bits, "bfloat16")
    loaded = _read(tmp_path, file.bytes(opcodes + b"s"))["x"]
    assert loaded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(
        loaded.astype(np.float32), np.array([1.0, -2.5, 2.0**-126], np.float32)
    )


@pytest.mark.parametrize("layout", TENSORS)
def test_offsets_and_strides_are_honoured(layout, tmp_path):
    file = torch_files.File(layout)
    storage = file.storage(np.arange(12, dtype=np.float32))
    opcodes = (
        b"}("
        + torch_files.plain("transposed")
        + file.view(storage, 2, (2, 3), (1, 2))
        + torch_files.plain("empty")
        + file.view(storage, 0, (0, 3), (3, 1))
        + b"u"
    )
    loaded = _read(tmp_path, file.bytes(opcodes))
    np.testing.assert_array_equal(loaded["transposed"], [[2, 4, 6], [3, 5, 7]])
    assert loaded["empty"].shape == (0, 3)


def test_big_endian_storages_of_an_archive_are_turned(tmp_path):
    value = np.array([1.5, -3.0], ">f4")
    file = torch_files.File("zip")
    opcodes = b"}" + torch_files.plain("x") + file.tensor(value, "float32")
    loaded = _read(tmp_path, file.bytes(opcodes + b"s", byteorder=b"big"))
    np.testing.assert_array_equal(loaded["x"], [1.5, -3.0])


def test_old_files_are_little_endian_whatever_machine_wrote_them(tmp_path):
    file = torch_files.File("legacy")
    opcodes = file.dict(x=np.array([1.5, -3.0], np.float32))
    loaded = _read(tmp_path, file.bytes(opcodes, little_endian=False))
    np.testing.assert_array_equal(loaded["x"], [1.5, -3.0])


def test_a_state_dict_with_notes_and_parameters_is_read(tmp_path):
    file = torch_files.File("zip")
    opcodes = (
        b"ccollections\nOrderedDict\n)R"
        + torch_files.plain("w")
        + b"ctorch._utils\n_rebuild_parameter\n("
        + file.tensor(np.ones(3, np.float32))
        + torch_files.plain(True)
        + b"ccollections\nOrderedDict\n)RtRs"
        + torch_files.plain({"_metadata": {"": {"version": 2}}})
        + b"b"
    )
    loaded = _read(tmp_path, file.bytes(opcodes))
    assert type(loaded) is collections.OrderedDict
    np.testing.assert_array_equal(loaded["w"], [1, 1, 1])
    assert not vars(loaded)


def test_a_part_of_an_old_storage_is_read(tmp_path):
    file = torch_files.File("legacy")
    storage = file.storage(np.arange(6, dtype=np.float32))
    opcodes = file.view(storage, 0, (2,), (1,))
    # The last entry of the id: (key, start, length) in place of None.
    before = torch_files.plain("cuda:0") + torch_files.plain(6)
    assert before + b"N" in opcodes
    opcodes = opcodes.replace(
        before + b"N", before + torch_files.plain(("v", 3, 2))
    )
    np.testing.assert_array_equal(_read(tmp_path, file.bytes(opcodes)), [3, 4])


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_are_read_in_every_protocol(protocol, tmp_path):
    value = {
        "model": {
            "a": np.arange(6, dtype=np.float32).reshape(2, 3),
            "columns": np.asfortranarray(np.ones((2, 3))),
            "count": np.array(3),
            "large": np.random.default_rng(0).normal(size=(99, 99)),
        },
        "scalar": np.float32(0.5),
        "plain": [1, -(2**70), 1.5, None, True, False, b"ab", "\u00e9", (1,)],
        "set": {1, 2},
    }
    loaded = _read(tmp_path, pickle.dumps(value, protocol))
    for name, array in value["model"].items():
        assert loaded["model"][name].dtype == array.dtype
        np.testing.assert_array_equal(loaded["model"][name], array)
    assert loaded["scalar"] == 0.5
    assert loaded["plain"] == value["plain"]
    assert [type(v) for v in loaded["plain"]] == [
        type(v) for v in value["plain"]
    ]
    assert loaded["set"] == {1, 2}


def test_arrays_are_read_under_both_names_of_numpys_core(tmp_path):
    data = pickle.dumps({"a": np.arange(3)}, 2)
    old, new = b"cnumpy.core.multiarray", b"cnumpy._core.multiarray"
    assert old in data or new in data  # NumPy 2 writes the new one
    for spelled in (data.replace(new, old), data.replace(old, new)):
        np.testing.assert_array_equal(_read(tmp_path, spelled)["a"], [0, 1, 2])


@pytest.mark.parametrize("layout", torch_files.LAYOUTS)
def test_a_file_that_is_cut_off_is_refused_at_any_length(layout, tmp_path):
    file = torch_files.File(layout)
    values = _weights() if layout != "pickle" else {"epoch": 200, "a": "b" * 90}
    data = file.bytes(file.dict(**values))
    if layout == "tar":
        data = data.rstrip(b"\0")  # the archive's end says nothing
    for length in range(0, len(data), max(1, len(data) // 150)):
        with pytest.raises(ValueError, match="cannot be read"):
            _read(tmp_path, data[:length])


@pytest.mark.parametrize("layout", ["zip", "legacy", "tar"])
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (13,), (1,)),
        (1, (3, 4), (4, 1)),
        (0, (2, 2), (12, 1)),
        (12, (1,), (1,)),
        (2**62, (1,), (1,)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (10**9,), (0,)),
    ],
)
def test_a_tensor_past_its_storage_is_refused(
    layout, offset, size, stride, tmp_path
):
    file = torch_files.File(layout)
    storage = file.storage(np.zeros(12, np.float32))
    data = file.bytes(file.view(storage, offset, size, stride))
    with pytest.raises(ValueError, match="lie within its storage"):
        _read(tmp_path, data)


@pytest.mark.parametrize("layout", TENSORS)
def test_negative_offsets_and_strides_are_refused(layout, tmp_path):
    for offset, stride in ((-1, 1), (0, -1)):
        file = torch_files.File(layout)
        storage = file.storage(np.zeros(4, np.float32))
        with pytest.raises(ValueError, match="whole numbers of 0 or more"):
            _read(
                tmp_path,
                file.bytes(file.view(storage, offset, (2,), (stride,))),
            )


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("zip", "must hold 1152921504606846976 elements"),
        ("legacy", "must fit in the file"),
        ("tar", "cut off"),
    ],
)
def test_a_storage_shorter_than_it_claims_is_refused(layout, message, tmp_path):
    file = torch_files.File(layout)
    storage = file.storage(np.zeros(4, np.float32), claimed=2**60)
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, file.bytes(file.view(storage, 0, (4,), (1,))))


def test_a_storage_that_is_missing_is_refused_by_its_name(tmp_path):
    file = torch_files.File("zip")
    opcodes = file.tensor(np.zeros(4, np.float32))
    file.storages.clear()
    with pytest.raises(ValueError, match="Storage '0' is missing"):
        _read(tmp_path, file.bytes(opcodes))


def test_a_compressed_member_is_refused_before_it_is_unpacked(tmp_path):
    file = torch_files.File("zip")
    opcodes = file.tensor(np.zeros(10**7, np.float32))
    data = file.bytes(opcodes, method=zipfile.ZIP_DEFLATED)
    assert len(data) < 10**5
    with pytest.raises(ValueError, match="stored uncompressed.*any name/data"):
        _read(tmp_path, data)


def test_members_that_overlap_are_refused(tmp_path):
    file = torch_files.File("zip")
    opcodes = file.tensor(np.arange(100, dtype=np.float32))
    data = bytearray(file.bytes(opcodes))
    # The directory's entry of data/0 is pointed at the archive's first member.
    entry = data.rindex(b"any name/data/0") - 4
    data[entry : entry + 4] = bytes(4)
    with pytest.raises(ValueError, match="in no other member"):
        _read(tmp_path, bytes(data))


def test_a_member_longer_than_the_file_is_refused(tmp_path):
    file = torch_files.File("zip")
    data = bytearray(file.bytes(file.tensor(np.arange(9, dtype=np.float32))))
    # Both sizes in the directory, 22 bytes before the name's place.
    entry = data.rindex(b"any name/data/0") - 26
    data[entry : entry + 8] = (2**31).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match="must lie within the file"):
        _read(tmp_path, bytes(data))


def test_a_wrong_checksum_is_refused(tmp_path):
    file = torch_files.File("zip")
    value = np.full(9, 1.25, np.float32)
    data = file.bytes(file.tensor(value))
    with pytest.raises(ValueError, match="CRC"):
        _read(tmp_path, data.replace(value.tobytes(), bytes(36)))


def test_an_archive_without_its_pickle_is_refused(tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("word/document.xml", b"<a/>")
    with pytest.raises(ValueError, match="one data.pkl"):
        _read(tmp_path, data.getvalue())


def test_a_pickle_of_endless_steps_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(pickle_reader, "_MAX_OPCODES", 1000)
    with pytest.raises(ValueError, match="more than 1000 steps"):
        _read(tmp_path, torch_files.pickled(b"}0" * 600 + b"N"))


def test_a_text_that_is_encoded_again_and_again_is_refused(tmp_path):
    once = b"c_codecs\nencode\nh\x00h\x01\x86R"
    opcodes = (
        torch_files.plain("x" * 10_000)[:-2]
        + b"q\x00"
        + torch_files.plain("latin1")[:-2]
        + b"q\x01"
    )
    assert _read(tmp_path, torch_files.pickled(opcodes + once)) == b"x" * 10_000
    with pytest.raises(ValueError, match="many times its own size"):
        _read(tmp_path, torch_files.pickled(opcodes + once * 100))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing.pth cannot be read"):
        torch_file.read(tmp_path / "nothing.pth")
