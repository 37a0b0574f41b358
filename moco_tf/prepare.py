"""Fills a prepared cache: decode once, shrink once, read many times."""

import collections
import errno
import os
import shutil
import sys
from concurrent import futures

import numpy as np
import tensorflow as tf

import moco_tf
from moco_tf.data import prepared_files, prepared_writer, sources, unreadable
from moco_tf.monitoring import counter

_AHEAD = 8  # images per thread that may wait for the one before them
# Not the fault of an image: the cache must not call it unreadable for good.
_NOT_THE_IMAGE = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,  # input and output errors among others
)


def prepare(spec, folder, short_side=256, stream=None):
    """Writes a source's decoded images as a cache; goes on with one begun.

    Images whose short side is longer are resized to it, antialiased; others
    stay as they are. An image that cannot be read keeps its place, so that the
    stream replaces it just as it does for the source.

    Args:
      spec: of the source. folder: of the cache; made if missing.
      short_side: int, pixels.
      stream: text stream of the progress; None: standard output.

    Returns:
      dict, about.json of the finished cache.

    Raises:
      ValueError: before any work, for a folder that holds something else;
        if not one image can be read.
      OSError: when the disk is full; what is committed stays.
    """
    folder = os.path.abspath(os.path.expanduser(folder))
    source = sources.open_source(spec)
    settings = describe(source, spec, short_side)
    check_folder(folder, settings)
    about = prepared_files.read_about(folder)
    if about and about["finished"]:
        print(f"This cache is finished: {folder}", file=stream)
        return about
    writer = prepared_writer.Writer(folder, settings)
    try:
        _run(source, writer, short_side, folder, stream or sys.stdout)
        if writer.about["unreadable"] == len(source):
            raise ValueError(
                "A cache needs at least one image that can be read. Received "
                f"{len(source)} images, none readable; the reasons are in "
                f"{os.path.join(folder, prepared_files.UNREADABLE)}."
            )
        writer.commit(finished=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        done = writer.about["images"]
        raise OSError(
            f"The disk of {folder} is full. {done} of {len(source)} images are "
            "in the cache and stay. Make room and start the same command "
            "again: it goes on there."
        ) from error
    finally:
        writer.close()
    return writer.about


def describe(source, spec, short_side):
    """The settings of a cache, for about.json."""
    if short_side < 1:
        raise ValueError(
            "short_side must be at least 1 pixel. Received "
            f"short_side={short_side}."
        )
    return {
        "source": sources.absolute(spec),
        "fingerprint": source.fingerprint(),
        "short_side": short_side,
        "of": len(source),
        "labelled": source.labels is not None,
        "class_names": source.class_names,
        "moco_tf": moco_tf.__version__,
    }


def check_folder(folder, settings):
    """Refuses a folder that holds other files, or another cache.

    Args:
      folder: str. settings: dict of `describe`.
    """
    about = prepared_files.read_about(folder)
    if about is None:
        found = os.listdir(folder) if os.path.isdir(folder) else []
        if found:
            raise ValueError(
                "A cache needs a folder of its own. Received "
                f"{folder!r}, which holds {', '.join(sorted(found)[:5])}. Give "
                "another --path."
            )
        return
    names = ("fingerprint", "short_side", "of", "labelled", "class_names")
    differ = [name for name in names if about[name] != settings[name]]
    if differ:
        raise ValueError(
            "A cache goes on only with the source and settings it was begun "
            f"with. {folder!r} is of {about['source']}, short_side="
            f"{about['short_side']}. Received {settings['source']}, "
            f"short_side={settings['short_side']}, which differ in "
            f"{', '.join(differ)}. Give another --path, or remove that folder."
        )


def _run(source, writer, short_side, folder, stream):
    """Appends all images that the writer does not have yet, in order."""
    count, first = len(source), writer.about["images"]
    labels = np.full(count, -1) if source.labels is None else source.labels
    read = reader(source, short_side)
    threads = os.cpu_count()
    pool = futures.ThreadPoolExecutor(threads)
    waiting = collections.deque()
    places = iter(range(first, count))
    told = False
    try:
        with counter.Counter(count, first, "preparing", stream) as progress:
            for place in range(first, count):
                while len(waiting) < _AHEAD * threads:
                    following = next(places, None)
                    if following is None:
                        break
                    waiting.append(pool.submit(read, following))
                image, reason = waiting.popleft().result()
                label, name = int(labels[place]), source.name(place)
                if image is None:
                    writer.append_unreadable(reason, label, name)
                else:
                    writer.append(image, label, name)
                progress.add(1)
                if writer.about["images"] > first and not told:
                    told = True
                    progress.message(_forecast(writer.about, folder))
    finally:
        pool.shutdown(cancel_futures=True)


def _forecast(about, folder):
    """What the cache will take, from what it takes so far."""
    so_far = about["bytes"][prepared_files.IMAGES]
    whole = so_far / about["images"] * about["of"] / 1e9
    free = (shutil.disk_usage(folder).free + so_far) / 1e9
    text = f"the cache will take about {whole:.1f} GB; {free:.1f} GB are free"
    return text if whole < free else f"warning: {text}"


def reader(source, short_side):
    """A function of a place: (uint8 [H, W, 3], None) or (None, reason).

    Args:
      source: Source. short_side: int, pixels.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
    def shrunk(place):
        record = source.records(place[tf.newaxis])[0]
        return shrink(source.image(record), short_side)

    def read(place):
        try:
            return shrunk(tf.constant(place, tf.int64)).numpy(), None
        except _NOT_THE_IMAGE:
            raise
        except tf.errors.OpError as error:
            return None, unreadable.reason(error)

    return read


def shrink(image, short_side):
    """Resizes to a short side, antialiased; a smaller image stays as it is.

    Args:
      image: uint8 [H, W, 3]. short_side: int, pixels.

    Returns:
      uint8 [h, w, 3]; the long side is rounded down, as in evaluation views.
    """
    shape = tf.shape(image, tf.int64)[:2]
    short = tf.reduce_min(shape)

    def resized():
        size = tf.cast(short_side * shape // short, tf.int32)
        smaller = tf.image.resize(image, size, "bilinear", antialias=True)
        return tf.saturate_cast(smaller + 0.5, tf.uint8)

    image = tf.cond(short > short_side, resized, lambda: image)
    return tf.ensure_shape(image, [None, None, 3])


def verify(folder, stream=None):
    """Reads every image of a finished cache and compares its checksum.

    Args:
      folder: of the cache. stream: text stream of the progress.

    Returns:
      int, number of images.

    Raises:
      ValueError: for a cache that is not whole, with the damaged images' names.
    """
    cache = prepared_files.Cache(os.path.expanduser(folder))
    damaged = []
    stream = stream or sys.stdout
    with (
        futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        counter.Counter(len(cache), 0, "verifying", stream) as progress,
    ):
        wholes = pool.map(cache.is_whole, range(len(cache)))
        for place, whole in enumerate(wholes):
            if not whole:
                damaged.append(place)
            progress.add(1)
    if damaged:
        names = cache.names()
        shown = ", ".join(names[place] for place in damaged[:5])
        raise ValueError(
            "Every image of a cache must have the checksum it was written "
            f"with. In {str(folder)!r} {len(damaged)} of {len(cache)} differ: "
            f"{shown}. Remove the folder and prepare it again."
        )
    return len(cache)
