"""Every form of a tensor that torch 2.13 reads with weights_only=True.

Put together by hand here; tests/weights/test_torch_itself.py has torch write
them.
"""

import ml_dtypes
import numpy as np
import pytest

from moco_tf.weights import pickle_reader, torch_file
from tests.weights import torch_files

plain = torch_files.plain
TENSORS = ("zip", "legacy")
VALUE = np.array([1, 2, 3, 4], np.float32)


def _global(name):
    module, _, name = name.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def _call(name, *arguments):
    return _global(name) + b"(" + b"".join(arguments) + b"tR"


def _hooks():
    return _call("collections.OrderedDict")


def _read(tmp_path, file, opcodes, **options):
    path = tmp_path / "file.pth"
    path.write_bytes(file.bytes(b"}" + plain("x") + opcodes + b"s", **options))
    return torch_file.read(path)["x"]


def _storage(file, array, kind):
    """Opcodes of a storage alone, of a class by its name."""
    count = array.nbytes if kind.endswith("UntypedStorage") else array.size
    number = file.storage(array, "uint8", claimed=count)
    rest = plain(None) if file.layout == "legacy" else b""
    return (
        b"(" + plain("storage") + _global(kind) + plain(str(number))
        + plain("cpu") + plain(count) + rest + b"tQ"
    )  # fmt: skip


def _view(size, *, offset=0, stride=(1,)):
    return plain(offset) + plain(size) + plain(stride)


@pytest.mark.parametrize("layout", TENSORS)
@pytest.mark.parametrize(
    "form",
    [
        lambda t: _call(
            "torch._utils._rebuild_parameter", t, b"\x88", _hooks()
        ),
        lambda t: _call(
            "torch._utils._rebuild_parameter_with_state",
            t, b"\x88", _hooks(), plain({"extra": 3}),
        ),
        lambda t: _call("torch.nn.parameter.Parameter", t, b"\x88"),
        lambda t: _global("torch.nn.parameter.Parameter")
        + b"(" + t + b"\x88t\x81",
        lambda t: _call(
            "torch._tensor._rebuild_from_type_v2",
            _global("torch._utils._rebuild_parameter"),
            _global("torch.nn.parameter.Buffer"),
            b"(" + t + b"\x88" + _hooks() + b"t",
            plain({"persistent": True}),
        ),
        lambda t: _call(
            "torch._utils._rebuild_device_tensor_from_cpu_tensor",
            t, _global("torch.float32"), plain("xla:0"), b"\x89",
        ),
        lambda t: _call(
            "torch._utils._rebuild_xla_tensor",
            t, _global("torch.float32"), plain("xla:0"), b"\x89",
        ),
    ],
    ids=range(7),
)  # fmt: skip
def test_a_tensor_in_a_wrapper_is_the_tensor(form, layout, tmp_path):
    file = torch_files.File(layout)
    loaded = _read(tmp_path, file, form(file.tensor(VALUE)))
    np.testing.assert_array_equal(loaded, VALUE)


@pytest.mark.parametrize("layout", TENSORS)
@pytest.mark.parametrize("name", ["FloatTensor", "Tensor", "cuda.FloatTensor"])
def test_a_tensor_of_old_that_gets_its_state_is_read(name, layout, tmp_path):
    file = torch_files.File(layout)
    storage = _storage(file, VALUE, "torch.FloatStorage")
    state = b"(" + storage + _view((2,), offset=1, stride=(2,)) + b"t"
    opcodes = _call(f"torch.{name}") + state + b"b"
    np.testing.assert_array_equal(_read(tmp_path, file, opcodes), [2, 4])


def _typed(file, array, kind, *, offset=0, size=None):
    untyped = _storage(file, array, "torch.storage.UntypedStorage")
    return _call(
        "torch._utils._rebuild_tensor_v3",
        untyped,
        _view(size or array.shape, offset=offset),
        b"\x89",
        _hooks(),
        _global(f"torch.{kind}"),
    )


@pytest.mark.parametrize("layout", TENSORS)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("uint16", np.uint16),
        ("uint32", np.uint32),
        ("uint64", np.uint64),
        ("float32", np.float32),
        ("bfloat16", ml_dtypes.bfloat16),
        ("float8_e4m3fn", ml_dtypes.float8_e4m3fn),
        ("float8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz),
        ("float8_e5m2", ml_dtypes.float8_e5m2),
        ("float8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz),
    ],
)
def test_a_storage_of_bytes_has_its_type_from_the_tensor(
    kind, dtype, layout, tmp_path
):
    file = torch_files.File(layout)
    value = np.array([1, 2, 3, 4]).astype(dtype)
    loaded = _read(
        tmp_path, file, _typed(file, value, kind, offset=1, size=(2,))
    )
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded.astype(np.float32), [2, 3])


@pytest.mark.parametrize("dtype", ["float32", "int64", "complex64", "float16"])
def test_typed_storages_of_a_big_endian_machine_are_turned(dtype, tmp_path):
    value = np.array([1, -2, 300]).astype(dtype)
    theirs = value.astype(value.dtype.newbyteorder(">"))
    file = torch_files.File("zip")
    names = {"complex64": "ComplexFloatStorage"}
    kind = names.get(dtype) or torch_files.STORAGES[dtype]
    storage = _storage(file, theirs, f"torch.{kind}")
    opcodes = _call(
        "torch._utils._rebuild_tensor_v2",
        storage, _view((3,)), b"\x89", _hooks(),
    )  # fmt: skip
    loaded = _read(tmp_path, file, opcodes, byteorder=b"big")
    np.testing.assert_array_equal(loaded, value)


def test_untyped_storages_of_a_big_endian_machine_are_turned(tmp_path):
    value = np.array([1, 2, 300], ">u2")
    file = torch_files.File("zip")
    opcodes = _typed(file, value, "uint16")
    loaded = _read(tmp_path, file, opcodes, byteorder=b"big")
    np.testing.assert_array_equal(loaded, [1, 2, 300])


@pytest.mark.parametrize("layout", TENSORS)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("ComplexFloatStorage", "complex64"),
        ("ComplexDoubleStorage", "complex128"),
    ],
)
def test_complex_tensors_are_read(kind, dtype, layout, tmp_path):
    value = np.array([1 + 2j, -3j], dtype)
    file = torch_files.File(layout)
    opcodes = _call(
        "torch._utils._rebuild_tensor_v2",
        _storage(file, value, f"torch.{kind}"),
        _view((2,)), b"\x89", _hooks(),
    )  # fmt: skip
    np.testing.assert_array_equal(_read(tmp_path, file, opcodes), value)


@pytest.mark.parametrize("layout", ["zip", "legacy", "tar"])
def test_a_tensor_may_repeat_its_elements(layout, tmp_path):
    file = torch_files.File(layout)
    storage = file.storage(VALUE)
    opcodes = file.view(storage, 1, (3, 2), (0, 1))
    np.testing.assert_array_equal(
        _read(tmp_path, file, opcodes), [[2, 3], [2, 3], [2, 3]]
    )


def test_a_storage_may_be_named_by_two_types(tmp_path):
    file = torch_files.File("zip")
    bits = _storage(file, VALUE, "torch.storage.UntypedStorage")
    number = plain(str(len(file.storages) - 1))
    floats = bits.replace(
        _global("torch.storage.UntypedStorage"), _global("torch.FloatStorage")
    ).replace(plain(16), plain(4))
    assert number in floats
    tensors = [
        _call("torch._utils._rebuild_tensor_v2", storage, _view(size), b"\x89",
              _hooks())
        for storage, size in ((bits, (16,)), (floats, (4,)))
    ]  # fmt: skip
    loaded = _read(tmp_path, file, b"(" + b"".join(tensors) + b"t")
    assert loaded[0].tobytes() == VALUE.tobytes()
    np.testing.assert_array_equal(loaded[1], VALUE)


def _marked(mark):
    return lambda file: _call(
        "torch._utils._rebuild_tensor_v2",
        _storage(file, VALUE, "torch.FloatStorage"),
        _view((4,)), b"\x89", _hooks(), plain({mark: True}),
    )  # fmt: skip


def _quantised(file):
    return _call(
        "torch._utils._rebuild_qtensor",
        _storage(file, VALUE.astype(np.int8), "torch.QInt8Storage"),
        _view((4,)),
        b"(" + _global("torch.per_tensor_affine") + plain(0.1) + plain(0),
        b"t",
        b"\x89", _hooks(),
    )  # fmt: skip


ODD = {
    "neg": (_marked("neg"), "a tensor with the mark neg"),
    "conj": (_marked("conj"), "a tensor with the mark conj"),
    "quantised": (_quantised, "a quantised tensor"),
    "sparse": (
        lambda file: _call(
            "torch._utils._rebuild_sparse_tensor",
            _call("torch.serialization._get_layout", plain("torch.sparse_coo")),
            b"(" + file.tensor(np.zeros((1, 4), np.int64)) + file.tensor(VALUE)
            + plain((4,)) + b"t",
        ),
        "a sparse tensor",
    ),
    "meta": (
        lambda file: _call(
            "torch._utils._rebuild_meta_tensor_no_storage",
            _global("torch.float32"), plain((2,)), plain((1,)), b"\x89",
        ),
        "a tensor without values, of the device meta",
    ),
    "nested": (
        lambda file: _call("torch._utils._rebuild_nested_tensor", b"NNNN"),
        "a nested tensor",
    ),
    "DTensor": (
        lambda file: _call(
            "torch._tensor._rebuild_from_type_v2",
            _global("torch._utils._rebuild_wrapper_subclass"),
            _global("torch.distributed.tensor.DTensor"),
            b"(" + _global("torch.distributed.tensor.DTensor") + b"t", b"}",
        ),
        "a tensor of torch.distributed.tensor.DTensor",
    ),
    **{
        kind: (
            lambda file, kind=kind: _typed(file, VALUE, kind),
            f"a tensor of torch.{kind}",
        )
        for kind in ("complex32", "float8_e8m0fnu", "float4_e2m1fn_x2", "bits8")
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", TENSORS)
@pytest.mark.parametrize("name", ODD)
def test_tensors_that_are_no_arrays_say_what_they_are(name, layout, tmp_path):
    make, kind = ODD[name]
    file = torch_files.File(layout)
    loaded = _read(tmp_path, file, make(file))
    assert isinstance(loaded, pickle_reader.Inert)
    assert loaded.kind == kind


@pytest.mark.parametrize(
    "opcodes",
    [
        lambda s: _call("torch._utils._rebuild_tensor_v3", s, _view((9,)),
                        b"\x89", _hooks(), _global("torch.float32")),
        lambda s: _call("torch._utils._rebuild_tensor_v3", s,
                        _view((2,), offset=3), b"\x89", _hooks(),
                        _global("torch.float32")),
        lambda s: _call("torch._utils._rebuild_tensor_v3", s, _view((2**40,),
                        stride=(0,)), b"\x89", _hooks(),
                        _global("torch.uint8")),
        lambda s: _call("torch._utils._rebuild_tensor_v3", plain(3),
                        _view((1,)), b"\x89", _hooks(),
                        _global("torch.float32")),
        lambda s: _call("torch.FloatTensor") + b"(" + s + b"tb",
        lambda s: _call("torch._utils._rebuild_parameter", s),
    ],
    ids=range(6),
)  # fmt: skip
@pytest.mark.parametrize("layout", TENSORS)
def test_a_form_that_lies_is_refused(opcodes, layout, tmp_path):
    file = torch_files.File(layout)
    storage = _storage(file, VALUE, "torch.storage.UntypedStorage")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        _read(tmp_path, file, opcodes(storage))
