"""Fills a prepared cache: decode once, shrink once, read many times."""

import collections
import contextlib
import os
import shutil
import sys
import time
from concurrent import futures

import tensorflow as tf

import moco_tf
from moco_tf import cores, counting, filesystem, paths
from moco_tf.data import (
    image_ops,
    prepared_cache,
    sources,
    specs,
    stored_images,
    unreadable,
)

_AHEAD = 8  # images per thread that may wait for the one before them
_PAUSES = (0.5, 2.0)  # seconds before an image is tried again
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


def prepare(
    spec,
    folder,
    short_side=0,
    stream=None,
    *,
    stored_as="raw",
    shard=0,
    shards=1,
):
    """Writes a source's decoded images as a cache; goes on with one begun.

    Images whose short side is longer are resized to it, antialiased; others
    stay as they are. An image that cannot be read keeps its index, so that the
    stream replaces it just as it does for the source.

    Args:
      spec: str, of the source (see `sources.open_source`).
      folder: of the cache; made if missing.
      short_side: int, pixels; 0: that of the form.
      stream: text stream of the progress; None: standard output.
      stored_as: "raw" or "jpeg" (see data/stored_images.py).
      shard, shards: int, which part of how many is written: a run of the
        images, in a folder of its own below `folder`.

    Returns:
      dict, about.json of the finished cache, or of the shard.

    Raises:
      ValueError: before any work, for a folder that holds something else;
        if not one image can be read.
      OSError: when the disk is full; what is committed stays.
    """
    stream = stream or sys.stdout
    if short_side < 0:
        raise ValueError(
            "short_side must be at least 1 pixel, or 0 for that of the format. "
            f"Received short_side={short_side}."
        )
    folder = paths.absolute(folder)
    source = sources.open_source(spec)
    images = _part(len(source), shard, shards)
    form = stored_images.FORMS[stored_as]
    settings = _settings(source, spec, short_side or form.short_side)
    settings["of"] = len(images)
    if stored_as != "raw" or shards > 1:
        settings |= {"stored_as": stored_as, **form.settings}
    if shards > 1:
        settings |= {"shard": shard, "shards": shards}
    try:
        if shards > 1:
            prepared_cache.check_shards(folder, settings)
        folder = prepared_cache.shard_folder(folder, shard, shards)
        about = prepared_cache.check_folder(folder, settings)
        if about is not None and about["finished"]:
            print(f"This cache is finished: {paths.shown(folder)}", file=stream)
            return about
        print(sources.remark_lines(source), end="", file=stream)
        writer = prepared_cache.Writer(folder, settings)
        with contextlib.closing(writer):
            _fill(writer, source, images, folder, stream)
            return writer.about
    except BrokenPipeError:
        raise  # of the stream, not of the folder
    except OSError as error:
        raise _with_remedy(error, folder) from error


def _part(count, shard, shards):
    """The indices of a shard, a range; refuses one that there cannot be."""
    if not 0 <= shard < shards or shards > count:
        raise ValueError(
            "Shards are numbered from 0, and each has an image at least. "
            f"Received shard={shard}, shards={shards} and {count} images. Give "
            "--shards from 1 to the number of images, and --shard below it."
        )
    return range(count * shard // shards, count * (shard + 1) // shards)


def _settings(source, spec, short_side):
    """The settings of a cache in one part, for about.json."""
    return {
        "source": specs.absolute(spec),
        "fingerprint": source.fingerprint(),
        "short_side": short_side,
        "of": len(source),
        "labelled": source.labels is not None,
        "class_names": source.class_names,
        "moco_tf": moco_tf.__version__,
    }


def _with_remedy(error, folder):
    """An OSError that says what a user can do about another one."""
    if error.errno not in filesystem.DISK_FULL:
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


def _fill(writer, source, images, folder, stream):
    """Appends all images that the writer does not have yet, in order.

    Args:
      writer: Writer. source: Source. images: range, the indices of its part.
      folder: str. stream: text stream.
    """
    count, first = len(images), writer.about["images"]
    labels = source.labels
    forecast = False
    with (
        _committing(writer),
        contextlib.closing(
            _in_order(source, writer.about, images[first:])
        ) as results,
        counting.Counter(count, first, "preparing", stream) as bar,
    ):
        for index, (stored, reason) in zip(
            images[first:], results, strict=True
        ):
            label = -1 if labels is None else int(labels[index])
            name = source.name(index)
            if stored is None:
                writer.append_unreadable(reason, label, name)
            else:
                writer.append(stored, label, name)
            bar.add(1)
            if not forecast and writer.about["images"] > first:
                forecast = True
                bar.message(_forecast(writer.about, folder))
    writer.commit()
    if writer.about["unreadable"] == count:
        raise ValueError(
            "A cache needs at least one image that can be read. Received "
            f"{count} images, none readable; the reasons are in "
            f"{os.path.join(folder, prepared_cache.UNREADABLE)}. Mend them, "
            "then prepare them with another --path."
        )
    writer.commit(finished=True)


@contextlib.contextmanager
def _committing(writer):
    """Commits at an image that may be intact: the next session begins there."""
    try:
        yield
    except ValueError:
        writer.commit(failed=True)
        raise


def _in_order(source, about, images):
    """Yields the results of `reader` for the indices of images, in order."""
    form = prepared_cache.form_of(about)
    failed = about.get(prepared_cache.FAILED) == about["images"]
    stopped_at = images[0] if failed and images else None
    read = reader(source, about["short_side"], form, stopped_at)
    threads = cores.count()
    pool = futures.ThreadPoolExecutor(threads)
    waiting: collections.deque = collections.deque()
    try:
        for index in images:
            waiting.append(pool.submit(read, index))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _forecast(about, folder):
    """A message: the expected size of the cache, by its size so far."""
    so_far = about["bytes"][prepared_cache.IMAGES]
    size = so_far / about["images"] * about["of"]
    free = shutil.disk_usage(folder).free + so_far
    text = (
        f"the cache will take about {counting.format_bytes(size)}; "
        f"{counting.format_bytes(free)} are free"
    )
    return text if size < free else f"warning: {text}"


def reader(source, short_side, form=stored_images.RAW, stopped_at=None):
    """Makes a function that reads, shrinks and encodes one image of a source.

    Args:
      source: Source. short_side: int, pixels. form: stored_images.Form.
      stopped_at: index at which reading failed in an earlier session, so that
        it ended; None: there is none.

    Returns:
      a function of an index: (stored_images.Stored, None), or (None, reason)
      for an image that cannot be read. It raises a ValueError for an error that
      is not the image's fault and may not come again, except at `stopped_at`,
      where it has come before, unless no other image can be read either.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
    def shrunk(index):
        image = unreadable.image_at(source, index)
        image = image_ops.shrink_to_short_side(image, short_side)
        return form.encode(image), tf.shape(image)[:2]

    def read(index):
        for pause in (*_PAUSES, None):
            try:
                encoded, size = shrunk(tf.constant(index, tf.int64))
                stored = form.stored(encoded.numpy(), *size.numpy().tolist())
                return (stored, None) if stored.data else (None, form.refusal)
            except (tf.errors.OpError, UnicodeDecodeError) as error:
                # Once more, for the image's own error without the graph's.
                _, reason = unreadable.read(source, index)
                at_fault = not isinstance(error, _NOT_THE_IMAGE)
            if reason is not None and at_fault:
                return None, reason
            if pause is not None:
                time.sleep(pause)
        if reason and index == stopped_at and _reads_another(source, index):
            return None, reason
        why = reason or "it was read only the second time"
        raise ValueError(
            f"{source.name(index)} may be intact, but reading it failed: "
            f"{why}. Start the same command again: it goes on there, and "
            "leaves out this image if it fails once more, and others do not."
        )

    return read


def _reads_another(source, index):
    """Whether one of some images nearer and farther behind can be read.

    If none, it is the disk or the network that fails, and not the image.
    """
    count = len(source)
    others = [index + 2**power for power in range((count - 1).bit_length())]
    return any(
        unreadable.read(source, other % count)[1] is None for other in others
    )


def verify(folder, stream=None):
    """Reads every image of a finished cache and compares its checksum.

    Args:
      folder: of the cache, with all its shards if it has some.
      stream: text stream of the progress.

    Returns:
      int, number of images.

    Raises:
      ValueError: for a damaged cache, with the names of the damaged images.
    """
    caches = prepared_cache.open_caches(folder)
    count = sum(map(len, caches))
    damaged = []
    with (
        futures.ThreadPoolExecutor(cores.count()) as pool,
        counting.Counter(count, 0, "verifying", stream or sys.stdout) as bar,
    ):
        for cache in caches:
            damaged += _damaged_images(cache, pool, bar)
    if damaged:
        shown = ", ".join(damaged[:5])
        shown += ", ..." if damaged[5:] else ""
        raise ValueError(
            "Every image of a cache must have the checksum it was written "
            f"with. In {str(folder)!r} {len(damaged)} of {count} differ: "
            f"{shown}. Prepare it again with another --path, and keep this "
            "folder until that is done."
        )
    return count


def _damaged_images(cache, pool, bar):
    """The names of a cache's damaged images; counts all in a bar."""
    damaged = []
    for first in range(0, len(cache), _BLOCK):
        block = range(first, min(first + _BLOCK, len(cache)))
        intact = pool.map(cache.is_intact, block)
        pairs = zip(block, intact, strict=True)
        damaged += [index for index, good in pairs if not good]
        bar.add(len(block))
    if not damaged:
        return []
    names = cache.names()
    return [names[index] for index in damaged]
