"""Fills a prepared cache: decode once, shrink once, read many times."""

import collections
import contextlib
import os
import shutil
import sys
from concurrent import futures

import numpy as np
import tensorflow as tf

import moco_tf
from moco_tf import workdirs
from moco_tf.data import image_ops, prepared_cache, sources, unreadable
from moco_tf.monitoring import progress

_AHEAD = 8  # images per thread that may wait for the one before them
_BLOCK = 256  # images that are verified before the progress moves
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
    stream = stream or sys.stdout
    if short_side < 1:
        raise ValueError(
            "short_side must be at least 1 pixel. Received "
            f"short_side={short_side}."
        )
    folder = os.path.abspath(folder)
    source = sources.open_source(spec)
    settings = describe(source, spec, short_side)
    try:
        about = prepared_cache.check_folder(folder, settings)
        if about is not None and about["finished"]:
            print(f"This cache is finished: {folder}", file=stream)
            return about
        writer = prepared_cache.Writer(folder, settings)
        with contextlib.closing(writer):
            _fill(writer, source, folder, stream)
            return writer.about
    except BrokenPipeError:
        raise  # of the stream, not of the folder
    except OSError as error:
        raise _explained(error, folder) from error


def describe(source, spec, short_side):
    """The settings of a cache, for about.json."""
    return {
        "source": sources.absolute(spec),
        "fingerprint": source.fingerprint(),
        "short_side": short_side,
        "of": len(source),
        "labelled": source.labels is not None,
        "class_names": source.class_names,
        "moco_tf": moco_tf.__version__,
    }


def _explained(error, folder):
    """The OSError that a user can do something about."""
    if error.errno not in workdirs.DISK_FULL:
        return OSError(
            "The folder of a cache must be one that can be written to. "
            f"Received {folder!r}: {error.strerror}. Give another --path, or "
            "grant the permission."
        )
    about = prepared_cache.read_about(folder) or {"images": 0}
    return OSError(
        f"{folder} takes no more data: {error.strerror}. {about['images']} "
        "images are in the cache and stay. Make room and start the same "
        "command again: it goes on there."
    )


def _fill(writer, source, folder, stream):
    """Appends all images that the writer does not have yet, in order."""
    count, first = len(source), writer.about["images"]
    labels = np.full(count, -1) if source.labels is None else source.labels
    forecast = False
    with (
        contextlib.closing(_in_order(source, writer.about)) as images,
        progress.Counter(count, first, "preparing", stream) as bar,
    ):
        for place, (image, reason) in enumerate(images, first):
            label, name = int(labels[place]), source.name(place)
            if image is None:
                writer.append_unreadable(reason, label, name)
            else:
                writer.append(image, label, name)
            bar.add(1)
            if not forecast and writer.about["images"] > first:
                forecast = True
                bar.message(_forecast(writer.about, folder))
    writer.commit()
    if writer.about["unreadable"] == count:
        raise ValueError(
            "A cache needs at least one image that can be read. Received "
            f"{count} images, none readable; the reasons are in "
            f"{os.path.join(folder, prepared_cache.UNREADABLE)}."
        )
    writer.commit(finished=True)


def _in_order(source, about):
    """Yields what `reader` gives of all places that are left, in order."""
    read = reader(source, about["short_side"])
    threads = os.cpu_count() or 1
    pool = futures.ThreadPoolExecutor(threads)
    waiting: collections.deque = collections.deque()
    try:
        for place in range(about["images"], len(source)):
            waiting.append(pool.submit(read, place))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _forecast(about, folder):
    """What the cache will take, from what it takes so far."""
    so_far = about["bytes"][prepared_cache.IMAGES]
    whole = so_far / about["images"] * about["of"]
    free = shutil.disk_usage(folder).free + so_far
    text = (
        f"the cache will take about {progress.format_bytes(whole)}; "
        f"{progress.format_bytes(free)} are free"
    )
    return text if whole < free else f"warning: {text}"


def reader(source, short_side):
    """A function of a place: (uint8 [H, W, 3], None) or (None, reason).

    Args:
      source: Source. short_side: int, pixels.

    Raises:
      ValueError: when called, for what may be another time.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
    def shrunk(place):
        record = source.records(place[tf.newaxis])[0]
        image = source.image(record)
        return image_ops.shrink_to_short_side(image, short_side)

    def read(place):
        try:
            return shrunk(tf.constant(place, tf.int64)).numpy(), None
        except _NOT_THE_IMAGE as error:
            why = error.message
        except (tf.errors.OpError, UnicodeDecodeError):
            # Once more, for the image's own error without the graph's.
            _, reason = unreadable.read(source, place)
            if reason is not None:
                return None, reason
            why = "it was read only the second time"
        raise ValueError(
            f"{source.name(place)} may be whole, but reading it failed: {why}. "
            "Start the same command again: it goes on there."
        )

    return read


def verify(folder, stream=None):
    """Reads every image of a finished cache and compares its checksum.

    Args:
      folder: of the cache. stream: text stream of the progress.

    Returns:
      int, number of images.

    Raises:
      ValueError: for a cache that is not whole, with the damaged images' names.
    """
    cache = prepared_cache.Cache(folder)
    damaged = []
    with (
        futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        progress.Counter(
            len(cache), 0, "verifying", stream or sys.stdout
        ) as bar,
    ):
        for first in range(0, len(cache), _BLOCK):
            places = range(first, min(first + _BLOCK, len(cache)))
            wholes = pool.map(cache.is_whole, places)
            pairs = zip(places, wholes, strict=True)
            damaged += [place for place, whole in pairs if not whole]
            bar.add(len(places))
    if damaged:
        names = cache.names()
        shown = ", ".join(names[place] for place in damaged[:5])
        shown += ", ..." if damaged[5:] else ""
        raise ValueError(
            "Every image of a cache must have the checksum it was written "
            f"with. In {str(folder)!r} {len(damaged)} of {len(cache)} differ: "
            f"{shown}. Remove the folder and prepare it again."
        )
    return len(cache)
