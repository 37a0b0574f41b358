"""Files of weights with any bytes: tensors or a ValueError, and no code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moco_tf.weights import pickle_reader, torch_file, torch_tensors
from tests import properties
from tests.weights import no_code, torch_files

VALUES = (int, float, complex, str, bytes, bool, type(None), np.generic)
# A name that nothing follows stays what it is in the table of names.
NAMES = (
    pickle_reader.Name,
    pickle_reader.Pending,
    pickle_reader.Inert,
    torch_tensors.Storage,
)


def _assert_plain(value):
    """Numbers, text, arrays, inert names, containers; nothing else."""
    if isinstance(value, pickle_reader.Inert):
        value = value.items
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for part in value:
            _assert_plain(part)
    elif not isinstance(value, np.ndarray):
        assert isinstance(value, (*VALUES, *NAMES)), type(value)


def _read_or_refuse(path, data):
    path.write_bytes(data)
    with no_code.no_code():
        try:
            value = torch_file.read(path)
        except ValueError as error:
            assert "cannot be read as weights" in str(error)
            return
    _assert_plain(value)


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory):
    return tmp_path_factory.mktemp("weights") / "file.pth"


def _valid(layout):
    file = torch_files.File(layout)
    values = {"epoch": 200, "arch": "resnet18"}
    if layout != "pickle":
        values["weight"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    return file.bytes(file.dict(**values))


@pytest.mark.parametrize("layout", torch_files.LAYOUTS)
def test_a_damaged_file_is_to_be_copied_anew_and_then_read(layout, path):
    whole = _valid(layout)
    path.write_bytes(whole[: len(whole.rstrip(b"\0")) // 2])
    with pytest.raises(ValueError, match="Copy or download it anew"):
        torch_file.read(path)
    path.write_bytes(whole)
    assert torch_file.read(path)["epoch"] == 200


FILES = {layout: _valid(layout) for layout in torch_files.LAYOUTS}
# Parts of pickles; out of order they are nonsense, but not to every opcode.
PARTS = [
    *[bytes([code]) for code in b"0()]}2NIJKLMQRVXabcdeghijlopqrstu\x80\x81"],
    *[bytes([code]) for code in range(0x82, 0x99)],
    b"cos\nsystem\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\ndtype\n",
    *map(torch_files.plain, ("storage", "f4", 0, 7, -1, 2**40, (), (2, 3), {})),
]


@properties.few
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(path, data):
    _read_or_refuse(path, data)


@properties.few
@given(parts=st.lists(st.sampled_from(PARTS), max_size=25))
@pytest.mark.parametrize("layout", torch_files.LAYOUTS)
def test_any_opcodes_are_read_or_refused(path, layout, parts):
    data = torch_files.File(layout).bytes(b"".join(parts))
    _read_or_refuse(path, data)


@properties.few
@given(data=st.data())
@pytest.mark.parametrize("layout", torch_files.LAYOUTS)
def test_any_flipped_bits_are_read_or_refused(path, layout, data):
    damaged = bytearray(FILES[layout])
    last = 8 * len(damaged) - 1
    for bit in data.draw(st.sets(st.integers(0, last), max_size=8)):
        damaged[bit // 8] ^= 1 << bit % 8
    _read_or_refuse(path, bytes(damaged))


@pytest.mark.parametrize("layout", torch_files.LAYOUTS)
def test_the_files_that_are_damaged_here_are_valid(path, layout):
    path.write_bytes(FILES[layout])
    assert torch_file.read(path)["epoch"] == 200


def test_code_would_be_noticed():
    with pytest.raises(AssertionError):
        with no_code.no_code():
            exec("1")
