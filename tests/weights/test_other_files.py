"""What is given in place of weights is named, and what it says works."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import re
import shlex
import shutil
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from safetensors import numpy as safetensors_numpy

from moco_tf.weights import torch_file, weight_files
from tests.weights import torch_files

WEIGHT = np.arange(6, dtype=np.float32)


def _torch(**values):
    file = torch_files.File("zip")
    return file.bytes(file.dict(**values or {"w": WEIGHT}))


def _zip(*names, method=zipfile.ZIP_STORED, content=b"12345"):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return data.getvalue()


def _tar(*names):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, io.BytesIO(b"12345"))
    return data.getvalue()


def _saved(save, *values):
    data = io.BytesIO()
    save(data, *values)
    return data.getvalue()


FILES = {
    "empty": (b"", "an empty file. Copy or download it anew"),
    "zeros": (bytes(4096), "zeros and nothing else"),
    "LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
        "a Git LFS pointer. Run `git lfs pull`",
    ),
    "annex": (b"/annex/objects/MD5E-s5--ab.pth\n", "git annex get"),
    "HTML": (b"<!DOCTYPE html>\n<html>", "HTML .a web page.*download the file"),
    "HTTP": (b"HTTP/1.1 403 Forbidden\r\n", "an answer of a web server"),
    "XML": (b"<?xml version='1.0'?><Error><Code>", "XML"),
    "JSON": (b'{"error": "denied"}', "JSON"),
    "parts": (
        b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}',
        "lists the parts of weights",
    ),
    "text": (b"404: Not Found", "plain text that begins with '404"),
    "text like a pickle": (b"could not be found here\n", "plain text"),
    "HDF5": (
        b"\x89HDF\r\n\x1a\n" + bytes(99),
        "an HDF5 file. Its names .* are those of its program",
    ),
    "gzip": (gzip.compress(_torch()), "gzip data. Unpack it"),
    "bzip2": (bz2.compress(_torch()), "bzip2 data. Unpack it"),
    "xz": (lzma.compress(_torch()), "xz data. Unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive. Unpack it"),
    "zip of images": (
        _zip("a/1.jpg", "a/2.jpg"),
        "an archive of 2 files, such as a/1.jpg, and holds no weights",
    ),
    "zip of weights": (
        _zip("a/moco.pth.tar", "a/README"),
        "an archive of 2 files. Unpack it and give a/moco.pth.tar",
    ),
    "empty zip": (_zip(), "cannot be read as weights"),
    "tar of weights": (_tar("x/moco.pth"), "Unpack it and give x/moco.pth"),
    "tar of images": (_tar("1.jpg"), "an archive of 1 files, such as 1.jpg"),
    "SavedModel": (
        _zip("m/saved_model.pb", "m/variables/variables.index"),
        "a packed SavedModel. Unpack it",
    ),
    "TorchScript": (
        _zip("m/data.pkl", "m/constants.pkl", "m/code/a.py"),
        "a TorchScript archive.*torch.jit.load",
    ),
    "keras": (
        _zip("metadata.json", "config.json", "model.weights.h5"),
        "a .keras file.*take it as --saved_model=",
    ),
    "npz": (_saved(np.savez, WEIGHT), "a NumPy archive .*save_file"),
    "npy": (_saved(np.save, WEIGHT), "a NumPy array .*save_file"),
    "office": (_zip("[Content_Types].xml", "word/a"), "an archive of 2 files"),
    "image": (
        _saved(lambda f: Image.new("RGB", (9, 9)).save(f, "PNG")),
        "a PNG. Give a file of torch.save",
    ),
    "PDF": (b"%PDF-1.7\n", "a PDF. Give a file of torch.save"),
    "GGUF": (b"GGUF\3\0\0\0", "a GGUF file. Give a file of torch.save"),
    "unknown": (b"\x93\x01\xfe\x8a\x00\x99", "unknown format that begins with"),
    "packed again": (
        _zip("m/data.pkl", "m/version", method=zipfile.ZIP_DEFLATED),
        "stored uncompressed.*zip -0 -r",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_named_with_what_to_do(name, tmp_path):
    data, message = FILES[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        weight_files.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.onnx", "an ONNX model by its name"),
        ("M.ONNX", "an ONNX model by its name"),
        ("m.tflite", "a model of TFLite by its name"),
        ("saved_model.pb", "If a SavedModel is meant: its folder"),
        ("ckpt-3.index", "a part of a checkpoint of TensorFlow"),
        ("__0_0.distcp", "a part of a distributed checkpoint of torch"),
    ],
)
def test_files_without_a_signature_go_by_their_name(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"\x08\x07\x12\xfe\x8a\x00\x99")
    with pytest.raises(ValueError, match=message):
        weight_files.read(tmp_path / name)


FOLDERS = {
    "workdir": (
        ("config.json", "checkpoints/a"),
        "the workdir of a run.*all commands take it as --workdir=",
    ),
    "checkpoint": (("meta.json", "state.index"), "as --checkpoint="),
    "SavedModel": (("saved_model.pb",), "a SavedModel.*--saved_model="),
    "exports": (
        ("2/saved_model.pb", "10/saved_model.pb"),
        "It holds SavedModels.*--saved_model=.*/10' --output=",
    ),
    "Hugging Face": (
        ("config.json", "model.safetensors"),
        "Give one of its files: model.safetensors",
    ),
    "files": (
        ("a.pth", "b.pt", "c.txt"),
        "Give one of its files: a.pth, b.pt",
    ),
    "parts": (
        (
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ),
        "parts of weights that were saved in several files",
    ),
    "one part of one": (
        ("model-00001-of-00001.safetensors",),
        "Give one of its files: model-00001-of-00001.safetensors",
    ),
    "unpacked": (("data.pkl", "data/0", "version"), "zip -0 -r weights.pth"),
    "distributed": ((".metadata", "__0_0.distcp"), "dcp_to_torch"),
    "TensorFlow": (("checkpoint", "a.index"), "a checkpoint of TensorFlow"),
    "images": (("1.jpg",), "a folder without files of weights"),
    "empty": ((), "a folder without files of weights"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_named_with_what_to_do(name, tmp_path):
    names, message = FOLDERS[name]
    folder = tmp_path / "some folder"
    folder.mkdir()
    for part in names:
        (folder / part).parent.mkdir(exist_ok=True)
        (folder / part).write_bytes(b"")
    with pytest.raises(ValueError, match=message) as caught:
        weight_files.read(folder)
    for path in re.findall(r"--\w+=(\S*'[^']+'|/\S+)", str(caught.value)):
        assert os.path.exists(shlex.split(path)[0])


def test_a_part_of_weights_is_told_from_the_whole(tmp_path):
    path = tmp_path / "model-00001-of-00002.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="one of 2 parts that were saved"):
        weight_files.read(path)


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="It is a pipe"):
        weight_files.read(tmp_path / "pipe")
    with pytest.raises(ValueError, match="It is a device"):
        weight_files.read("/dev/zero")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="a.pth cannot be read.*No such file"):
        weight_files.read(tmp_path / "a.pth")
    (tmp_path / "model.ckpt-3.index").write_bytes(b"")
    with pytest.raises(ValueError, match="a checkpoint of TensorFlow"):
        weight_files.read(tmp_path / "model.ckpt-3")


# What the messages advise, done.


def test_an_archive_that_was_unpacked_can_be_packed_again(tmp_path):
    folder = tmp_path / "moco"
    with zipfile.ZipFile(io.BytesIO(_torch())) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "any name").rename(folder)
    with pytest.raises(ValueError) as caught:
        torch_file.read(folder)
    command = str(caught.value).partition("above it: ")[2]
    assert command == "zip -0 -r weights.pth moco"
    # The program zip, as it is told here.
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    np.testing.assert_array_equal(
        torch_file.read(tmp_path / "weights.pth")["w"], WEIGHT
    )


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_arrays_can_be_saved_as_safetensors(form, tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"layer1.0.conv1.weight": WEIGHT}
    if form == "npz":
        np.savez(tmp_path / "a.npz", **arrays)
        with np.load(tmp_path / "a.npz") as file:
            arrays = dict(file)
    safetensors_numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match="Received layer1.0.conv1.weight"):
        weight_files.read(path)


@pytest.mark.parametrize("pack", [gzip, bz2, lzma])
def test_what_was_unpacked_is_read(pack, tmp_path):
    packed = pack.compress(pickle.dumps({"w": WEIGHT}))
    (tmp_path / "a.pkl").write_bytes(pack.decompress(packed))
    np.testing.assert_array_equal(
        torch_file.read(tmp_path / "a.pkl")["w"], WEIGHT
    )


# Archives that are made to mislead.


def _with_directory(data, change):
    data = bytearray(data)
    change(data)
    return bytes(data)


def _huge(data):
    entry = data.rindex(b"any name/data/0") - 26
    data[entry : entry + 8] = (2**31 - 1).to_bytes(4, "little") * 2


def _far(data):
    end = data.rindex(b"PK\5\6")
    data[end + 16 : end + 20] = b"\xff\xff\xff\x7f"


def _overlap(data):
    entry = data.rindex(b"any name/data/0") - 4
    data[entry : entry + 4] = bytes(4)


def _encrypted(data):
    entry = data.rindex(b"any name/data/0") - 46
    data[entry + 8] |= 1


@pytest.mark.parametrize("change", [_huge, _far, _overlap, _encrypted])
def test_a_directory_that_lies_is_refused(change, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(_with_directory(_torch(), change))
    with pytest.raises(ValueError, match="cannot be read as weights"):
        torch_file.read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["m/data.pkl", "m/data/0"])
def test_two_members_of_a_name_are_refused(name, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(_zip("m/data.pkl", "m/data/0", name))
    with pytest.raises(ValueError, match="two members have that name"):
        torch_file.read(path)


@pytest.mark.parametrize(
    "name", ["../data.pkl", "/data.pkl", "../../m/data.pkl", "m/../data.pkl"]
)
def test_names_that_lead_out_write_nothing(name, tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "a.pth").write_bytes(_zip(name, content=pickle.dumps({"a": 1})))
    try:
        torch_file.read(folder / "a.pth")
    except ValueError as error:
        assert "cannot be read as weights" in str(error)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.pth"]


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "a.pth"
    bomb = bytes(100_000_000)
    path.write_bytes(
        _zip("m/data.pkl", method=zipfile.ZIP_DEFLATED, content=bomb)
    )
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match="100000000 bytes. Unpack it"):
        torch_file.read(path)


def test_sizes_behind_the_data_are_read(tmp_path):
    """As programs write archives to what they cannot go back in."""

    class Stream(io.RawIOBase):
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, part):
            self.data += part
            return len(part)

    stream = Stream()
    with zipfile.ZipFile(io.BytesIO(_torch())) as source:
        with zipfile.ZipFile(stream, "w") as archive:
            for member in source.infolist():
                archive.writestr(member.filename, source.read(member))
    (tmp_path / "a.pth").write_bytes(stream.data)
    assert b"PK\7\10" in stream.data
    np.testing.assert_array_equal(
        torch_file.read(tmp_path / "a.pth")["w"], WEIGHT
    )


@pytest.mark.system
@pytest.mark.skipif(not shutil.which("zip"), reason="needs the program zip")
def test_the_program_zip_packs_what_is_read(tmp_path):
    """It adds folders and extra fields of its own."""
    with zipfile.ZipFile(io.BytesIO(_torch())) as archive:
        archive.extractall(tmp_path)
    subprocess.run(
        ["zip", "-q", "-0", "-r", "weights.pth", "any name"],
        cwd=tmp_path,
        check=True,
    )
    np.testing.assert_array_equal(
        torch_file.read(tmp_path / "weights.pth")["w"], WEIGHT
    )
