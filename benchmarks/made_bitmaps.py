"""BMP, TIFF and WebP files of all kinds."""

import struct

import numpy as np
from PIL import Image

from benchmarks import made_exif
from benchmarks.made_jpegs import encode, scene

_WIDTH, _HEIGHT = 11, 5
_USUAL = (0xFF0000, 0xFF00, 0xFF)
# Of TIFF: the modes of images that Pillow writes with each.
_ALL = "1 L LA P RGB RGBA CMYK"
_PACKINGS = {
    "raw": _ALL,
    "packbits": _ALL,
    "tiff_lzw": _ALL,
    "tiff_adobe_deflate": _ALL,
    "tiff_deflate": "L RGB",
    "jpeg": "L RGB CMYK",
    "group3": "1",
    "group4": "1",
    "tiff_ccitt": "1",
    "lzma": "RGB",
    "zstd": "RGB",
}


def bmp(
    bits,
    *,
    header=40,
    top_down=False,
    compression=0,
    masks=(),
    colours=None,
    grey=False,
    ramp=False,
    gap=0,
    data=None,
    more=b"",
    stated=None,
):
    """A BMP of random pixels, written as the format says.

    Args:
      bits: int, of a pixel. header: int, bytes of the second header.
      top_down: bool. compression: number. masks: of the channels.
      colours: int, of the palette, None for all. grey, ramp: whether it goes
        from black to white, or in steps of a level.
      gap: int, bytes between headers and pixels. data: bytes of the pixels.
      more: bytes behind them. stated: size of the file in its header.
    """
    rng = np.random.default_rng(bits)
    count = (1 << bits if colours is None else colours) if bits <= 8 else 0
    table = rng.integers(0, 256, (count, 4), np.uint8)
    if grey or ramp:
        last = count - 1 if ramp else 255
        levels = np.linspace(0, last, count).round().astype(np.uint8)
        table = np.repeat(levels[:, None], 4, 1)
    table = table[:, : 3 if header == 12 else 4].tobytes()
    row = (_WIDTH * bits + 31) // 32 * 4
    if data is None:
        limit = min(count, 256) if bits == 8 else 256
        pixels = rng.integers(0, limit, row * _HEIGHT, np.uint8)
        data = (pixels & (0x11 if count == 2 and bits == 4 else 255)).tobytes()
    beside = struct.pack(f"<{len(masks)}I", *masks)
    if header == 12:
        head = struct.pack("<IHHHH", 12, _WIDTH, _HEIGHT, 1, bits)
    else:
        height = -_HEIGHT if top_down else _HEIGHT
        head = struct.pack(
            "<IiiHHIIiiII", header, _WIDTH, height, 1, bits, compression,
            len(data), 0, 0, colours or 0, 0,
        )  # fmt: skip
        if header > 40:
            head += beside.ljust(header - 40, b"\0")
            beside = b""
    body = head + beside + table + bytes(gap)
    start = 14 + len(body)
    whole = start + len(data) if stated is None else stated
    return b"BM" + struct.pack("<III", whole, 0, start) + body + data + more


def bmps():
    """Yields (name, contents): headers, depths, masks, bytes behind."""
    for bits in (1, 4, 8, 16, 24, 32):
        yield f"{bits} bits", bmp(bits)
        yield f"{bits} bits from the top down", bmp(bits, top_down=True)
        for header in (52, 56, 64, 108, 124):
            yield f"{bits} bits, header {header}", bmp(bits, header=header)
        yield f"{bits} bits, a gap", bmp(bits, gap=6)
        yield f"{bits} bits, bytes behind", bmp(bits, more=b"behind" * 7)
        yield f"{bits} bits, a byte behind", bmp(bits, more=b"\0")
        yield f"{bits} bits, no size", bmp(bits, stated=0)
    yield "2 bits", bmp(2)
    for bits in (1, 4, 8, 24):
        yield f"{bits} bits of OS/2", bmp(bits, header=12)
    numbers = ((1, 2), (4, 16), (4, 5), (4, 2), (8, 256), (8, 2), (8, 100))
    for bits, colours in numbers:
        yield f"{bits} bits, {colours} colours", bmp(bits, colours=colours)
        yield (
            f"{bits} bits, {colours} greys",
            bmp(bits, colours=colours, grey=True),
        )
    yield (
        "8 bits, bytes behind, top down",
        bmp(8, top_down=True, more=b"behind"),
    )
    for bits, name, masks in (
        (16, "555", (0x7C00, 0x3E0, 0x1F)),
        (16, "565", (0xF800, 0x7E0, 0x1F)),
        (16, "444", (0xF00, 0xF0, 0xF)),
        (24, "usual", _USUAL),
        (32, "usual", _USUAL),
        (32, "exchanged", _USUAL[::-1]),
        (32, "upper", (0xFF000000, 0xFF0000, 0xFF00)),
    ):
        yield (
            f"{bits} bits, {name} masks",
            bmp(bits, compression=3, masks=masks),
        )
        for header in (56, 108, 124):
            yield (
                f"{bits} bits, {name} masks, header {header}",
                bmp(bits, compression=3, masks=masks, header=header),
            )
    alpha = (*_USUAL, 0xFF000000)
    yield "32 bits, alpha mask", bmp(32, compression=3, masks=alpha, header=108)
    run = bytes([_WIDTH, 7, 0, 0]) * (_HEIGHT - 1) + bytes([_WIDTH, 3, 0, 1])
    yield "runs of 8 bits", bmp(8, compression=1, data=run)
    mixed = b"\0\x03\1\2\3\0\x08\5\0\0" * _HEIGHT + b"\0\1"
    yield "runs and pixels of 8 bits", bmp(8, compression=1, data=mixed)
    yield (
        "a delta of 8 bits",
        bmp(8, compression=1, data=b"\x03\4\0\2\2\1\x02\6\0\0\0\1"),
    )
    yield "runs of 4 bits", bmp(4, compression=2, data=run)
    yield "a JPEG inside", bmp(24, compression=4, data=encode(scene(), "JPEG"))
    plain = bmp(24)
    yield "cut", plain[:-20]
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"{mode} of Pillow", encode(scene(mode), "BMP")


def tiff(samples, order="<", *, tile=None, planar=False, more=(), **options):
    """An uncompressed TIFF.

    Args:
      samples: uint8 or uint16 [H, W, C]. order: "<" or ">".
      tile: int, pixels of a tile's side; None: one strip. planar: bool.
      more: further entries. options: photometric, which is 1 or 2 unless said.
    """
    height, width, channels = samples.shape
    bits = 8 * samples.itemsize
    samples = samples.astype(samples.dtype.newbyteorder(order))
    planes = np.split(samples, channels, 2) if planar else [samples]
    parts = []
    for plane in planes:
        if tile is None:
            parts.append(plane.tobytes())
            continue
        padded = np.pad(
            plane, [(0, -height % tile), (0, -width % tile), (0, 0)]
        )
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                parts.append(
                    padded[top : top + tile, left : left + tile].tobytes()
                )
    data = b"".join(parts)
    places = np.cumsum([8, *map(len, parts)])[:-1]
    make = made_exif.entry
    photometric = options.get("photometric", 1 if channels == 1 else 2)

    def several(tag, kind, values):
        number, letter = made_exif.KINDS[kind]
        packed = b"".join(struct.pack(order + letter, int(x)) for x in values)
        return tag, number, len(values), packed

    where = (324, 325) if tile else (273, 279)
    entries = [
        make(256, "LONG", width, order),
        make(257, "LONG", height, order),
        several(258, "SHORT", [bits] * channels),
        make(259, "SHORT", 1, order),
        make(262, "SHORT", photometric, order),
        several(where[0], "LONG", places),
        make(277, "SHORT", channels, order),
        several(where[1], "LONG", [len(part) for part in parts]),
        make(284, "SHORT", 1 + planar, order),
        *more,
    ]
    if tile:
        entries += [make(tag, "SHORT", tile, order) for tag in (322, 323)]
    else:
        entries.append(make(278, "LONG", height, order))
    start = 8 + len(data) + len(data) % 2
    made = made_exif.block(sorted(entries), order, start=start)
    return made[:8] + data + made[8 + len(data) :]


def tiffs():
    """Yields (name, contents): layouts, compressions, colours."""
    rgb = np.asarray(scene())
    grey = rgb[..., :1]
    deep = rgb.astype(np.uint16) * 257 - rgb[::-1]
    for order in "<>":
        yield f"RGB {order}", tiff(rgb, order)
        yield f"RGB tiles {order}", tiff(rgb, order, tile=16)
        yield f"RGB planar {order}", tiff(rgb, order, planar=True)
        yield f"grey {order}", tiff(grey, order)
        yield f"grey, white is 0 {order}", tiff(grey, order, photometric=0)
        yield f"grey of 16 bits {order}", tiff(deep[..., :1], order)
        yield f"RGB of 16 bits {order}", tiff(deep, order)
        for value in range(10):
            turn = made_exif.entry(274, "SHORT", value, order)
            yield f"orientation {value} {order}", tiff(rgb, order, more=[turn])
        turn = made_exif.entry(274, "LONG", 6, order)
        yield f"orientation of type LONG {order}", tiff(rgb, order, more=[turn])
    for packing, modes in _PACKINGS.items():
        for mode in modes.split():
            yield (
                f"{mode} {packing}",
                encode(scene(mode), "TIFF", compression=packing),
            )
    yield "Lab", encode(scene().convert("LAB"), "TIFF")
    yield "YCbCr", encode(scene().convert("YCbCr"), "TIFF")
    pages = {"save_all": True, "append_images": [scene().rotate(180)]}
    yield "two pages", encode(scene(), "TIFF", **pages)
    yield (
        "turned, packed",
        encode(scene(), "TIFF", compression="tiff_lzw", tiffinfo={274: 6}),
    )
    yield "BigTIFF", encode(scene(), "TIFF", big_tiff=True)
    whole = np.arange(99, dtype=np.int32).reshape(9, 11)
    yield "whole numbers of 32 bits", encode(Image.fromarray(whole), "TIFF")
    real = np.linspace(0, 1, 99, dtype=np.float32).reshape(9, 11)
    yield "real numbers", encode(Image.fromarray(real), "TIFF")
    yield "bytes behind it", tiff(rgb) + b"trailing" * 9
    yield "cut", encode(scene(), "TIFF", compression="tiff_lzw")[:-900]


def webps():
    """Yields (name, contents): lossy, lossless, alpha, animated, turned."""
    for mode in ("L", "RGB", "RGBA", "P"):
        for lossless in (False, True):
            name = f"{mode} {'lossless' if lossless else 'lossy'}"
            yield name, encode(scene(mode), "WEBP", lossless=lossless)
    clear = scene("RGBA")
    clear.putalpha(scene("L"))
    for lossless in (False, True):
        name = "lossless" if lossless else "lossy"
        yield f"alpha, {name}", encode(clear, "WEBP", lossless=lossless)
        yield (
            f"alpha, {name}, exact",
            encode(clear, "WEBP", lossless=lossless, exact=True),
        )
    frames = {"save_all": True, "append_images": [scene().rotate(180)]}
    yield "animated", encode(scene(), "WEBP", **frames)
    for value in range(10):
        tags = Image.Exif()
        tags[made_exif.ORIENTATION] = value
        yield f"orientation {value}", encode(scene(), "WEBP", exif=tags)
    packet = made_exif.xmp(b'tiff:Orientation="8"')
    yield "XMP", encode(scene(), "WEBP", xmp=packet)
    yield "1 x 1", encode(scene(size=(1, 1)), "WEBP")
    plain = encode(scene(), "WEBP", lossless=True)
    yield "bytes behind it", plain + b"trailing" * 9
    yield "cut", plain[: len(plain) // 2]
