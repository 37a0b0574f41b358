"""Files that try to run code: none does, and what each asks for is named."""

import collections
import contextlib
import copyreg
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from moco_tf.weights import torch_file
from tests.weights import torch_files

plain = torch_files.plain


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _opcodes(value, protocol):
    """The opcodes of a value, as Python's own pickle writes it."""
    data = pickle.dumps(value, protocol)
    if protocol >= 4:
        return data[11:-1]  # behind the protocol and the frame's length
    return data[2:-1] if protocol >= 2 else data[:-1]


def _system(marker):
    return _opcodes(_Call(os.system, f"touch {marker}"), 2)


def _eval(marker):
    text = f"open({str(marker)!r}, 'w').close()"
    return _opcodes(_Call(eval, text), 0)


def _exec(marker):
    text = f"open({str(marker)!r}, 'w').close()"
    return _opcodes(_Call(exec, text), 4)


def _getattr_chain(marker):
    return (
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n("
        + plain("posix")
        + b"tR"
        + plain("system")
        + b"tR("
        + plain(f"touch {marker}")
        + b"tR"
    )


def _dotted_name(marker):
    del marker
    return plain("collections") + plain("OrderedDict.fromkeys") + b"\x93)R"


def _object_array(marker):
    array = np.empty(1, object)
    array[0] = _Call(os.system, f"touch {marker}")
    # NumPy makes the array before it makes its items: dtype comes first.
    return _opcodes(array, 2)


def _object_scalar(marker):
    return (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n("
        + plain("O8")
        + plain(False)
        + plain(True)
        + b"tR"
        + _system(marker)
        + b"tR"
    )


def _torch_hub(marker):
    return (
        b"ctorch.hub\nload\n(" + plain("a/b") + plain("c") + b"tR0"
    ) + _system(marker)


def _built_state(marker):
    # An attribute that Python's unpickler calls at the next BUILD.
    return (
        b"ccollections\nOrderedDict\n)R}"
        + plain("__setstate__")
        + b"cposix\nsystem\nsb"
        + plain(f"touch {marker}")
        + b"b"
    )


def _built_instance(marker):
    return (
        b"ccollections\nOrderedDict\n)R(N}"
        + plain("items")
        + plain(f"touch {marker}")
        + b"stb"
    )


def _persistent_call(marker):
    return b"(" + plain("storage") + _system(marker) + b"tQ"


def _persistent_module(marker):
    del marker
    return (
        b"("
        + plain("module")
        + b"ccollections\nOrderedDict\n"
        + plain("file.py")
        + plain("import os")
        + plain(1)
        + b"tQ"
    )


def _instance(marker):
    return f"(S'touch {marker}'\niposix\nsystem\n".encode()


def _object(marker):
    return b"(cposix\nsystem\n" + plain(f"touch {marker}") + b"o"


def _new_object(marker):
    return b"csubprocess\nPopen\n(" + plain(["touch", str(marker)]) + b"t\x81"


def _extension(marker):
    return b"\x82\xf0" + plain(f"touch {marker}") + b"\x85R"


def _nested(marker):
    inner = torch_files.pickled(_system(marker))
    return _opcodes(_Call(pickle.loads, inner), 4)


def _codec(marker):
    del marker
    return b"c_codecs\nencode\n(" + plain("x") + plain("rot13") + b"tR"


def _called_value(marker):
    del marker
    return plain("text") + b")R"


FILES = {
    _system: "posix.system",
    _eval: "__builtin__.eval",
    _exec: "builtins.exec",
    _getattr_chain: "builtins.__import__",
    _dotted_name: "collections.OrderedDict.fromkeys",
    _object_array: "posix.system",
    _object_scalar: "posix.system",
    _torch_hub: "torch.hub.load",
    _built_state: "posix.system",
    _built_instance: "attributes of a OrderedDict",
    _persistent_call: "posix.system",
    _persistent_module: "of module|from outside|does not hold",
    _instance: "posix.system",
    _object: "posix.system",
    _new_object: "subprocess.Popen",
    _extension: "extension 240 of the pickle registry",
    _nested: "_pickle.loads",
    _codec: "_codecs.encode",
    _called_value: "a call of a str",
}
# What Python's own unpickler runs: the files are no dummies.
REAL = (
    _system,
    _eval,
    _exec,
    _object_array,
    _built_state,
    _persistent_call,
    _instance,
    _object,
    _getattr_chain,
    _extension,
    _nested,
)


@pytest.fixture(autouse=True)
def registry():
    name = ("subprocess", "getoutput")
    copyreg.add_extension(*name, 240)
    yield
    copyreg.remove_extension(*name, 240)
    copyreg.clear_extension_cache()


@pytest.mark.parametrize("layout", torch_files.LAYOUTS)
@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_a_file_that_calls_runs_nothing(make, layout, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "file.pth"
    path.write_bytes(torch_files.File(layout).bytes(make(marker)))
    with pytest.raises(ValueError, match="asks for|one object of") as caught:
        torch_file.read(path)
    assert any(name in str(caught.value) for name in FILES[make].split("|"))
    assert str(path) in str(caught.value)
    assert not marker.exists()


class _Trusting(pickle.Unpickler):
    def persistent_load(self, identity):
        return collections.OrderedDict()


@pytest.mark.parametrize("make", REAL, ids=lambda make: make.__name__)
def test_the_same_file_runs_code_in_pythons_unpickler(make, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "file.pkl"
    path.write_bytes(torch_files.pickled(make(marker)))
    with open(path, "rb") as file:
        # Some fail after the call, at what it returned.
        with contextlib.suppress(TypeError, pickle.UnpicklingError):
            _Trusting(file).load()
    assert marker.exists()


def test_an_extension_that_python_has_cached_is_refused(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "file.pkl"
    data = torch_files.pickled(_extension(marker))
    pickle.loads(data)
    assert marker.exists()
    marker.unlink()
    path.write_bytes(data)
    with pytest.raises(ValueError, match="extension 240"):
        torch_file.read(path)
    assert not marker.exists()


@pytest.mark.parametrize("part", ["storages", "tensors", "pickle"])
def test_every_part_of_a_tar_is_read_alike(part, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "file.pth"
    parts = {
        "storages": pickle.dumps(0, 2) + pickle.dumps([], 2),
        "tensors": pickle.dumps(0, 2),
        "pickle": pickle.dumps({}, 2),
    }
    parts[part] = torch_files.pickled(_system(marker))
    with tarfile.open(path, "w") as archive:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match="posix.system"):
        torch_file.read(path)
    assert not marker.exists()


@pytest.mark.parametrize("index", range(5))
def test_every_pickle_of_an_old_file_is_read_alike(index, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "file.pth"
    values = [torch_files.MAGIC, 1001, {"little_endian": True}, {}, []]
    pickles = [pickle.dumps(value, 2) for value in values]
    pickles[index] = torch_files.pickled(_system(marker))
    path.write_bytes(b"".join(pickles))
    with pytest.raises(ValueError, match="posix.system"):
        torch_file.read(path)
    assert not marker.exists()


def test_an_object_alone_is_no_weights(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(torch_files.pickled(b"cargparse\nNamespace\n)\x81}b"))
    with pytest.raises(
        ValueError, match=r"one object of argparse.Namespace.*state_dict\(\)"
    ):
        torch_file.read(path)


def test_a_known_class_is_made_by_either_opcode(tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(torch_files.pickled(b"ccollections\nOrderedDict\n)\x81"))
    assert torch_file.read(path) == {}
