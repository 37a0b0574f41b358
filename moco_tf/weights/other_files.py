"""Names what is given in place of a file of weights, and says what to do.

moco_tf.file_kinds knows files by their first bytes. What a folder is, or an
archive, is seen by the names in it; some files have a name alone.
"""

import os
import pathlib
import re

from moco_tf import file_kinds, paths
from moco_tf.weights.pickle_reader import Unreadable, listed

FORMATS = (
    "torch.save (.pth, .pt, .bin, .ckpt), a pickle of arrays (.pkl) or "
    "safetensors"
)
_GIVE = f"Give a file of {FORMATS}."
_OURS = (
    "It is no file of another program: knn, linear and embed take it as "
    "--saved_model={path} --output=FOLDER."
)
_ARRAYS = (
    "Save its arrays, by the names of torchvision's ResNet, with "
    "safetensors.numpy.save_file and import that."
)
_KERAS = (
    "Its names and layouts are those of its program. Load it there and save "
    f"the tensors by the names of torchvision's ResNet. {_GIVE}"
)
_TORCH_AGAIN = (
    "With torch, save the state dict of it: torch.save(torch.jit.load({path!r})"
    '.state_dict(), "weights.pth").'
)
_REMEDIES = {
    file_kinds.HDF5: _KERAS,
    file_kinds.NPY: _ARRAYS,
    file_kinds.NPZ: _ARRAYS,
    file_kinds.KERAS: _OURS,
}
# Files without a signature, by the end of their name.
_ENDINGS = (
    (".onnx", "an ONNX model", _KERAS),
    (".tflite", "a model of TFLite", _KERAS),
    (".pb", "a graph of TensorFlow", "If a SavedModel is meant: its folder. "),
    (".index", "a part of a checkpoint of TensorFlow", _KERAS),
    (".meta", "a part of a checkpoint of TensorFlow", _KERAS),
    (".distcp", "a part of a distributed checkpoint of torch", ""),
)
# As transformers names the parts of weights, and what is said of them.
_PART = re.compile(r"-\d{5}-of-(\d{5})\.")
_IN_PARTS = (
    "were saved in several files. Load them with the library that wrote them "
    "and save one file."
)
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".pkl")


def check(path):
    """Refuses what cannot be a file of weights before it is opened.

    Args:
      path: pathlib.Path.

    Raises:
      Unreadable: for a folder, a pipe, a device, and a path that is missing.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        prefix = pathlib.Path(f"{path}.index")
        if prefix.exists():
            raise Unreadable(
                f"It is a checkpoint of TensorFlow. {_KERAS}"
            ) from error
        raise Unreadable(f"{error.strerror or error}.") from error
    words = file_kinds.kind_of_mode(mode)
    if words == "a folder":
        raise Unreadable(_folder(path))
    if words != "a file":
        raise Unreadable(f"It is {words}. {_GIVE}")


def refuse_part(path):
    """Raises Unreadable for a file that is named as one of several parts."""
    count = _parts(path.name)
    if count > 1:
        raise Unreadable(f"It is one of {count} parts that {_IN_PARTS}")


def _parts(name):
    """Of how many parts of one saving a file is named as one; 1: it is all."""
    match = _PART.search(name)
    return int(match[1]) if match else 1


def refuse(path, head):
    """Raises Unreadable with the kind of a file, and what to do.

    Args:
      path: of the file. head: bytes, its first file_kinds.HEAD.
    """
    kind = file_kinds.kind_of(head)
    if kind.group in ("substitute", "archive"):
        raise Unreadable(f"It is {kind.name}. {kind.remedy}")
    if kind in _REMEDIES:
        remedy = _REMEDIES[kind].format(path=paths.quote(path))
        raise Unreadable(f"It is {kind.name}. {remedy}")
    for ending, name, remedy in _ENDINGS:
        if str(path).lower().endswith(ending) and kind.group == "unknown":
            raise Unreadable(f"It is {name} by its name. {remedy or _GIVE}")
    if kind == file_kinds.JSON and b"weight_map" in head:
        raise Unreadable(f"It lists the parts of weights that {_IN_PARTS}")
    shown = ""
    if kind.group == "unknown":
        shown = f" that begins with {bytes(head[:8])!r}"
    raise Unreadable(f"It is {kind.name}{shown}. {_GIVE}")


def refuse_archive(path, names):
    """Raises Unreadable for a zip or tar archive that is not torch's.

    Args:
      path: of the file. names: list of the names of its members.
    """
    last = {name.rpartition("/")[2] for name in names}
    if {"config.json", "model.weights.h5"} <= last:
        raise Unreadable(
            f"It is a .keras file. {_OURS.format(path=paths.quote(path))}"
        )
    if "saved_model.pb" in last:
        raise Unreadable(
            "It is a packed SavedModel. Unpack it; knn, linear and embed take "
            "its folder as --saved_model."
        )
    if names and all(name.endswith(".npy") for name in names):
        raise Unreadable(f"It is a NumPy archive (.npz). {_ARRAYS}")
    inside = [name for name in names if name.lower().endswith(_WEIGHTS)]
    what = f"It is an archive of {len(names)} files"
    if inside:
        raise Unreadable(f"{what}. Unpack it and give {listed(inside, 'or')}.")
    raise Unreadable(
        f"{what}, such as {listed(names[:1]) or 'none'}, and holds no weights "
        f"of torch (one data.pkl). {_GIVE}"
    )


def refuse_script(path):
    """Raises Unreadable for an archive of TorchScript, which holds code."""
    raise Unreadable(
        "It is a TorchScript archive, a model with its code. "
        + _TORCH_AGAIN.format(path=str(path))
    )


def inside(folder):
    """The names of the whole files of weights in a folder, sorted.

    Raises:
      Unreadable: if it cannot be listed.
    """
    names = [name for name in _names(folder) if _parts(name) == 1]
    return sorted(name for name in names if name.lower().endswith(_WEIGHTS))


def _folder(path):
    """What a folder is, and which file or command is meant."""
    names = set(_names(path))
    quoted = paths.quote(path)
    if "config.json" in names and "checkpoints" in names:
        return (
            "It is the workdir of a run. Its encoder need not be imported: all "
            f"commands take it as --workdir={quoted}."
        )
    if {"meta.json", "state.index"} <= names:
        return (
            "It is a checkpoint of a run. The commands take the run as "
            f"--workdir and this as --checkpoint={quoted}."
        )
    if "saved_model.pb" in names:
        return f"It is a SavedModel. {_OURS.format(path=quoted)}"
    versions = [
        name
        for name in names
        if (path / name).joinpath("saved_model.pb").exists()
    ]
    if versions:
        newest = paths.quote(path / max(versions, key=_number))
        return f"It holds SavedModels. {_OURS.format(path=newest)}"
    if ".metadata" in names:
        return (
            "It is a distributed checkpoint of torch. With torch: python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{quoted} weights.pth"
        )
    if {"data.pkl", "data"} <= names:
        return (
            "It is the unpacked archive of a file of torch.save. Pack it "
            f"again, in the folder above it: zip -0 -r weights.pth {path.name}"
        )
    if any(_parts(name) > 1 for name in names) and not inside(path):
        return f"It holds parts of weights that {_IN_PARTS}"
    if files := inside(path):
        return f"It is a folder. Give one of its files: {listed(files, 'or')}."
    if any(name.endswith(".index") for name in names):
        return f"It holds a checkpoint of TensorFlow. {_KERAS}"
    return f"It is a folder without files of weights in it. {_GIVE}"


def _names(path):
    try:
        return os.listdir(path)
    except OSError as error:
        raise Unreadable(f"{error.strerror or error}.") from error


def _number(name):
    return int(name) if name.isdecimal() and name.isascii() else -1
