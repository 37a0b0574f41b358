"""JPEGs of all kinds, as files of others are: markers, colours, damage.

`jpegs/` holds what Pillow cannot write. They were made of `scene()` with
libjpeg-turbo 2.1: `cjpeg -quality 85` with -arithmetic, -progressive,
-grayscale, -restart 1, or -sample and the factors in their names.
"""

import io
import pathlib
import struct

import numpy as np
from PIL import Image

from benchmarks import made_exif

FOLDER = pathlib.Path(__file__).parent / "jpegs"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # then the transform
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def scene(mode="RGB", size=(37, 29)):
    """A small picture of smooth coloured noise."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)


def encode(image, form, **options):
    """The bytes of a PIL image in a format."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def segment(marker, data):
    """A segment of a JPEG; marker: its second byte."""
    return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data


def exif_segment(data):
    """A segment of EXIF data, given without their prefix."""
    return segment(0xE1, made_exif.PREFIX + data)


def xmp_segment(text):
    """A segment of an XMP packet with a text in it."""
    return segment(0xE1, _XMP + made_exif.xmp(text))


def with_segments(*segments, contents=None, before=0xDB):
    """A JPEG with more segments, before the first of a marker."""
    if contents is None:
        contents = encode(scene(), "JPEG", quality=90)
    place = contents.index(bytes([0xFF, before]))
    return contents[:place] + b"".join(segments) + contents[place:]


def without_jfif(contents):
    """A JPEG without its first segment, of 18 bytes."""
    return contents[:2] + contents[20:]


def oriented():
    """Yields (name, contents): where and how the orientation is noted."""
    for group, name, data in made_exif.cases():
        yield f"{group}: {name}", with_segments(exif_segment(data))


def placed():
    """Yields (name, contents): the segments in other orders and numbers."""
    six = exif_segment(made_exif.oriented(6))
    three = exif_segment(made_exif.oriented(3))
    maker = exif_segment(made_exif.block([(0x010F, 2, 2, b"a\0")]))
    zero = exif_segment(made_exif.oriented(0))
    mark = b'tiff:Orientation="8"'
    as_element = b"><tiff:Orientation>8</tiff:Orientation"
    packet = xmp_segment(mark)
    profile = segment(0xE2, b"ICC_PROFILE\0\x01\x01" + b"x" * 60_000)
    comment = segment(0xFE, b"a comment: Exif\0\0")
    plain = encode(scene(), "JPEG", quality=90)
    yield "behind JFIF", with_segments(six)
    yield "before JFIF", plain[:2] + six + plain[2:]
    yield "without JFIF", with_segments(six, contents=without_jfif(plain))
    yield "behind profiles", with_segments(*[profile] * 9, six)
    yield "behind a comment", with_segments(comment, six)
    yield "behind 40 comments", with_segments(*[comment] * 40, six)
    yield "behind 400 comments", with_segments(*[comment] * 400, six)
    yield "behind XMP", with_segments(xmp_segment(b""), six)
    yield "before XMP of another", with_segments(six, packet)
    yield "behind XMP of another", with_segments(packet, six)
    yield "XMP alone", with_segments(packet)
    yield "XMP alone, an element", with_segments(xmp_segment(as_element))
    yield "XMP alone, a 9", with_segments(xmp_segment(mark.replace(b"8", b"9")))
    yield (
        "XMP alone, twice in it",
        with_segments(xmp_segment(mark + b' tiff:Orientation="3"')),
    )
    yield (
        "XMP alone, in single quotes",
        with_segments(xmp_segment(b"tiff:Orientation='8'")),
    )
    yield (
        "XMP alone, no UTF-8",
        with_segments(xmp_segment(b"\xff\xfe\x80" + mark)),
    )
    yield "XMP and EXIF without", with_segments(maker, packet)
    yield "XMP and EXIF of 0", with_segments(zero, packet)
    yield (
        "XMP and no EXIF header",
        with_segments(exif_segment(b"nothing at all"), packet),
    )
    yield "XMP twice", with_segments(packet, xmp_segment(b""))
    yield (
        "XMP of an extension",
        with_segments(
            segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + mark)
        ),
    )
    yield "EXIF twice", with_segments(six, three)
    yield "EXIF twice, first without", with_segments(maker, three)
    data = made_exif.PREFIX + made_exif.oriented(6)
    for size in (6, 10, 14, 20, 30):
        parts = data[:size], made_exif.PREFIX + data[size:]
        yield (
            f"EXIF in two parts, cut at {size}",
            with_segments(*(segment(0xE1, part) for part in parts)),
        )
    yield "EXIF of another marker", with_segments(segment(0xE2, data))
    yield "EXIF in lower case", with_segments(segment(0xE1, b"exif" + data[4:]))
    yield (
        "EXIF of other zeros",
        with_segments(segment(0xE1, b"Exif\0\xff" + data[6:])),
    )
    for marker, name in ((0xC0, "frame"), (0xC4, "codes"), (0xDA, "scan")):
        yield f"before the {name}", with_segments(six, before=marker)
    scan = plain.index(b"\xff\xda")
    yield "in the scan", plain[: scan + 14] + six + plain[scan + 14 :]
    yield "behind all", plain + six
    for fill in (1, 2, 7, 300):
        yield f"behind {fill} fill bytes", with_segments(b"\xff" * fill + six)
        yield f"before {fill} fill bytes", with_segments(six + b"\xff" * fill)
    yield "behind stray bytes", with_segments(b"abc\0" + six)
    yield "behind a stray FF 00", with_segments(b"\xff\x00" + six)
    yield "behind a restart marker", with_segments(b"\xff\xd0" + six)
    yield "behind a TEM marker", with_segments(b"\xff\x01" + six)
    yield "behind an empty segment", with_segments(segment(0xEB, b"") + six)
    yield "behind a marker of extensions", with_segments(b"\xff\xf0" + six)


def four_inks(transform=None, **options):
    """A JPEG of four inks; transform: of an Adobe marker, None without one."""
    inks = [*scene("CMYK").split()[:3], scene("L")]
    image = Image.merge("CMYK", inks)
    contents = encode(image, "JPEG", quality=90, **options)
    start = contents.index(b"\xff\xee\x00\x0eAdobe")
    mark = b"" if transform is None else _ADOBE + bytes([transform])
    return contents[:start] + mark + contents[start + 16 :]


def coloured():
    """Yields (name, contents): components, their names, and what they mean."""
    yield "four inks, Adobe 0", four_inks(0)
    yield "four inks, Adobe 2 (YCCK)", four_inks(2)
    yield "four inks, Adobe 1", four_inks(1)
    yield "four inks, no Adobe marker", four_inks()
    plain = four_inks()
    jfif = encode(scene(), "JPEG")[2:20]
    yield "four inks, JFIF", plain[:2] + jfif + plain[2:]
    yield (
        "four inks, Adobe 2 behind tables",
        with_segments(_ADOBE + b"\x02", contents=plain, before=0xC4),
    )
    yield (
        "four inks, a short Adobe marker",
        with_segments(segment(0xEE, b"Adobe\0"), contents=plain),
    )
    yield "four inks, progressive", four_inks(0, progressive=True)
    yield "four inks, progressive, no marker", four_inks(progressive=True)
    yield (
        "four inks, turned",
        with_segments(exif_segment(made_exif.oriented(6)), contents=plain),
    )
    grey = encode(scene("L"), "JPEG", quality=90)
    yield "grey", grey
    yield "grey, Adobe 1", with_segments(_ADOBE + b"\x01", contents=grey)
    three = encode(scene(), "JPEG", quality=90)
    bare = without_jfif(three)
    for transform in (0, 1, 2):
        mark = _ADOBE + bytes([transform])
        yield f"three, Adobe {transform}", with_segments(mark, contents=bare)
        yield (
            f"three, JFIF and Adobe {transform}",
            with_segments(mark, contents=three),
        )
    yield "three, no marker", bare
    for names in (b"RGB", b"rgb", b"\0\1\2", b"YCC", b"\1\4\5", b"abc"):
        made = _renamed(bare, names)
        yield f"three, named {names!r}, no marker", made
        yield f"three, named {names!r}, JFIF", made[:2] + jfif + made[2:]
    yield "RGB as it is", encode(scene(), "JPEG", quality=90, keep_rgb=True)


def _renamed(contents, names):
    """A JPEG with other names of its three components, in frame and scan."""
    made = bytearray(contents)
    frame, scan = made.index(b"\xff\xc0"), made.index(b"\xff\xda")
    for number, name in enumerate(names):
        made[frame + 10 + 3 * number] = name
        made[scan + 5 + 2 * number] = name
    return bytes(made)


def written():
    """Yields (name, contents): ways to write the pixels of a JPEG."""
    for path in sorted(FOLDER.glob("*.jpg")):
        yield path.stem.replace("_", " "), path.read_bytes()
    for sampling in (0, 1, 2):
        for progressive in (False, True):
            yield (
                f"sampling {sampling} progressive {progressive}",
                encode(
                    scene(),
                    "JPEG",
                    subsampling=sampling,
                    progressive=progressive,
                ),
            )
    for size in ((1, 1), (1, 9), (9, 1), (7, 8), (8, 7), (16, 17), (33, 2)):
        for mode in ("L", "RGB"):
            name = f"{mode} of {size[0]} x {size[1]}"
            yield name, encode(scene(mode, size), "JPEG")
    for quality in (1, 50, 100):
        yield f"quality {quality}", encode(scene(), "JPEG", quality=quality)
    yield "restart markers", encode(scene(), "JPEG", restart_marker_blocks=1)
    yield "restart rows", encode(scene(), "JPEG", restart_marker_rows=1)
    yield "optimised", encode(scene(), "JPEG", optimize=True)
    plain = encode(scene(), "JPEG", quality=90)
    yield "bytes behind it", plain + b"trailing bytes" * 99
    yield "a JPEG behind it", plain + encode(scene("L"), "JPEG")
    yield "zeros behind it", plain + bytes(1000)
    yield "no end marker", plain[:-2]
    yield "half an end marker", plain[:-1]
    for marker in (0xDB, 0xC0, 0xC4, 0xDA):
        for fill in (1, 5):
            yield (
                f"{fill} fill bytes before {marker:X}",
                with_segments(b"\xff" * fill, contents=plain, before=marker),
            )
    frames = [scene(), scene().rotate(180)]
    yield (
        "MPO of two",
        encode(frames[0], "MPO", save_all=True, append_images=frames[1:]),
    )
    yield "12 bits", _with_precision(plain, 12)
    yield "cut in half", plain[: len(plain) // 2]
    yield "two components", _with_components(plain, 2)


def _with_precision(contents, bits):
    made = bytearray(contents)
    made[made.index(b"\xff\xc0") + 4] = bits
    return bytes(made)


def _with_components(contents, count):
    made = bytearray(contents)
    made[made.index(b"\xff\xc0") + 9] = count
    return bytes(made)


def cases():
    """Yields (row of the table, name, contents)."""
    for name, contents in oriented():
        yield "JPEG, orientation in EXIF", name, contents
    for name, contents in placed():
        yield "JPEG, order of segments", name, contents
    for name, contents in coloured():
        yield "JPEG, colours", name, contents
    for name, contents in written():
        yield "JPEG, ways to write it", name, contents
