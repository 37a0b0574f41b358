"""What a file is by its first bytes, against files that others write.

Pillow, NumPy and the platform's archives write what they can; of the rest the
first bytes are those of the formats' specifications.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from moco_tf import file_kinds

LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:" + 64 * b"ab"[:1] + b"\nsize 12345\n"
)


def _pillow(form, mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, (40, 30), "red").save(file, form, **options)
    return file.getvalue()


def _zip(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"12345")
    return file.getvalue()


def _tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    return file.getvalue()


def _saved(save, value):
    file = io.BytesIO()
    save(file, value)
    return file.getvalue()


def _iso(major, *others):
    box = b"ftyp" + major + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", 4 + len(box)) + box + b"\0\0\0\x10meta" + bytes(99)


WRITTEN = {
    "a JPEG": _pillow("JPEG"),
    "a PNG": _pillow("PNG"),
    "a GIF": _pillow("GIF"),
    "a BMP": _pillow("BMP"),
    "a WebP": _pillow("WEBP"),
    "a TIFF": _pillow("TIFF"),
    "a BigTIFF": _pillow("TIFF", big_tiff=True),
    "a JPEG 2000": _pillow("JPEG2000"),
    "a JPEG 2000 code stream": _pillow("JPEG2000", no_jp2=True),
    "an AVIF": _pillow("AVIF"),
    "an icon (ICO)": _pillow("ICO"),
    "an icon (ICNS)": _pillow("ICNS"),
    "a Netpbm image (PPM, PGM, PBM, PAM or PFM)": _pillow("PPM"),
    "a TGA": _pillow("TGA"),
    "a PCX": _pillow("PCX"),
    "an SGI image": _pillow("SGI"),
    "a DDS texture": _pillow("DDS"),
    "a QOI": b"qoif" + bytes(20),
    "a PDF": _pillow("PDF"),
    "PostScript": _pillow("EPS"),
    "gzip data": gzip.compress(b"12345"),
    "bzip2 data": bz2.compress(b"12345"),
    "xz data": lzma.compress(b"12345"),
    "a tar archive": _tar(),
    "a zip archive": _zip("a/1.jpg", "a/2.jpg"),
    "a NumPy array (.npy)": _saved(np.save, np.zeros(3)),
    "a NumPy archive (.npz)": _zip("weights.npy", "labels.npy"),
    "a PyTorch file": _zip("archive/data.pkl", "archive/version"),
    "a .keras file": _zip("metadata.json", "config.json", "model.weights.h5"),
    "a document of an office program": _zip("[Content_Types].xml", "word/a"),
    "a Python pickle": pickle.dumps({"a": 1}),
    "a safetensors file": struct.pack("<Q", 20) + b'{"weight":{}}       ',
    "JSON": json.dumps({"error": "denied"}).encode(),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_files_that_others_write_are_named(name):
    assert file_kinds.kind_of(WRITTEN[name]).name == name


ISO = {
    "a HEIC": [
        *[_iso(brand) for brand in (b"heic", b"heix", b"hevc", b"hevx")],
        *[_iso(brand) for brand in (b"heim", b"heis", b"hevm", b"hevs")],
        _iso(b"mif1", b"mif1", b"heic"),
        _iso(b"msf1", b"msf1", b"hevc"),
    ],
    "an AVIF": [
        _iso(b"avif", b"mif1", b"miaf"),
        _iso(b"avis"),
        _iso(b"mif1", b"miaf", b"avif"),
    ],
    "a HEIF": [_iso(b"mif1"), _iso(b"msf1"), _iso(b"mif1", b"miaf")],
    "a video (MP4, brand 'isom')": [_iso(b"isom", b"mp41")],
    "a video (MP4, brand '3gp4')": [_iso(b"3gp4")],
    "a video (QuickTime)": [_iso(b"qt  "), b"\0\0\0\x08wide\0\0\0\0mdat"],
    "a sound file (M4A)": [_iso(b"M4A ")],
    "a camera's raw file (CR3)": [_iso(b"crx ", b"isom")],
    "a JPEG XL": [b"\0\0\0\x0cJXL \r\n\x87\n" + _iso(b"jxl ")],
    "a JPEG XL code stream": [b"\xff\x0a\xfa\x1f" + bytes(9)],
}


@pytest.mark.parametrize(
    ("name", "head"), [(name, head) for name in ISO for head in ISO[name]]
)
def test_media_files_are_named_by_their_brands(name, head):
    assert file_kinds.kind_of(head).name == name


HEADS = [
    (LFS, "a Git LFS pointer", "git lfs pull"),
    (b"", "an empty file", "anew"),
    (bytes(512), "zeros and nothing else", "anew"),
    (b"/annex/objects/MD5E-s5--ab.jpg\n", "a git-annex pointer", "annex get"),
    (b"<!DOCTYPE html>\n<html>", "HTML (a web page)", "download"),
    (b"\xef\xbb\xbf \r\n<HTML lang='de'>", "HTML (a web page)", "download"),
    (b"<!-- x --><html>", "HTML (a web page)", "download"),
    ("\ufeff<html>".encode("utf-16-le"), "HTML (a web page)", "download"),
    (b"<?xml version='1.0'?><html xmlns=''>", "HTML (a web page)", "download"),
    (b"HTTP/1.1 403 Forbidden\r\n", "an answer of a web server", "Download"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing", "PNG"),
    (b"<?xml version='1.0'?>\n<svg>", "an SVG drawing", "PNG"),
    (b"<?xml version='1.0'?><Error><Code>", "XML", "anew"),
    (b"[1, 2]", "JSON", "anew"),
    (b'{\n "a"', "JSON", "anew"),
    (
        b"404: Not Found",
        "plain text that begins with '404: Not",
        "in its place",
    ),
    (
        "caf\u00e9".encode(),
        "plain text that begins with 'caf\u00e9'",
        "in its place",
    ),
    (b"\r\n \r\n", "blanks and nothing else", "Read it"),
    (b"data:image/png;base64,iVBO", "an image written as text", "Decode"),
    (b"iVBORw0KGgoAAAANSUhEUgAA", "an image written as text", "Decode"),
    (b"8BPS\0\x01", "a Photoshop file (PSD)", "PNG"),
    (b"gimp xcf v011\0", "a GIMP file (XCF)", "PNG"),
    (b"v/1\x01\x02\0\0\0", "an OpenEXR", "PNG"),
    (b"#?RADIANCE\nFORMAT", "a Radiance HDR", "PNG"),
    (bytes(128) + b"DICM", "a DICOM", "PNG"),
    (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw file (CR2)", "Develop"),
    (b"FUJIFILMCCD-RAW 0201", "a camera's raw file (RAF)", "Develop"),
    (b"IIU\0\x18\0\0\0", "a camera's raw file (RW2)", "Develop"),
    (b"IIRO\x08\0\0\0", "a camera's raw file (ORF)", "Develop"),
    (b"MM\0+\0\x08\0\0", "a BigTIFF", "PNG"),
    (b"P3\n# by hand\n2 2", "a Netpbm image", "PNG"),
    (b"P7\nWIDTH 4\n", "a Netpbm image", "PNG"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "PNG"),
    (b"SIMPLE  =                    T", "a FITS file", "PNG"),
    (b"RIFF\0\0\0\0AVI LIST", "a video (AVI)", "frames"),
    (b"\x1a\x45\xdf\xa3\x01", "a video (Matroska or WebM)", "frames"),
    (b"RIFF\0\0\0\0WAVEfmt ", "a sound file (WAV)", "away"),
    (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive", "Unpack"),
    (b"Rar!\x1a\x07\x01\0", "a rar archive", "Unpack"),
    (b"\x28\xb5\x2f\xfd\x04", "zstd data", "Unpack"),
    (b"\0\x05\x16\x07\0\2\0\0Mac OS X", "a macOS companion file", "away"),
    (b"\xff\xd8\xff\xf7\0\x0b", "a JPEG-LS", "PNG"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an office", "away"),
    (
        b"BMW drivers like it.",
        "plain text that begins with 'BMW",
        "in its place",
    ),
    (b"\x93\x01\xfe\x8a\x00\x99", "an unknown format", "PNG"),
]


@pytest.mark.parametrize(("head", "name", "remedy"), HEADS)
def test_what_lies_there_instead_is_named_with_a_remedy(head, name, remedy):
    kind = file_kinds.kind_of(head)
    assert kind.name.startswith(name)
    assert remedy in kind.remedy


def test_each_first_row_that_fits_is_reached():
    for row, (kind, *parts) in enumerate(file_kinds.SIGNATURES):
        head = bytearray(file_kinds.HEAD)
        for start, part in zip(parts[::2], parts[1::2], strict=True):
            head[start : start + len(part)] = part
        assert file_kinds.kind_of(bytes(head)) == kind, row
        assert max(parts[::2]) < file_kinds.HEAD


def test_texts_are_cut_where_a_letter_may_be():
    text = "\u00e9" * file_kinds.HEAD
    for end in range(1020, 1030):
        head = text.encode()[:end]
        assert file_kinds.kind_of(head).group == "text"


def test_a_file_is_looked_at_and_a_pipe_is_not(tmp_path):
    (tmp_path / "a.jpg").write_bytes(LFS)
    assert file_kinds.kind_of_file(tmp_path / "a.jpg") == file_kinds.LFS
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="pipe.jpg': a pipe"):
        file_kinds.kind_of_file(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="a folder"):
        file_kinds.kind_of_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        file_kinds.kind_of_file(tmp_path / "none.jpg")


def test_a_targa_is_known_by_its_last_bytes(tmp_path):
    path = tmp_path / "a.tga"
    path.write_bytes(b"\x05\x02\x63" + bytes(40) + b"TRUEVISION-XFILE.\0")
    assert file_kinds.kind_of_file(path) == file_kinds.TGA


def test_entries_that_are_no_files_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        assert file_kinds.kind_of_mode(os.stat("s").st_mode) == "a socket"
    assert file_kinds.kind_of_mode(os.stat("/dev/null").st_mode) == "a device"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF"])
def test_the_end_of_a_file_says_whether_it_was_cut(form):
    contents = _pillow(form)

    def words(contents):
        return file_kinds.cut_words(contents[:2048], contents[-2048:])

    assert words(contents) == ""
    assert "is missing" in words(contents[:-40])
    assert "end is zeros" in words(contents[:-40] + bytes(600))


@pytest.mark.parametrize(
    ("name", "formats", "expected"),
    [
        ("a PNG", ("JPEG", "PNG"), True),
        ("a WebP", ("JPEG", "PNG"), False),
        ("a BigTIFF", ("TIFF",), True),
        ("a JPEG 2000", ("JPEG",), False),
        ("a PDF", ("JPEG", "PNG"), False),
    ],
)
def test_kinds_are_compared_with_the_formats_that_are_read(
    name, formats, expected
):
    kind = file_kinds.kind_of(WRITTEN[name])
    assert file_kinds.is_one_of(kind, formats) == expected


def test_a_substitute_is_said_and_a_damaged_file_is_not(tmp_path):
    path = tmp_path / "a.npz"
    for contents, words in (
        (LFS, " It is a Git LFS pointer. Run"),
        (b"Access denied", " It is plain text that begins with 'Access"),
        (WRITTEN["a NumPy archive (.npz)"][:60], ""),
    ):
        path.write_bytes(contents)
        assert file_kinds.substitute(path).startswith(words)
        assert bool(file_kinds.substitute(path)) == bool(words)
    assert file_kinds.substitute(tmp_path / "none") == ""
