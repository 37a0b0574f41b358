"""A disk of a few megabytes, where the machine lets a test have one."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def mounted(folder, options):
    """Mounts a disk in memory on a folder; skips where that is not allowed.

    Args:
      folder: Path, empty. options: of mount, "size=4m" or "ro".
    """
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("a small disk needs the program mount")
    if result.returncode:
        pytest.skip(f"no small disk may be mounted: {result.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Leaves no byte free; returns the file that takes the room."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
    return path
