"""Whether a workdir can be written, and holds the checkpoints of a run."""

import os
import pathlib
import shutil

from moco_tf.doctor import table
from moco_tf.monitoring import counter

_EXTRA = 2  # best/, and the one that is being written


def row(workdir, each, keep, usage=shutil.disk_usage):
    """The row of the table about the disk.

    Args:
      workdir: path, which need not exist; "" = none was given.
      each: bytes of a checkpoint. keep: int, checkpoints that stay.
      usage: function of a path that returns an object with `free`, bytes.
    """
    needed = (keep + _EXTRA) * each
    words = (
        f"{counter.format_bytes(needed)} for {keep + _EXTRA} checkpoints of "
        f"{counter.format_bytes(each)}"
    )
    if not workdir:
        remedy = "Pass --workdir to compare with its file system."
        return table.Row("disk", words, table.OK, remedy)
    place = pathlib.Path(workdir).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return table.Row(
            "disk",
            f"{place} cannot be written to",
            table.FAIL,
            "Pass another --workdir, or grant permission on the folder.",
        )
    free = usage(place).free
    words += f"; {counter.format_bytes(free)} free at {place}"
    remedy = "Free space, pass another --workdir, or lower checkpoint.keep."
    if free < needed:
        return table.Row("disk", words, table.FAIL, remedy)
    if free < 2 * needed:
        return table.Row("disk", words, table.WARN, remedy)
    return table.Row("disk", words)
