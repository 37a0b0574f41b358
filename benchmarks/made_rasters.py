"""PNG, GIF and BMP files of all kinds, written byte by byte."""

import struct
import zlib

import numpy as np
from PIL import Image

from benchmarks import made_exif
from benchmarks.made_jpegs import encode, scene

# PNG: the colour types with their channels, and the depths of each.
_COLOURS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {
    0: (1, 2, 4, 8, 16),
    2: (8, 16),
    3: (1, 2, 4, 8),
    4: (8, 16),
    6: (8, 16),
}
_PASSES = (  # of Adam7: first row and column, steps
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
    (0, 1, 2, 2), (1, 0, 2, 1),
)  # fmt: skip
_END = b"\0\0\0\0IEND\xaeB`\x82"


def chunk(name, data):
    """A chunk of a PNG."""
    body = name + data
    return struct.pack(">I", len(data)) + body + _sum(body)


def _sum(body):
    return struct.pack(">I", zlib.crc32(body))


def _rows(values, depth):
    """Rows of a PNG without filters, of int [H, W * C]."""
    if depth == 16:
        packed = values.astype(">u2").view(np.uint8)
    elif depth == 8:
        packed = values.astype(np.uint8)
    else:
        bits = (values[..., None] >> np.arange(depth)[::-1]) & 1
        packed = np.packbits(
            bits.reshape(len(values), -1).astype(np.uint8), axis=1
        )
    return b"".join(b"\0" + row.tobytes() for row in packed)


def png(
    colour,
    depth,
    *,
    size=(13, 11),
    interlaced=False,
    early=b"",
    before=b"",
    after=b"",
    parts=1,
    end=_END,
    method=0,
):
    """A PNG of random pixels, written as the format says.

    Args:
      colour, depth: as in its header. size: (width, height).
      early, before, after: chunks before the palette, before and behind the
        pixels. parts: int, chunks of pixels. end: bytes of the last chunk.
      method: of filters, as in the header.
    """
    rng = np.random.default_rng(colour * 100 + depth)
    width, height = size
    channels = _COLOURS[colour]
    values = rng.integers(0, 2**depth, (height, width, channels))
    if interlaced:
        raw = b"".join(
            _rows(part.reshape(len(part), -1), depth)
            for top, left, down, right in _PASSES
            if (part := values[top::down, left::right]).size
        )
    else:
        raw = _rows(values.reshape(height, -1), depth)
    head = struct.pack(
        ">IIBBBBB", width, height, depth, colour, 0, method, interlaced
    )
    palette = b""
    if colour == 3:
        table = rng.integers(0, 256, (2**depth, 3), np.uint8)
        palette = chunk(b"PLTE", table.tobytes())
    data = zlib.compress(raw)
    step = -(-len(data) // parts)
    pixels = b"".join(
        chunk(b"IDAT", data[i : i + step]) for i in range(0, len(data), step)
    )
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + early + palette
        + before + pixels + after + end
    )  # fmt: skip


def png_colours():
    """Yields (name, contents): colour types, depths, transparency."""
    for colour, depths in _DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                name = f"colour {colour} depth {depth}" + " interlaced" * (
                    interlaced
                )
                yield name, png(colour, depth, interlaced=interlaced)
    for colour, depth in ((0, 1), (0, 2), (0, 8), (0, 16), (2, 8), (2, 16)):
        clear = chunk(b"tRNS", struct.pack(">H", 1) * _COLOURS[colour])
        yield (
            f"colour {colour} depth {depth} tRNS",
            png(colour, depth, before=clear),
        )
    for depth in (1, 4, 8):
        for name, alphas in (("one", b"\0"), ("some", b"\x80\0\x40\xff")):
            clear = chunk(b"tRNS", alphas[: 2**depth])
            yield (
                f"palette depth {depth} tRNS of {name}",
                png(3, depth, before=clear),
            )
    for size in ((1, 1), (1, 7), (7, 1), (3, 5)):
        yield f"of {size[0]} x {size[1]}", png(2, 8, size=size)
        yield (
            f"of {size[0]} x {size[1]} interlaced",
            png(6, 8, size=size, interlaced=True),
        )


def png_chunks():
    """Yields (name, contents): further chunks, and files without an end."""
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
    yield "gAMA of 1", png(2, 8, early=gamma)
    yield (
        "gAMA of 1/2.2",
        png(2, 8, early=chunk(b"gAMA", struct.pack(">I", 45_455))),
    )
    yield "sRGB", png(2, 8, early=chunk(b"sRGB", b"\0"))
    yield "sBIT", png(2, 8, early=chunk(b"sBIT", b"\5\5\5"))
    yield "bKGD", png(2, 8, before=chunk(b"bKGD", bytes(6)))
    yield "bKGD and alpha", png(6, 8, before=chunk(b"bKGD", bytes(6)))
    profile = b"p\0\0" + zlib.compress(b"no profile")
    yield "iCCP", png(2, 8, early=chunk(b"iCCP", profile))
    yield "text", png(2, 8, early=chunk(b"tEXt", b"Title\0IDAT"))
    yield "own chunks", png(2, 8, early=chunk(b"prVt", b"x" * 99))
    yield "20 chunks of pixels", png(2, 8, parts=20)
    yield "a suggested palette", png(2, 8, before=chunk(b"PLTE", bytes(9)))
    for end in (b"", _END[:4], _END[:8], _END[:-1]):
        yield f"{12 - len(end)} bytes of the end missing", png(2, 8, end=end)
    plain = png(2, 8, end=b"")
    yield "no end, no checksum", plain[:-4]
    yield "no end, half a checksum", plain[:-2]
    yield "pixels cut", plain[:-9]
    yield "bytes behind it", png(2, 8) + b"trailing bytes" * 99
    yield "zeros behind it", png(2, 8) + bytes(99)
    yield "CgBI of Apple", _of_apple()
    frames = [scene(), scene().rotate(180)]
    animated = {"save_all": True, "append_images": frames[1:]}
    yield "animated", encode(frames[0], "PNG", **animated)
    yield (
        "animated, with another first image",
        encode(frames[0], "PNG", **animated, default_image=True),
    )
    yield "animated, blended", encode(frames[0], "PNG", **animated, blend=1)


def _of_apple():
    """A PNG as Apple's tools write it: another first chunk, bare deflate."""
    plain = png(6, 8)
    raw = zlib.compressobj(wbits=-15)
    data = raw.compress(bytes(11 * (1 + 4 * 13))) + raw.flush()
    first = chunk(b"CgBI", b"\x50\0\x20\x02")
    return plain[:8] + first + plain[8:33] + chunk(b"IDAT", data) + _END


def raw_profile(data, name=b"tEXt"):
    """EXIF data as ImageMagick has them in a PNG: text of hex digits."""
    digits = (made_exif.PREFIX + data).hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    text = f"\nexif\n{len(digits) // 2:8}\n{lines}\n".encode()
    if name == b"zTXt":
        text = b"\0" + zlib.compress(text)
    return chunk(name, b"Raw profile type exif\0" + text)


def xmp_chunk(text, packed=False):
    """An XMP packet with a text in it, in a PNG."""
    packet = made_exif.xmp(text)
    head = b"XML:com.adobe.xmp\0" + bytes([packed, 0]) + b"\0\0"
    return chunk(b"iTXt", head + (zlib.compress(packet) if packed else packet))


def png_oriented():
    """Yields (name, contents): orientations in chunks of a PNG."""
    for value in range(10):
        data = chunk(b"eXIf", made_exif.oriented(value))
        yield f"eXIf of {value}", png(2, 8, before=data)
    six = made_exif.oriented(6, ">")
    mark = b'tiff:Orientation="8"'
    yield (
        "eXIf of type LONG",
        png(2, 8, before=chunk(b"eXIf", made_exif.oriented(6, ">", "LONG"))),
    )
    yield (
        "eXIf with a prefix",
        png(2, 8, before=chunk(b"eXIf", made_exif.PREFIX + six)),
    )
    yield "eXIf before a palette", png(3, 8, early=chunk(b"eXIf", six))
    yield "eXIf behind", png(2, 8, after=chunk(b"eXIf", six))
    yield (
        "eXIf behind 9 chunks of pixels",
        png(2, 8, parts=9, after=chunk(b"eXIf", six)),
    )
    yield "eXIf behind, no end", png(2, 8, after=chunk(b"eXIf", six), end=b"")
    yield "eXIf behind the end", png(2, 8) + chunk(b"eXIf", six)
    yield (
        "eXIf twice",
        png(
            2,
            8,
            before=chunk(b"eXIf", six) + chunk(b"eXIf", made_exif.oriented(3)),
        ),
    )
    yield "eXIf of no header", png(2, 8, before=chunk(b"eXIf", b"abcdefgh"))
    yield "eXIf empty", png(2, 8, before=chunk(b"eXIf", b""))
    for name in (b"tEXt", b"zTXt"):
        kind = name.decode()
        yield f"raw profile in {kind}", png(2, 8, before=raw_profile(six, name))
        yield (
            f"raw profile in {kind} behind",
            png(2, 8, after=raw_profile(six, name)),
        )
    yield (
        "raw profile and eXIf",
        png(
            2,
            8,
            before=raw_profile(six) + chunk(b"eXIf", made_exif.oriented(3)),
        ),
    )
    yield (
        "raw profile of no digits",
        png(2, 8, before=chunk(b"tEXt", b"Raw profile type exif\0\n\n\nxyz")),
    )
    yield (
        "raw profile APP1",
        png(2, 8, before=raw_profile(six).replace(b"type exif", b"type APP1")),
    )
    for packed in (False, True):
        name = "XMP packed" if packed else "XMP"
        yield name, png(2, 8, before=xmp_chunk(mark, packed))
        yield f"{name} behind", png(2, 8, after=xmp_chunk(mark, packed))
    yield (
        "XMP and eXIf",
        png(2, 8, before=xmp_chunk(mark) + chunk(b"eXIf", six)),
    )
    yield (
        "XMP in tEXt",
        png(2, 8, before=chunk(b"tEXt", b"XML:com.adobe.xmp\0" + mark)),
    )
    yield (
        "orientation in other text",
        png(2, 8, before=chunk(b"tEXt", b"Comment\0" + mark)),
    )
    frames = [scene(), scene().rotate(180)]
    tags = Image.Exif()
    tags[made_exif.ORIENTATION] = 6
    yield (
        "animated, eXIf",
        encode(
            frames[0], "PNG", save_all=True, append_images=frames[1:], exif=tags
        ),
    )


def _lzw(indices, bits):
    """Codes of a GIF that never grow: the table is cleared in time."""
    clear, size = 1 << bits, bits + 1
    codes = []
    for number, index in enumerate(indices):
        if number % (clear - 2 if clear > 2 else 1) == 0:
            codes.append(clear)
        codes.append(int(index))
    codes.append(clear + 1)
    stream = sum(code << size * place for place, code in enumerate(codes))
    data = stream.to_bytes((size * len(codes) + 7) // 8, "little")
    parts = [data[i : i + 255] for i in range(0, len(data), 255)]
    return (
        bytes([bits])
        + b"".join(bytes([len(part)]) + part for part in parts)
        + b"\0"
    )


def gif(
    *,
    canvas=(9, 7),
    frame=(0, 0, 9, 7),
    bits=4,
    own=None,
    common=True,
    clear=None,
    disposal=0,
    background=0,
    interlaced=False,
    grey=False,
    version=b"GIF89a",
):
    """A GIF of one frame without its end.

    Args:
      canvas: (width, height). frame: (left, top, width, height).
      bits: int, of a pixel. own: colours of the frame's table, or None.
      common: whether there is a table for all frames.
      clear: index of the transparent colour. disposal: 0..7.
      background: index. interlaced: bool. grey: whether the table is a ramp.
    """
    rng = np.random.default_rng(bits)
    count = 1 << bits
    table = rng.integers(0, 256, (count, 3), np.uint8)
    if grey:
        table = np.repeat(np.arange(count, dtype=np.uint8)[:, None], 3, 1)
    head = version + struct.pack("<HH", *canvas)
    head += bytes([(128 if common else 0) | (bits - 1), background, 0])
    head += table.tobytes() if common else b""
    if clear is not None or disposal:
        flags = disposal << 2 | (clear is not None)
        head += b"!\xf9\x04" + bytes([flags, 0, 0, clear or 0, 0])
    flags = 64 * interlaced
    colours = b""
    if own:
        colours = rng.integers(0, 256, (own, 3), np.uint8).tobytes()
        flags |= 128 | (own.bit_length() - 2)
    head += b"," + struct.pack("<HHHH", *frame) + bytes([flags]) + colours
    indices = rng.integers(0, count, frame[2] * frame[3])
    return head + _lzw(indices, max(bits, 2))


def _recoded(contents, bits):
    """A GIF of 4 bits whose table for all frames has fewer colours."""
    kept = 13 + 3 * (1 << bits)
    return (
        contents[:10]
        + bytes([128 | (bits - 1)])
        + contents[11:kept]
        + (contents[13 + 48 :])
    )


def gifs():
    """Yields (name, contents): tables, canvas, transparency, disposal."""
    end = b";"
    for bits in range(1, 9):
        yield f"{bits} bits", gif(bits=bits) + end
    yield "87a", gif(version=b"GIF87a") + end
    yield "interlaced", gif(interlaced=True) + end
    yield "interlaced, 1 row", gif(interlaced=True, frame=(0, 0, 9, 1)) + end
    yield "own table", gif(own=16) + end
    yield "own table alone", gif(own=16, common=False) + end
    yield "own table that is short", gif(own=8, bits=3) + end
    yield "pixels beyond its table", gif(own=8, bits=4) + end
    yield "pixels beyond a ramp", _recoded(gif(grey=True, bits=4), 2) + end
    yield "no table", gif(common=False) + end
    yield "a ramp of grey", gif(grey=True, bits=8) + end
    yield "a short ramp of grey", gif(grey=True, bits=4) + end
    yield (
        "a ramp and a small frame",
        gif(grey=True, bits=4, frame=(1, 1, 3, 3)) + end,
    )
    small = (2, 3, 4, 2)
    yield "frame at a corner", gif(frame=(0, 0, 4, 2)) + end
    yield "frame inside", gif(frame=small) + end
    yield "frame inside, interlaced", gif(frame=small, interlaced=True) + end
    yield "frame inside, background 3", gif(frame=small, background=3) + end
    yield "frame inside, own table", gif(frame=small, own=16) + end
    yield "frame inside, no table", gif(frame=small, common=False) + end
    for index in (0, 5, 15, 200):
        yield f"colour {index} clear", gif(clear=index) + end
        yield (
            f"frame inside, colour {index} clear",
            gif(frame=small, clear=index) + end,
        )
        yield (
            f"frame inside, own table, colour {index} clear",
            gif(frame=small, clear=index, own=8, bits=3) + end,
        )
    for disposal in range(8):
        yield (
            f"disposal {disposal}",
            gif(frame=small, clear=2, disposal=disposal) + end,
        )
    yield "frame wider than the canvas", gif(frame=(0, 0, 12, 7)) + end
    yield "frame that leaves the canvas", gif(frame=(5, 5, 9, 7)) + end
    yield "canvas of nothing", gif(canvas=(0, 0)) + end
    later = gif(frame=(1, 1, 2, 2))[13 + 48 :]
    yield "two frames", gif() + later + end
    yield "two frames, the first small", gif(frame=small) + later + end
    frames = [scene("P"), scene("P").rotate(180)]
    yield (
        "animated",
        encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    )
    yield "no end", gif()
    yield "bytes behind it", gif() + end + b"trailing" * 9
    plain = gif()
    comment = b"!\xfe\x05hello\x03abc\x00"
    wrapped = b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    place = 13 + 48
    for name, part in (("comment", comment), ("loop", wrapped)):
        yield f"a {name} before it", plain[:place] + part + plain[place:] + end
    text = b"!\x01\x0c" + bytes(12) + b"\x02hi\0"
    yield "a plain text before it", plain[:place] + text + plain[place:] + end
    control = b"!\xf9\x04\x01\0\0\x05\0"
    both = control + b"!\xf9\x04\0\0\0\0\0"
    first = gif(frame=small)
    yield "clear and then not", first[:place] + both + first[place:] + end
    yield "cut", plain[:-8]
