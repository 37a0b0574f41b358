"""Trains on a folder with 1,000 damaged images: no crash, every one named.

    python benchmarks/damaged_images.py

Writes the images by a seed: cut off, bits flipped, under another extension, of
a header that claims a huge size, empty, random bytes. Then runs one epoch of
`moco-tf pretrain` on them and on intact ones beside. Each must be decoded or
replaced, counted in metrics.csv and named in unreadable.csv; the peak of memory
is compared with that of a run on intact images alone. Exits 1 otherwise.
"""

import argparse
import collections
import csv
import io
import os
import pathlib
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib

import numpy as np
from PIL import Image

from moco_tf.monitoring import metrics_csv

BATCH = 20
SMALL = (
    "--config=moco_cifar10",
    "--devices=cpu",
    "--config.model.width=0.0625",
    "--config.data.image_size=32",
    "--config.model.bn_groups=2",
    "--config.moco.queue_size=100",
    "--config.knn.bank=",
    "--config.knn.query=",
    "--config.train.epochs=1",
    f"--config.train.batch_size={BATCH}",
    "--config.data.max_corrupt_fraction=1",
)
NEVER = ("empty", "random", "random behind a magic", "huge")  # can be read
ROOM = 0.3e9  # bytes that damaged images may take beside intact ones


def intact(rng):
    """A small picture as a JPEG or a PNG: its bytes, its extension."""
    width, height = rng.integers(24, 160, 2)
    coarse = rng.integers(0, 256, [4, 4, 3], np.uint8)
    image = Image.fromarray(coarse).resize((int(width), int(height)))
    form, mode = [
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
    ][rng.integers(5)]
    options = {"progressive": bool(rng.integers(2))} if form == "JPEG" else {}
    data = io.BytesIO()
    image.convert(mode).save(data, form, **options)
    return data.getvalue(), "jpg" if form == "JPEG" else "png"


def _truncated(rng):
    data, extension = intact(rng)
    return data[: rng.integers(1, len(data))], extension


def _flipped(rng):
    data, extension = intact(rng)
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    bits[rng.integers(0, len(bits), rng.integers(1, 65))] ^= 1
    return np.packbits(bits).tobytes(), extension


def _misnamed(rng):
    """Another format's bytes; those of a JPEG or a PNG can be read."""
    data, extension = intact(rng)
    if rng.integers(2):
        return data, {"jpg": "png", "png": "jpg"}[extension]
    other = io.BytesIO()
    form = ("GIF", "BMP", "JPEG2000", "AVIF")[rng.integers(4)]
    Image.open(io.BytesIO(data)).convert("RGB").save(other, form)
    return other.getvalue(), extension


def _huge(rng):
    """A few hundred bytes that claim up to 2^62 pixels."""
    if rng.integers(2):
        sides = (2**31 - 1, 2**32 - 1, 65_536, 30_000)
        side = sides[rng.integers(len(sides))]
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        pixels = zlib.compress(bytes(100_000))
        chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks)), "png"
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, "JPEG")
    before, frame, after = data.getvalue().partition(b"\xff\xc0")
    # Of a frame's header: its length, 8 bits, height, width.
    claimed = after[:3] + b"\xff\xff\xff\xff" + after[7:]
    return before + frame + claimed, "jpg"


def _chunk(named):
    kind, data = named
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def _empty(rng):
    return b"", ("jpg", "png")[rng.integers(2)]


def _random(rng):
    return rng.bytes(rng.integers(1, 5000)), ("jpg", "png")[rng.integers(2)]


def _magic(rng):
    extension = ("jpg", "png")[rng.integers(2)]
    magic = {"jpg": b"\xff\xd8\xff\xe0", "png": b"\x89PNG\r\n\x1a\n"}
    return magic[extension] + rng.bytes(rng.integers(1, 5000)), extension


DAMAGES = {
    "truncated": _truncated,
    "flipped": _flipped,
    "misnamed": _misnamed,
    "huge": _huge,
    "empty": _empty,
    "random": _random,
    "random behind a magic": _magic,
}


def write(root, damaged, sound, seed):
    """Writes damaged and sound images to a folder, mixed by their names.

    Args:
      root: Path, made if missing. damaged, sound: how many of each.
      seed: int, which fixes every byte.

    Returns:
      dict name -> key of DAMAGES, or "intact".
    """
    rng = np.random.default_rng(seed)
    kinds = [list(DAMAGES)[n % len(DAMAGES)] for n in range(damaged)]
    kinds += ["intact"] * sound
    root.mkdir(parents=True, exist_ok=True)
    written = {}
    for number, place in enumerate(rng.permutation(len(kinds))):
        kind = kinds[place]
        data, extension = DAMAGES.get(kind, intact)(rng)
        name = f"{number:05d}.{extension}"
        (root / name).write_bytes(data)
        written[name] = kind
    return written


def faults(written, named, counted):
    """What is wrong with the names of images that could not be read, a list.

    Args:
      written: of `write`. named: names in unreadable.csv.
      counted: int, of metrics.csv, over an epoch that met each image once.
    """
    wrong = [f"{n} is intact" for n in named if written[n] == "intact"]
    wrong += [
        f"{name} ({kind}) was read"
        for name, kind in written.items()
        if kind in NEVER and name not in named
    ]
    if counted != len(named) or len(set(named)) != len(named):
        wrong.append(f"{counted} were counted, {len(named)} named")
    return wrong


def train(images, workdir):
    """One epoch of the command; returns its seconds and its peak in bytes."""
    command = [sys.executable, "-m", "moco_tf", "pretrain", *SMALL]
    clock = time.monotonic()
    result = subprocess.run(
        [
            *command,
            f"--config.data.source=folder:{images}",
            f"--workdir={workdir}",
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    )
    if result.returncode:
        sys.exit(f"status {result.returncode}: {result.stderr[-3000:]}")
    # Of all children so far, so the larger run comes second.
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return time.monotonic() - clock, peak


def main():
    parser = argparse.ArgumentParser(
        description="One epoch on damaged images: no crash, all named.",
        allow_abbrev=False,
    )
    parser.add_argument("--damaged", type=int, default=1000, help="[1000]")
    parser.add_argument("--whole", type=int, default=1000, help="[1000]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    options = parser.parse_args()
    if (options.damaged + options.whole) % BATCH or options.whole % BATCH:
        parser.error(f"--whole and the sum must be multiples of {BATCH}")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write(root / "intact", 0, options.whole, options.seed)
        _, before = train(root / "intact", root / "run-intact")
        written = write(
            root / "images", options.damaged, options.whole, options.seed
        )
        seconds, after = train(root / "images", root / "run")
        with (root / "run" / "unreadable.csv").open() as file:
            named = [row["name"] for row in csv.DictReader(file)]
        rows = metrics_csv.read(root / "run" / "metrics.csv")
    wrong = faults(written, named, sum(row["unreadable"] for row in rows))
    lost = collections.Counter(written[name] for name in named)
    for kind, count in collections.Counter(written.values()).items():
        print(f"{kind:<22}{count:>6}, replaced and named {lost[kind]:>6}")
    print(
        f"{len(written)} images in {seconds:.0f} s, {len(named)} replaced, "
        f"{len(wrong)} faults {wrong[:5]}; peak {after / 1e9:.2f} GB, on "
        f"intact images {before / 1e9:.2f} GB"
    )
    sys.exit(1 if wrong or after > before + ROOM else 0)


if __name__ == "__main__":
    main()
