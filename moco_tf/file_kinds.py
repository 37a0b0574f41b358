"""What a file is, by its first bytes: its kind in plain words, and a remedy.

For messages about a file that is not what was expected: an image, weights. No
TensorFlow, and nothing is decoded. Readers decide by their own means what they
read; this table names what they refuse.
"""

import os
import re
import stat
from typing import NamedTuple

HEAD = 2048  # bytes that are looked at; a shorter head is a complete file
_EXCERPT = 60  # characters of a text that are shown


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
      name: str with its article, as "HTML (a web page)".
      group: str. "substitute": it came in place of the file, whatever that was
        to be, and the remedy holds for each. Else what it is: "image",
        "raw" (a camera's), "video", "sound", "archive", "document", "data"
        (arrays and tables), "weights", "program", "text" or "unknown".
      remedy: str, sentences: what to do where an image was expected, or where
        anything was expected if the group is "substitute" or "archive".
    """

    name: str
    group: str
    remedy: str


AGAIN = "Copy or download it anew."
_CONVERT = "Convert it to PNG."
_DEVELOP = "Develop it to JPEG or PNG."
_FRAMES = "Take frames out of it as JPEG or PNG files."
_PICTURES = "Take the pictures out of it as PNG files."
_AWAY = "Move it away."
_UNPACK = "Unpack it and give what was in it."
_ARRAYS = "Write the images that it holds to PNG files."

EMPTY = Kind("an empty file", "substitute", AGAIN)
ZEROS = Kind(
    "zeros and nothing else",
    "substitute",
    "A copy or download has kept room for it and not filled it. " + AGAIN,
)
LFS = Kind(
    "a Git LFS pointer",
    "substitute",
    "Run `git lfs pull` in the repository that it comes from.",
)
ANNEX = Kind(
    "a git-annex pointer",
    "substitute",
    "Run `git annex get` in the repository that it comes from.",
)
HTML = Kind(
    "HTML (a web page)",
    "substitute",
    "A download often gets a page to log in, or of an error, in place of the "
    "file. Open it in a browser, then download the file itself.",
)
HTTP = Kind(
    "an answer of a web server with its headers",
    "substitute",
    "Download the file itself.",
)
JSON = Kind(
    "JSON",
    "text",
    "Read it: if it is the error of a download, download the file anew; else "
    "move it away.",
)
XML = JSON._replace(name="XML")
SVG = Kind("an SVG drawing", "image", "Draw it as PNG.")
BASE64 = Kind(
    "an image written as text (base64)", "text", "Decode the text to bytes."
)
TEXT = Kind(
    "plain text",
    "text",
    "Read it: if it is the error of a download, or the path of a file, put the "
    "file in its place; else move it away.",
)
UNKNOWN = Kind("an unknown format", "unknown", _CONVERT)
ISO = Kind("an ISO media file", "video", _FRAMES)
ZIP = Kind("a zip archive", "archive", _UNPACK)
GZIP = Kind("gzip data", "archive", _UNPACK)
TAR = Kind("a tar archive", "archive", _UNPACK)
TORCH = Kind("a PyTorch file", "weights", _AWAY)
SAFETENSORS = Kind("a safetensors file", "weights", _AWAY)
KERAS = Kind("a .keras file", "weights", _AWAY)
PICKLE = Kind("a Python pickle", "data", _ARRAYS)
HDF5 = Kind("an HDF5 file", "data", _ARRAYS)
NPY = Kind("a NumPy array (.npy)", "data", _ARRAYS)
NPZ = Kind("a NumPy archive (.npz)", "data", _ARRAYS)
OFFICE = Kind("a document of an office program", "document", _PICTURES)


def _image(name, remedy=_CONVERT):
    return Kind(name, "image", remedy)


def _raw(name):
    return Kind(f"a camera's raw file ({name})", "raw", _DEVELOP)


def _video(name):
    return Kind(f"a video ({name})", "video", _FRAMES)


def _sound(name):
    return Kind(f"a sound file ({name})", "sound", _AWAY)


def _archive(name):
    return Kind(name, "archive", _UNPACK)


def _document(name):
    return Kind(name, "document", _PICTURES)


def _data(name):
    return Kind(name, "data", _ARRAYS)


def _program(name):
    return Kind(name, "program", _AWAY)


JPEG, PNG, GIF = _image("a JPEG"), _image("a PNG"), _image("a GIF")
BMP, WEBP, TIFF = _image("a BMP"), _image("a WebP"), _image("a TIFF")
TGA = _image("a TGA")
NETPBM = _image("a Netpbm image (PPM, PGM, PBM, PAM or PFM)")

# The first row that fits counts: (kind, position, bytes, position, bytes, ...).
SIGNATURES: tuple[tuple, ...] = (
    (_image("a JPEG-LS"), 0, b"\xff\xd8\xff\xf7"),
    (JPEG, 0, b"\xff\xd8\xff"),
    (PNG, 0, b"\x89PNG\r\n\x1a\n"),
    (GIF, 0, b"GIF8"),
    (WEBP, 0, b"RIFF", 8, b"WEBP"),
    (_raw("CR2"), 0, b"II*\x00", 8, b"CR"),
    (TIFF, 0, b"II*\x00"),
    (TIFF, 0, b"MM\x00*"),
    (TIFF, 0, b"II\x00*"),  # as some write them, and most read
    (TIFF, 0, b"MM*\x00"),
    (_image("a BigTIFF"), 0, b"II+\x00"),
    (_image("a BigTIFF"), 0, b"MM\x00+"),
    (_image("a JPEG XR"), 0, b"II\xbc\x01"),
    (_image("a JPEG 2000"), 4, b"jP  \r\n\x87\n"),
    (_image("a JPEG 2000 code stream"), 0, b"\xff\x4f\xff\x51"),
    (_image("a JPEG XL"), 4, b"JXL \r\n\x87\n"),
    (_image("a JPEG XL code stream"), 0, b"\xff\x0a"),
    (_image("a Photoshop file (PSD)"), 0, b"8BPS"),
    (_image("a GIMP file (XCF)"), 0, b"gimp xcf"),
    (_image("an icon (ICO)"), 0, b"\x00\x00\x01\x00", 5, b"\x00"),
    (_image("an icon (ICNS)"), 0, b"icns"),
    (_image("an OpenEXR"), 0, b"\x76\x2f\x31\x01"),
    (_image("a Radiance HDR"), 0, b"#?RADIANCE"),
    (_image("a Radiance HDR"), 0, b"#?RGBE"),
    (_image("a DDS texture"), 0, b"DDS "),
    (_image("a KTX texture"), 0, b"\xabKTX "),
    (_image("a QOI"), 0, b"qoif"),
    (_image("a FLIF"), 0, b"FLIF"),
    (_image("a BPG"), 0, b"BPG\xfb"),
    (_image("a farbfeld"), 0, b"farbfeld"),
    (_image("an XPM"), 0, b"/* XPM */"),
    (_image("an SGI image"), 0, b"\x01\xda"),
    (_image("a Sun raster"), 0, b"\x59\xa6\x6a\x95"),
    (_image("a MNG"), 0, b"\x8aMNG\r\n\x1a\n"),
    (_image("a JNG"), 0, b"\x8bJNG\r\n\x1a\n"),
    (_image("a DjVu"), 0, b"AT&TFORM"),
    (_image("an ILBM"), 0, b"FORM", 8, b"ILBM"),
    (_image("a Windows metafile (WMF)"), 0, b"\xd7\xcd\xc6\x9a"),
    (_image("a Windows metafile (EMF)"), 0, b"\x01\x00\x00\x00", 40, b" EMF"),
    (_image("a DICOM", "Write its pixels to PNG."), 128, b"DICM"),
    (_raw("RAF"), 0, b"FUJIFILMCCD-RAW"),
    (_raw("ORF"), 0, b"IIRO"),
    (_raw("ORF"), 0, b"IIRS"),
    (_raw("ORF"), 0, b"MMOR"),
    (_raw("RW2"), 0, b"IIU\x00"),
    (_raw("CRW"), 0, b"II\x1a\x00\x00\x00HEAPCCDR"),
    (_raw("X3F"), 0, b"FOVb"),
    (_raw("MRW"), 0, b"\x00MRM"),
    (_video("AVI"), 0, b"RIFF", 8, b"AVI "),
    (_video("Matroska or WebM"), 0, b"\x1a\x45\xdf\xa3"),
    (_video("MPEG"), 0, b"\x00\x00\x01\xba"),
    (_video("MPEG"), 0, b"\x00\x00\x01\xb3"),
    (_video("MPEG-TS"), 0, b"G", 188, b"G", 376, b"G"),
    (_video("FLV"), 0, b"FLV\x01"),
    (_video("WMV"), 0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    (_video("QuickTime"), 4, b"moov"),
    (_video("QuickTime"), 4, b"mdat"),
    (_video("QuickTime"), 4, b"wide"),
    (_video("Ogg"), 0, b"OggS"),
    (_sound("WAV"), 0, b"RIFF", 8, b"WAVE"),
    (_sound("MP3"), 0, b"ID3"),
    (_sound("FLAC"), 0, b"fLaC"),
    (_sound("AIFF"), 0, b"FORM", 8, b"AIF"),
    (GZIP, 0, b"\x1f\x8b"),
    (_archive("bzip2 data"), 0, b"BZh", 4, b"1AY&SY"),
    (_archive("xz data"), 0, b"\xfd7zXZ\x00"),
    (_archive("zstd data"), 0, b"\x28\xb5\x2f\xfd"),
    (_archive("lz4 data"), 0, b"\x04\x22\x4d\x18"),
    (_archive("lzip data"), 0, b"LZIP"),
    (_archive("data of compress (.Z)"), 0, b"\x1f\x9d"),
    (_archive("a 7z archive"), 0, b"7z\xbc\xaf\x27\x1c"),
    (_archive("a rar archive"), 0, b"Rar!\x1a\x07"),
    (_archive("a cabinet archive"), 0, b"MSCF\x00\x00\x00\x00"),
    (_archive("an ar archive"), 0, b"!<arch>\n"),
    (TAR, 257, b"ustar"),
    (_document("a PDF"), 0, b"%PDF-"),
    (_document("PostScript"), 0, b"%!PS"),
    (_document("PostScript"), 0, b"\xc5\xd0\xd3\xc6"),
    (_document("an RTF document"), 0, b"{\\rtf"),
    (
        Kind(
            "a document of an office program, or Thumbs.db", "document", _AWAY
        ),
        0,
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    ),
    (HDF5, 0, b"\x89HDF\r\n\x1a\n"),
    (NPY, 0, b"\x93NUMPY"),
    (_data("a NetCDF file"), 0, b"CDF\x01"),
    (_data("a NetCDF file"), 0, b"CDF\x02"),
    (_data("a NetCDF file"), 0, b"CDF\x05"),
    (_data("a FITS file"), 0, b"SIMPLE  ="),
    (_data("a MATLAB file"), 0, b"MATLAB 5.0 MAT-file"),
    (_data("a NIfTI volume"), 344, b"n+1\x00"),
    (_data("a NIfTI volume"), 344, b"ni1\x00"),
    (_data("an NRRD volume"), 0, b"NRRD000"),
    (_data("an LMDB database"), 16, b"\xde\xc0\xef\xbe"),
    (_data("an SQLite database"), 0, b"SQLite format 3\x00"),
    (_data("a Parquet table"), 0, b"PAR1"),
    (_data("an Arrow table"), 0, b"ARROW1"),
    (TORCH, 0, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"),
    (PICKLE, 0, b"\x80\x02"),
    (PICKLE, 0, b"\x80\x03"),
    (PICKLE, 0, b"\x80\x04\x95"),
    (PICKLE, 0, b"\x80\x05\x95"),
    (Kind("a GGUF file", "weights", _AWAY), 0, b"GGUF"),
    (Kind("a macOS companion file (._)", "data", _AWAY), 0, b"\0\x05\x16\x07"),
    (_data("a property list"), 0, b"bplist00"),
    (_program("a Windows shortcut"), 0, b"L\0\0\0\x01\x14\x02\0"),
    (_program("a program (ELF)"), 0, b"\x7fELF"),
    (_program("a program (Mach-O)"), 0, b"\xcf\xfa\xed\xfe"),
    (_program("a program (Windows)"), 0, b"MZ", 3, b"\x00"),
    (LFS, 0, b"version https://git-lfs"),
    (ANNEX, 0, b"/annex/objects/"),
    (HTTP, 0, b"HTTP/1."),
)

# Brands of ISO media files (ISO/IEC 14496-12), which begin with a box "ftyp".
BRANDS = {
    **dict.fromkeys((b"avif", b"avis", b"avio", b"MA1B", b"MA1A"), "an AVIF"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm")
        + (b"hevs",),
        "a HEIC",
    ),
    **dict.fromkeys((b"mif1", b"mif2", b"msf1", b"miaf", b"heif"), "a HEIF"),
    **dict.fromkeys((b"jp2 ", b"jpx ", b"jpm ", b"mjp2"), "a JPEG 2000"),
    b"jxl ": "a JPEG XL",
}
_MAX_BRANDS = 16  # compatible brands that are looked at
_NETPBM = re.compile(rb"P[1-7FfHh]\s+(#|\d|WIDTH)")
_HTML = re.compile(
    rb"<(!doctype\s+html|html|head|body|script|title|meta|link|div|center|h1|p|"
    rb"br|a|table|style)[\s>/]",
    re.IGNORECASE,
)
_COMMENT = re.compile(
    rb"\s*(<!--.*?-->|<\?xml.*?\?>|<!DOCTYPE svg[^>]*>)", re.S
)
_JSON = re.compile(rb'(\{\s*(["}])|\[\s*([\[{"\d\]-]|true|false|null))')
# Names of a zip archive's first files.
_ZIPPED = (
    (re.compile(rb"\[Content_Types\]\.xml|_rels/|mimetype|docProps/"), OFFICE),
    (re.compile(rb"[^/]+\.npy$"), NPZ),
    (re.compile(rb"[^/]+/(data\.pkl|byteorder|version|\.format)"), TORCH),
    (re.compile(rb"metadata\.json$|config\.json$|model\.weights\.h5$"), KERAS),
)


def kind_of(head):
    """The kind of a file.

    Args:
      head: bytes, the first HEAD of the file or more; all of a shorter file.

    Returns:
      Kind; UNKNOWN where nothing fits.
    """
    if not head:
        return EMPTY
    if head[4:8] == b"ftyp":
        return _iso_kind(head)
    for kind, *parts in SIGNATURES:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        if all(head.startswith(part, start) for start, part in pairs):
            return kind
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _zip_kind(head)
    if _is_bmp(head):
        return BMP
    if _is_safetensors(head):
        return SAFETENSORS
    if _NETPBM.match(head):
        return NETPBM
    if head[0] == 10 and head[1:2] <= b"\x05" and head[2:3] == b"\x01":
        return _image("a PCX")
    if not head.strip(b"\0"):
        return ZEROS
    if _is_tga(head):
        return TGA
    if head.startswith(b"\x00\x00\x02\x00") and head[5:6] == b"\x00":
        return _image("a cursor (CUR)")
    return _text_kind(head) or UNKNOWN


def is_one_of(kind, formats):
    """Whether a Kind is one of some formats, named as "PNG" or "TIFF"."""
    name = kind.name.removeprefix("a ").replace("BigTIFF", "TIFF")
    return name in formats


def kind_of_file(path):
    """The kind of a file on the disk.

    Args:
      path: str, bytes or os.PathLike.

    Returns:
      Kind.

    Raises:
      OSError: if it cannot be opened.
      ValueError: for a folder, and for a pipe, a socket or a device, of which
        nothing is read.
    """
    head, tail = ends_of_file(path)
    kind = kind_of(head)
    # A TGA of version 2 has its signature at its end.
    if kind.group == "unknown" and tail.endswith(b"TRUEVISION-XFILE.\0"):
        return TGA
    return kind


def substitute(path):
    """What lies in place of a file of any kind: a sentence with its remedy.

    It begins with a blank, to end a message; "" where the file may be one of
    the right kind that is damaged, or cannot be read.
    """
    try:
        kind = kind_of_file(path)
    except (OSError, ValueError):
        return ""
    if kind.group not in ("substitute", "text"):
        return ""
    return f" It is {kind.name}. {kind.remedy}"


def ends_of_file(path):
    """The first and the last HEAD bytes of a file on the disk.

    Raises: as kind_of_file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(
            "Files alone can be looked at. Received "
            f"{os.fsdecode(path)!r}: {kind_of_mode(mode)}."
        )
    with open(path, "rb") as file:
        head = file.read(HEAD)
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - HEAD))
        return head, file.read(HEAD)


def kind_of_mode(mode):
    """What an entry of a folder is, by its mode (os.stat): str with article."""
    for check, words in (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISLNK, "a link"),
    ):
        if check(mode):
            return words
    return "no file"


def cut_words(head, tail):
    """What is amiss with the end of an image, in words: str, or "".

    Args:
      head: bytes, the first HEAD of a file. tail: bytes, the last HEAD.
    """
    if not tail[-512:].strip(b"\0"):
        return "its end is zeros: a copy or download that was not completed"
    cut = {
        JPEG: b"\xff\xd9" not in tail,
        PNG: b"IEND" not in tail,
        GIF: not tail.rstrip(b"\0\r\n ").endswith(b";"),
    }.get(kind_of(head), False)
    return "its end is missing: a copy or download that was cut" if cut else ""


def _iso_kind(head):
    """The kind of an ISO media file, by its brand, then those it names."""
    size = int.from_bytes(head[:4], "big")
    end = min(size, 16 + 4 * _MAX_BRANDS, len(head))
    brands = [head[8:12]]
    brands += [head[start : start + 4] for start in range(16, end - 3, 4)]
    known = [BRANDS[brand] for brand in brands if brand in BRANDS]
    if b"crx " in brands:
        return _raw("CR3")
    # A HEIC may call itself HEIF first; the other names say more.
    exact = [name for name in known if name != "a HEIF"]
    if brands[0] in BRANDS:
        return _image((exact or known)[0])
    if brands[0] == b"qt  ":
        return _video("QuickTime")
    if brands[0][:3] in (b"M4A", b"M4B"):
        return _sound("M4A")
    words = brands[0].decode("ascii", "replace").strip()
    return ISO._replace(name=f"a video (MP4, brand {words!r})")


def _zip_kind(head):
    """The kind of a zip archive, by the names that its head shows."""
    start = 0
    while head.startswith(b"PK\x03\x04", start):
        length = int.from_bytes(head[start + 26 : start + 28], "little")
        name = head[start + 30 : start + 30 + length]
        for pattern, kind in _ZIPPED:
            if pattern.match(name):
                return kind
        start = head.find(b"PK\x03\x04", start + 4)
        if start < 0:
            break
    return ZIP


def _is_bmp(head):
    """Two letters say little: the header's length must be one there is."""
    length = int.from_bytes(head[14:18], "little")
    return head.startswith(b"BM") and (
        length in (12, 16, 40, 52, 56, 64, 108, 124) or len(head) < 18
    )


def _is_tga(head):
    """A TGA has no signature, but few of its header's values are possible."""
    if len(head) < 18 or head[1] > 1 or head[2] not in (1, 2, 3, 9, 10, 11):
        return False
    if head[1] == 0 and head[3:8].strip(b"\0"):
        return False  # no table of colours, yet a size of one
    sides = head[12:14], head[14:16]
    return head[16] in (8, 15, 16, 24, 32) and all(
        x.strip(b"\0") for x in sides
    )


def _is_safetensors(head):
    """Eight bytes hold the length of the JSON that follows."""
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= 100_000_000 and head[8:10] in (b'{"', b"{}", b"{ ")


def _text_kind(head):
    """The kind of a text; None for what is no text."""
    text = _as_utf8(head)
    if text is None:
        return None
    text = text.strip()
    start = text
    while match := _COMMENT.match(start):
        start = start[match.end() :]
    start = start.strip()
    if text.startswith(b"<"):
        if start.lower().startswith(b"<svg"):
            return SVG
        return HTML if _HTML.match(start) else XML
    if _JSON.match(text):
        return JSON
    if re.match(rb"data:image/|(iVBORw0KGgo|/9j/|R0lGOD)[\w+/]*$", text[:80]):
        return BASE64
    if not text:
        return TEXT._replace(name="blanks and nothing else")
    line = text.splitlines()[0].decode("utf-8", "replace")[:_EXCERPT]
    if not line.isprintable():
        return TEXT
    return TEXT._replace(name=f"plain text that begins with {line!r}")


def _as_utf8(head):
    """A head as UTF-8, without marks of its encoding; None for no text."""
    for mark, encoding in (
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    ):
        if head.startswith(mark):
            text = head[2 : 2 + (len(head) - 2) // 2 * 2].decode(
                encoding, "replace"
            )
            return text.encode("utf-8") if _is_printable(text) else None
    # The last character may be cut.
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "ignore")
    if len(text.encode("utf-8")) < len(head) - 6 or not _is_printable(text):
        return None
    return text.encode("utf-8")


def _is_printable(text):
    return all(
        letter.isprintable() or letter in "\t\n\r\f\x1b" for letter in text
    )
