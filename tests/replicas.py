"""What a module computes on R replicas, in a process of its own.

Strategies of one process collide, so each number of replicas has its process.
"""

import pathlib
import sys

import numpy as np

from tests import forked

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(module, count, folder):
    """Runs `python -m MODULE COUNT OUT.npz`.

    Args:
      module: its name, or the module. count: of replicas. folder: for OUT.npz.

    Returns:
      dict of the arrays that it wrote.
    """
    path = folder / "out.npz"
    name = getattr(module, "__name__", module)
    words = [sys.executable, "-m", name, str(count), path]
    done = forked.run(words, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return dict(np.load(path))
