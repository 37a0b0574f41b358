"""The compiled kernel of views, as functions that a graph calls.

Numba compiles it once and keeps it in the user's folder for caches, where other
processes and later runs take it from: below $XDG_CACHE_HOME, or ~/.cache.
"""

import functools
import hashlib
import importlib.metadata
import math
import os
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import tensorflow as tf

_SOURCES = (  # what the compiled code follows from
    "distortion_kernel.py",
    "image_ops.py",
    "photometric.py",
    "view_kernel.py",
)
_NO_CHOICE = np.zeros([1, 1, 1], np.float32)  # of an evaluation view
_ALIGNED = 64  # bytes; TensorFlow copies an array that begins elsewhere
_WAY = "numba"


@functools.cache
def why_not() -> str:
    """Why the kernel cannot be compiled on this machine, or ""."""
    try:
        import numba  # noqa: F401  # here: what comes without it must work
    except Exception as error:  # of any kind: it may clash with another package
        return f"{type(error).__name__}: {error}"
    return ""


@functools.cache
def is_there() -> bool:
    """Whether there is a kernel; where not, a line says so once."""
    reason = why_not()
    if reason:
        print(
            f"moco-tf: crops are made by TensorFlow, at about half the speed, "
            f"because Numba cannot be used ({reason}): "
            f"pip install {_wanted()}",
            file=sys.stderr,
        )
    return not reason


def require() -> None:
    """Refuses to go on without Numba (ValueError, with the reason)."""
    reason = why_not()
    if reason:
        raise ValueError(
            "Views are made by a kernel that Numba compiles, so Numba must be "
            f"installed. Received {reason}. Install it (`pip install "
            f"{_wanted()}`), or let TensorFlow make the views "
            "(--config.data.augment_on=graph): at about half the speed, with "
            "pixels that are up to one level from the kernel's."
        )


def _wanted():
    """The requirement of Numba that this package states."""
    try:
        stated = importlib.metadata.requires("moco-tf") or []
    except importlib.metadata.PackageNotFoundError:
        stated = []
    named = [x.partition(";")[0] for x in stated if x.startswith(_WAY)]
    return named[0].strip() if named else _WAY


@functools.cache
def kernel():
    """`view_kernel.make_views`, compiled.

    Side effects: the first call on a machine compiles it, which takes some ten
      seconds, says so, and keeps the result on disk.
    """
    from moco_tf.data import view_kernel

    here = pathlib.Path(__file__).parent
    contents = b"".join((here / name).read_bytes() for name in _SOURCES)
    digest = hashlib.sha256(contents).hexdigest()[:16]
    return compiled(
        view_kernel.make_views, view_kernel.signature(), f"views-{digest}"
    )


def compiled(function, signature, name):
    """Compiles a function of Numba, or takes it from the disk.

    Args:
      function: of numba.njit. signature: tuple of Numba's types.
      name: of its folder in the user's folder for caches.

    Returns:
      the function, which takes those types alone from now on.

    Side effects: what is compiled is kept in the folder, if only this user can
      write there; several processes may do so at a time. What is damaged
      there is removed. A line says when something is compiled.
    """
    folder = _cache_folder(name)
    try:
        _compile(function, signature, folder)
    except Exception as error:  # of any kind: Numba unpickles what is kept
        if folder is None:
            raise
        print(
            f"moco-tf: the compiled views in {folder} cannot be read "
            f"({type(error).__name__}: {error}); they are made anew",
            file=sys.stderr,
        )
        shutil.rmtree(folder, ignore_errors=True)
        _compile(function, signature, _cache_folder(name))
    function.disable_compile()
    return function


def _compile(function, signature, folder):
    from numba import config
    from numba.core import event

    class Compiling(event.Listener):
        """Says so when a function is compiled, not loaded."""

        said = False

        def on_start(self, event):
            kept = "once for this machine"
            if folder is None:
                kept = "not kept: the folder for caches cannot be written to"
            if not self.said:
                print(
                    f"moco-tf: compiling the views ({kept}), some ten seconds",
                    file=sys.stderr,
                    flush=True,
                )
            self.said = True

        def on_end(self, event):
            """Nothing is said."""

    before = config.CACHE_DIR
    try:
        if folder is not None:
            config.CACHE_DIR = str(folder)  # read at once
            function.enable_caching()
        with event.install_listener("numba:compile", Compiling()):
            function.compile(signature)
    finally:
        config.CACHE_DIR = before


def _cache_folder(name):
    """A folder that this user alone writes to; None where there is none."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = pathlib.Path(root, "moco_tf", name)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        state = folder.stat()
    except OSError:
        return None
    # What lies there is run: nobody else may have written it.
    is_own = not hasattr(os, "getuid") or state.st_uid == os.getuid()
    return folder if is_own and not state.st_mode & 0o022 else None


def make_views(images, choices, wanted, sizes, distorts):
    """Makes views of one image, or of each of a batch, in one call.

    Args:
      images: uint8 [H, W, C], or [n, H, W, C].
      choices: dict of `ViewStage.choose`: "pair" [2, CHOICE] and perhaps
        "small" [V, CHOICE]; of a batch with a first axis more.
      wanted: bool [2], the query and the key view; others are zeros. Small
        views go with the query.
      sizes: dict, pixels of a side of "query", and perhaps of "key" and
        "small".
      distorts: bool, whether colours and sharpness change.

    Returns:
      dict of uint8 by the names of `sizes`: [S, S, C], "small" [V, s, s, C];
      of a batch with a first axis more.
    """
    make = kernel()

    def call(images, wanted, *choices):
        count, channels = images.shape[:-3], images.shape[-1]
        images = images.reshape(-1, *images.shape[-3:])
        views = []
        for name, size in sizes.items():
            rows = choices[name == "small"]
            rows = rows.reshape(-1, *rows.shape[-2:])
            several = rows.shape[-2:-1] if name == "small" else ()
            shape = (*count, *several, size, size, channels)
            view = _empty(shape)
            if wanted[int(name == "key")]:
                each = view.reshape(-1, size, size, channels)
                make(images, rows, int(name == "key"), distorts, 0, each)
            else:
                view[:] = 0
            views.append(view)
        return views

    names = ["pair", *(["small"] if "small" in sizes else [])]
    rows = [choices[name] for name in names]
    made = tf.numpy_function(
        call,
        [images, wanted, *rows],
        [tf.uint8] * len(sizes),
        stateful=False,
    )
    for (name, size), view in zip(sizes.items(), made, strict=True):
        several = rows[-1].shape[-2:-1] if name == "small" else []
        view.set_shape(
            [*images.shape[:-3], *several, size, size, images.shape[-1]]
        )
    return dict(zip(sizes, made, strict=True))


def make_evaluation_view(image, short_side, size):
    """As image_ops.resize_and_centre_crop, rounded to uint8, in one call.

    Args:
      image: uint8 [H, W, C]; C is 3 or 6. short_side, size: int, pixels.

    Returns:
      uint8 [size, size, C].
    """
    make = kernel()

    def call(image):
        view = _empty((size, size, image.shape[-1]))
        make(image[np.newaxis], _NO_CHOICE, 0, False, short_side, view[None])
        return view

    view = tf.numpy_function(call, [image], tf.uint8, stateful=False)
    return tf.ensure_shape(view, [size, size, image.shape[-1]])


def _empty(shape):
    """An array of uint8 that TensorFlow takes without a copy."""
    count = math.prod(shape)
    memory = np.empty(count + _ALIGNED, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNED
    return memory[start : start + count].reshape(shape)
