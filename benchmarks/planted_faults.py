"""Plants 50 faults in a copy of a folder of photographs; doctor must find all.

    python benchmarks/planted_faults.py --images=photos

A fault counts if doctor's CSV names the file with the right kind. Exits 1
unless all are named and no untouched image is named (but for grey ones: a
photograph may be that).
"""

import argparse
import collections
import csv
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np
from PIL import Image

# How many of each; 50 together.
COUNTS = {
    "truncated": 6,
    "flipped": 6,
    "sector": 4,
    "empty": 3,
    "text": 3,
    "avif": 2,
    "png": 4,
    "tiny": 4,
    "grey": 4,
    "plain": 3,
    "copy": 4,
    "recompressed": 4,
    "rescaled": 3,
}
_BROKEN = {"unreadable", "damaged"}
_KINDS = {
    "truncated": {"unreadable"},
    "flipped": _BROKEN,
    "one_bit": _BROKEN,
    "sector": _BROKEN,
    "empty": {"unreadable"},
    "text": {"unreadable"},
    "avif": {"unreadable"},
    "png": {"misnamed"},
    "tiny": {"tiny"},
    "grey": {"grey"},
    "plain": {"plain"},
    "copy": {"copy"},
    "recompressed": {"near_copy"},
    "rescaled": {"near_copy"},
}
_FLIPS = {"flipped": 64, "one_bit": 1}  # bits of a file
_SECTOR = 512  # bytes of a sector of a disk
_CHANGED = 1.0  # levels, mean change of the picture that counts as a fault


class Planted(NamedTuple):
    """A fault. fault: key of COUNTS. name: of the file. twin: name or ""."""

    fault: str
    name: str
    twin: str = ""

    def is_named(self, rows):
        """Whether doctor's rows (name, kind, detail) name this fault.

        Of two copies either may be called the copy.
        """
        kinds = _KINDS[self.fault]
        if not self.twin:
            return any(r[0] == self.name and r[1] in kinds for r in rows)
        pairs = ((self.name, self.twin), (self.twin, self.name))
        return any(
            r[1] in kinds and (r[0], r[2].removeprefix("of ")) in pairs
            for r in rows
        )


def plant(folder, counts=None, seed=0):
    """Plants faults in the JPEG files of a folder, which they change.

    Args:
      folder: path; its files lie directly in it. counts: dict as COUNTS.
      seed: int, of the choice of files and bits.

    Returns:
      list of Planted.
    """
    rng = np.random.default_rng(seed)
    names = sorted(path.name for path in folder.iterdir())
    faults = [
        fault
        for fault, count in (counts or COUNTS).items()
        for _ in range(count)
    ]
    chosen = rng.choice(len(names), len(faults), replace=False)
    planted = []
    for fault, position in zip(faults, chosen.tolist(), strict=True):
        path = folder / names[position]
        if fault in ("copy", "recompressed", "rescaled"):
            twin = folder / f"{rng.integers(10**6):06d}_{fault}.jpg"
            twin.write_bytes(_twin(fault, path))
            planted.append(Planted(fault, path.name, twin.name))
        else:
            path.write_bytes(_change(fault, path.read_bytes(), rng))
            planted.append(Planted(fault, path.name))
    return planted


def _change(fault, data, rng):
    """The bytes of a file with a fault."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if fault == "truncated":
        return data[: int(len(data) * rng.uniform(0.3, 0.9))]
    if fault == "sector" or fault in _FLIPS:
        return _damage(fault, data, rng)
    if fault == "empty":
        return b""
    if fault == "text":
        return b"This is no image.\n"
    if fault in ("avif", "png"):
        return _encode(image, fault.upper())
    if fault == "tiny":
        return _encode(image.resize((24, 18)))
    if fault == "grey":
        return _encode(image.convert("L"))
    return _encode(
        Image.new("RGB", image.size, tuple(rng.integers(256, size=3)))
    )


def _twin(fault, path):
    """The bytes of a copy of a file."""
    if fault == "copy":
        return path.read_bytes()
    image = Image.open(path).convert("RGB")
    if fault == "recompressed":
        return _encode(image, quality=40)
    return _encode(image.resize((image.width // 2, image.height // 2)))


def _encode(image, form="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _damage(fault, data, rng):
    """Changes bits of the picture's data until a decoder shows it.

    What counts: Pillow cannot decode the file, or the picture has changed by a
    grey level or more in the mean.
    """
    before = _pixels(data)
    start = data.rindex(b"\xff\xda") + 16  # behind the header of the last scan
    while True:
        damaged = np.frombuffer(data, np.uint8).copy()
        if fault in _FLIPS:
            positions = rng.integers(start, len(data) - 2, _FLIPS[fault])
            bits = 1 << rng.integers(0, 8, _FLIPS[fault])
            np.bitwise_xor.at(damaged, positions, bits.astype(np.uint8))
        else:
            length = min(_SECTOR, len(data) - 2 - start)
            position = rng.integers(start, len(data) - 1 - length)
            noise = rng.integers(0, 256, length, np.uint8)
            damaged[position : position + length] = noise
        after = _pixels(damaged.tobytes())
        if after is None or np.abs(after - before).mean() > _CHANGED:
            return damaged.tobytes()


def _pixels(data):
    """The picture as Pillow decodes it, or None if it cannot."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(image, np.float32)
    except (OSError, SyntaxError):
        return None


def examine(folder, size):
    """Runs doctor on a folder; returns its rows [name, kind, detail]."""
    path = folder.parent / "faults.csv"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "moco_tf",
            "doctor",
            "--config=quickstart",
            f"--config.data.source=folder:{folder}",
            f"--config.data.image_size={size}",
            f"--path={path}",
            "--trial_steps=0",
            "--prove=never",
        ],
        stdout=subprocess.DEVNULL,
    )
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--counts",
        default=",".join(f"{name}:{n}" for name, n in COUNTS.items()),
        help="FAULT:COUNT,...; one_bit, a single flipped bit, is one more",
    )
    parser.add_argument("--size", type=int, default=64, help="pixels of a view")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name) / "copy"
        shutil.copytree(options.images, folder)
        pairs = (pair.split(":") for pair in options.counts.split(","))
        counts = {fault: int(count) for fault, count in pairs}
        planted = plant(folder, counts, options.seed)
        rows = examine(folder, options.size)
    named = [fault for fault in planted if fault.is_named(rows)]
    wanted = collections.Counter(fault.fault for fault in planted)
    seen = collections.Counter(fault.fault for fault in named)
    for fault, count in wanted.items():
        print(f"{fault:<14}{seen[fault]} of {count}")
    for fault in set(planted) - set(named):
        print(f"not found: {fault.fault} {fault.name} {fault.twin}")
    touched = {n for fault in planted for n in (fault.name, fault.twin)}
    false = [r for r in rows if r[0] not in touched and r[1] != "grey"]
    for row in false:
        print("untouched:", *row)
    print(f"{len(named)} of {len(planted)} found; {len(false)} false alarms")
    return 0 if len(named) == len(planted) and not false else 1


if __name__ == "__main__":
    sys.exit(main())
