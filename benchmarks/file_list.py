"""Seconds and memory from the start of a process to the first batch of a list.

python benchmarks/file_list.py
python benchmarks/file_list.py --entries=14000000 --folders=21000

Each entry of the list is a file of its own name, in shuffled order and with
its class; the files are links to a few pictures of 500 x 375 pixels. The
process imports TensorFlow, opens the list, which looks for every file, takes
its fingerprint, as a run does, and makes the first batch: 256 samples, two
views of 224 pixels. Exits 1 beyond 10 s (median of the rounds) or 1 GB.
"""

import argparse
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

SECONDS, GIGABYTES = 10.0, 1.0
BATCH, SIZE = 256, 224
LINKS = 30_000  # of a file; ext4 allows 65,000


def child(path):
    """Makes the first batch in this process; prints what took how long."""
    marks = [time.perf_counter()]
    from moco_tf.cli import quiet

    quiet.prepare()
    with quiet.imports():
        import tensorflow as tf

        from moco_tf.data import sources, stream, views
    marks.append(time.perf_counter())
    source = sources.open_source(f"list:{path}")
    source.fingerprint()
    marks.append(time.perf_counter())
    batches = stream.Stream(source, views.RECIPES["v2"], SIZE, BATCH)
    batch = next(iter(batches.batches(replicas=1, first_step=0, last_step=1)))
    marks.append(time.perf_counter())
    if not bool(tf.reduce_all(batch["valid"])):
        sys.exit("a picture could not be read")
    imports, opening, first = (
        after - before
        for before, after in zip(marks[:-1], marks[1:], strict=True)
    )
    print(
        f"imports {imports:.1f} s, list {opening:.1f} s, batch {first:.1f} s",
        flush=True,
    )


def measure(path):
    """Runs `child` in a process of its own.

    Returns:
      seconds from its start to its first batch, peak resident gigabytes,
      text that says what took how long.
    """
    root = pathlib.Path(__file__).resolve().parent.parent
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, __file__, f"--list={path}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    line = process.stdout.readline().strip()
    seconds = time.perf_counter() - start
    # wait4 gives the memory of this one child; getrusage that of the largest.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not line:
        sys.exit(f"the process ended with status {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, else KiB
    cpu = usage.ru_utime + usage.ru_stime
    text = f"{line}; {cpu:.1f} s of CPU"
    return seconds, usage.ru_maxrss * unit / 1e9, text


def generate(root, entries, folders):
    """Writes pictures, links to them and `list.txt`; returns its path.

    Args:
      root: Path, an empty folder. entries, folders: int.
    """
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0)
    lines = []
    for folder in range(folders):
        (root / f"class{folder:05d}").mkdir()
    for number in range(entries):
        if number % LINKS == 0:
            picture = root / f"picture{number // LINKS}.jpg"
            pixels = noise.integers(0, 256, (25, 34, 3), np.uint8)
            Image.fromarray(pixels).resize((500, 375)).save(picture, quality=90)
        name = f"class{number % folders:05d}"
        line = f"{name}/{name}_{number:08d}.jpg"
        os.link(picture, f"{root}/{line}")
        lines.append(f"{line}\t{name}\n")
    random.Random(0).shuffle(lines)
    path = root / "list.txt"
    path.write_text("".join(lines))
    return path


def main():
    parser = argparse.ArgumentParser(
        description="Process start to the first batch of a long file list.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--entries", type=int, default=1_000_000, help="[1000000]"
    )
    parser.add_argument("--folders", type=int, default=1000, help="[1000]")
    parser.add_argument("--rounds", type=int, default=3, help="[3]")
    parser.add_argument("--list", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        child(options.list)
        return
    measured = []
    with tempfile.TemporaryDirectory() as root:
        path = generate(pathlib.Path(root), options.entries, options.folders)
        for number in range(options.rounds):
            seconds, gigabytes, text = measure(path)
            measured.append((seconds, gigabytes))
            print(
                f"round {number + 1}: {seconds:.1f} s, {gigabytes:.2f} GB"
                f"  ({text})",
                flush=True,
            )
    seconds = statistics.median(seconds for seconds, _ in measured)
    gigabytes = max(gigabytes for _, gigabytes in measured)
    print(
        f"{options.entries:,} entries in {options.folders:,} folders: first "
        f"batch after {seconds:.1f} s (median; limit {SECONDS:g} s), "
        f"{gigabytes:.2f} GB (limit {GIGABYTES:g} GB)"
    )
    if seconds > SECONDS or gigabytes > GIGABYTES:
        sys.exit("beyond the limits")


if __name__ == "__main__":
    main()
