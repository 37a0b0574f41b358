"""Files in torch's three layouts, put together by hand.

Nothing here comes from the product: values go through Python's own pickle,
tensors are opcodes, archives are zipfile's and tarfile's.
"""

import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
LAYOUTS = ("zip", "legacy", "tar", "pickle")
STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def plain(value):
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def pickled(opcodes):
    """A pickle of opcodes."""
    return b"\x80\x02" + opcodes + b"."


class Opcodes(bytes):
    """What pushes a value, written by hand."""


class File:
    """Collects storages, and gives the opcodes of tensors on them."""

    def __init__(self, layout):
        self.layout = layout
        self.storages = []  # (dtype name, raw bytes, number of elements)
        self.tensors = []  # (storage, offset, size, stride), of a tar

    def storage(self, array, kind=None, claimed=None):
        """Adds a storage; returns its number."""
        count = array.size if claimed is None else claimed
        kind = kind or array.dtype.name
        self.storages.append((kind, array.tobytes("A"), count))
        return len(self.storages) - 1

    def view(self, storage, offset, size, stride):
        """Opcodes of a tensor on a storage."""
        if self.layout == "tar":
            self.tensors.append((storage, offset, size, stride))
            return plain(str(1000 + len(self.tensors) - 1)) + b"Q"
        kind, _, count = self.storages[storage]
        rest = plain(None) if self.layout == "legacy" else b""
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n(("
            + plain("storage")
            + f"ctorch\n{STORAGES[kind]}\n".encode()
            + plain(str(storage))
            + plain("cuda:0")
            + plain(count)
            + rest
            + b"tQ"
            + plain(offset)
            + plain(size)
            + plain(stride)
            + plain(False)
            + b"ccollections\nOrderedDict\n)RtR"
        )

    def tensor(self, array, kind=None):
        """Opcodes of an array, on a storage of its own."""
        stride = tuple(step // array.itemsize for step in array.strides)
        return self.view(self.storage(array, kind), 0, array.shape, stride)

    def dict(self, **values):
        """Opcodes of a dict of arrays, dicts, plain values and Opcodes."""
        pairs = [
            plain(name) + self.value(value) for name, value in values.items()
        ]
        return b"}(" + b"".join(pairs) + b"u"

    def value(self, value):
        if isinstance(value, np.ndarray):
            return self.tensor(value)
        if isinstance(value, Opcodes):
            return bytes(value)
        return self.dict(**value) if isinstance(value, dict) else plain(value)

    def bytes(self, opcodes, **options):
        """The file of an object."""
        write = {
            "zip": self._zip,
            "legacy": self._legacy,
            "tar": self._tar,
            "pickle": pickled,
        }[self.layout]
        return write(opcodes, **options)

    def _zip(self, opcodes, byteorder=b"little", method=zipfile.ZIP_STORED):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", method) as archive:
            archive.writestr("any name/data.pkl", pickled(opcodes))
            archive.writestr("any name/byteorder", byteorder)
            for number, (_, raw, _) in enumerate(self.storages):
                archive.writestr(f"any name/data/{number}", raw)
            archive.writestr("any name/version", b"3\n")
        return data.getvalue()

    def _legacy(self, opcodes, little_endian=True):
        sizes = {"short": 2, "int": 4, "long": 4}
        system = {
            "protocol_version": 1001,
            "little_endian": little_endian,
            "type_sizes": sizes,
        }
        keys = [str(number) for number in range(len(self.storages))]
        order = "<q"
        raw = [
            struct.pack(order, count) + data for _, data, count in self.storages
        ]
        heads = [pickle.dumps(value, 2) for value in (MAGIC, 1001, system)]
        return b"".join([*heads, pickled(opcodes), pickle.dumps(keys, 2), *raw])

    def _tar(self, opcodes):
        storages = [pickle.dumps(len(self.storages), 2)]
        for number, (kind, raw, count) in enumerate(self.storages):
            entry = (
                b"("
                + plain(number)
                + plain("cpu")
                + f"ctorch\n{STORAGES[kind]}\n".encode()
                + b"t"
            )
            storages += [pickled(entry), struct.pack("<q", count), raw]
        storages.append(pickle.dumps([], 2))
        tensors = [pickle.dumps(len(self.tensors), 2)]
        for number, (storage, offset, size, stride) in enumerate(self.tensors):
            kind = STORAGES[self.storages[storage][0]]
            name = kind.replace("Storage", "Tensor")
            entry = (
                b"("
                + plain(1000 + number)
                + plain(storage)
                + f"ctorch\n{name}\n".encode()
                + b"t"
            )
            numbers = [*size, *stride, offset]
            form = f"<ii{len(numbers)}q"
            tensors.append(pickled(entry))
            tensors.append(struct.pack(form, len(size), 0, *numbers))
        parts = {
            "storages": b"".join(storages),
            "tensors": b"".join(tensors),
            "pickle": pickled(opcodes),
        }
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for name, content in parts.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return data.getvalue()


def write(path, layout, **values):
    """Writes a dict of arrays and plain values."""
    file = File(layout)
    path.write_bytes(file.bytes(file.dict(**values)))
    return path
