"""Unreadable images: their reasons, the log of a run, and its limit."""

import collections
import csv
import math
import os
import pathlib
import re
from concurrent import futures

import tensorflow as tf

from moco_tf import cores, file_kinds, filesystem, state_files
from moco_tf.data import host_decode

_BYTES = re.compile(r"\bb'([^']*)'")
_NODE = re.compile(r"\{\{\w+ [^}]*\}\}|\[Op:\w+\]( name:)?")
# Of a device, its memory or other workers, and never of an image.
_OF_MACHINES = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
)
# What reading an image may raise; the second, where its name is no text.
FAILURES = (tf.errors.OpError, UnicodeDecodeError)
_HEADER = ("name", "reason", "first_step")
_FLOOR = 1000  # samples; a few bad images at the start of a run stop nothing
_AT_ONCE = 16  # samples that are read again together
_MOST_TRIED = 1000  # images, before a source counts as unreadable


class UnreadableLog:
    """Writes `unreadable.csv`: the files or records, and the reasons.

    A training step only counts unreadable samples. The log reads the samples of
    such a step once more, which is possible because a batch is a function of
    its step.

    Attributes:
      path: pathlib.Path. stream: Stream. max_fraction: float.
      named: set of str, the samples in the log.
    """

    def __init__(self, path, stream, max_fraction):
        """Reads the names that an earlier session has logged.

        Args:
          path: of the log, which may be missing.
          stream: Stream of the run.
          max_fraction: float in 0..1, of the samples seen; more stop the run.
        """
        self.path = pathlib.Path(path)
        self.stream = stream
        self.max_fraction = max_fraction
        self.named = set()
        self._reasons: collections.Counter = collections.Counter()
        if os.path.lexists(self.path):
            self._take_up()

    def _take_up(self):
        """Reads the log; what is no line of it is set aside with the file."""
        try:
            rows, bad, torn = state_files.read_table(self.path, _HEADER)
        except state_files.Damaged as error:
            other = state_files.set_aside(self.path)
            state_files.warn(f"{error} It is kept as {other}; a new one begins")
            return
        for row in rows:
            self._note(row["name"], row["reason"])
        if bad:
            other = state_files.set_aside(self.path)
            state_files.warn(
                f"{self.path}: {state_files.in_words(bad)} cannot be read; it "
                f"is kept as {other}, and the other lines stay"
            )
        if bad or torn:
            lines = [[row[name] for name in _HEADER] for row in rows]
            with filesystem.atomic_file(self.path) as part:
                _append(part, lines)

    def _note(self, name, reason):
        self.named.add(name)
        self._reasons[without_path(reason)] += 1

    def add(self, counts):
        """Names the unreadable samples of steps that had some.

        Args:
          counts: dict: step -> how many of its samples could not be read.

        Side effects: reads samples until it has met so many, those first that
        are named already; appends to the log.
        """
        rows = []
        with futures.ThreadPoolExecutor(cores.count()) as pool:
            for step, count in counts.items():
                for name, reason in self._unreadable(step, count, pool):
                    if name not in self.named:
                        self._note(name, reason)
                        rows.append([name, reason, step + 1])
        _append(self.path, rows)

    def _unreadable(self, step, count, pool):
        """Yields name and reason of the samples of a step, count at most."""
        source = self.stream.source
        indices = self.stream.samples(self.stream.positions(step)).numpy()
        samples = [
            (source.name(int(index)), index)
            for index in indices
            if not self.stream.is_removed(index)
        ]
        samples.sort(key=lambda sample: sample[0] not in self.named)
        for first in range(0, len(samples), _AT_ONCE):
            some = samples[first : first + _AT_ONCE]
            images = pool.map(lambda x: read(source, x[1])[1], some)
            for (name, _), reason in zip(some, images, strict=True):
                if reason and count > 0:
                    count -= 1
                    yield name, reason
            if count <= 0:
                return

    def check(self, unreadable, seen, session=None):
        """Stops a run that meets too many unreadable samples.

        What a run has met before it was mended does not stop it again: its
        last session alone must be above the limit too.

        Args:
          unreadable: int, so far. seen: int, samples so far.
          session: both since this process began; None: it began the run.

        Raises:
          ValueError: above max_fraction of the samples seen (at least of the
            first thousand).
        """
        run = unreadable, seen
        if self._is_above(*run) and self._is_above(*(session or run)):
            most = self._reasons.most_common(1)
            why = f", most often with: {most[0][0]}" if most else ""
            more = min(1.0, math.ceil(200 * unreadable / seen) / 100)
            raise ValueError(
                f"{unreadable} of {seen} samples could not be read, more than "
                f"data.max_corrupt_fraction={self.max_fraction} allows. They "
                f"are named in {self.path}{why}. Mend them (of a cache, "
                "prepare it anew in another folder), remove them (from a "
                "list, with their lines; of pairs, both files), or allow more "
                f"(--config.data.max_corrupt_fraction={more:g}); then give the "
                "same command again: the run goes on from its last checkpoint, "
                "with the same order of the other images."
            )

    def _is_above(self, unreadable, seen):
        return unreadable > self.max_fraction * max(seen, _FLOOR)


def _append(path, rows):
    """Appends lines to a log, behind its header."""
    # A file name need not be text, so its bytes are kept.
    with path.open(
        "a", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(_HEADER)
        writer.writerows(rows)


def without_path(reason):
    """A reason without the path that the system puts in front of it."""
    return re.sub(r"^/.*; ", "", reason, flags=re.DOTALL).rstrip(".")


def image_at(source, index):
    """One image of a source; raises one of FAILURES.

    Args:
      source: Source. index: int64 scalar.

    Returns:
      uint8 [H, W, C].
    """
    records = source.records(index[tf.newaxis])
    record = tf.nest.map_structure(lambda rows: rows[0], records)
    return source.image(record)


def read(source, index):
    """Reads one image of a source, or says why it cannot be read.

    Args:
      source: Source. index: int.

    Returns:
      (uint8 [H, W, C], None), or (None, the reason as str).
    """
    index = tf.constant(index, tf.int64)
    try:
        return image_at(source, index), None
    except tf.errors.OpError as error:
        text, kind = error.message, type(error).__name__
    except UnicodeDecodeError as error:
        # The platform's own error has a name in it that is no text.
        kind = "unreadable"
        text = error.object.decode("utf-8", "surrogateescape")
    # An assertion's text is a list of b'...', one a line.
    text = text.split("Summarized data:")[-1]
    text = _NODE.sub("", _BYTES.sub(r"\1", text))
    text = " ".join(text.split())
    if len(text) > 200:  # a long path stands in front of what is wrong
        text = f"{text[:120]} ... {text[-75:]}"
    return None, _in_plain_words(source, index, text or kind)


def _in_plain_words(source, index, text):
    """The reason of a decoder, or what its file is, where that says more.

    Args:
      source: Source. index: int64 scalar. text: str, the decoder's reason.
    """
    paths = getattr(source, "file_paths", None)
    for path in paths(index) if paths else ():
        try:
            head, tail = file_kinds.ends_of_file(path)
            kind = file_kinds.kind_of_file(path)
        except OSError:
            return text  # names the path, and says what the system says
        if not file_kinds.is_one_of(kind, host_decode.FORMATS):
            return (
                f"An image must be a {host_decode.FORMAT_NAMES}. Received "
                f"{kind.name}. {kind.remedy}"
            )
        cut = file_kinds.cut_words(head, tail)
        if cut:
            return (
                f"This is {kind.name}, and {cut}. {file_kinds.AGAIN} ({text})"
            )
    return text


def require_one(source):
    """Refuses a source of which no image can be read.

    Of a large one a thousand are tried, evenly spread, up to the first that can
    be read.

    Args:
      source: Source.

    Raises:
      ValueError: naming the reason of the first.
    """
    if not source.may_fail:
        return
    count = min(len(source), _MOST_TRIED)
    with tf.device("CPU:0"):  # another device may be what fails
        for number in range(count):
            if read(source, number * len(source) // count)[1] is None:
                return
        raise none_error(source, count)


def require_one_after(error, source):
    """Refuses a source whose images have gone since a run began.

    Args:
      error: tf.errors.OpError of a step. source: Source.

    Raises:
      ValueError: as `require_one`, from the error, if that may be its cause.
    """
    if isinstance(error, _OF_MACHINES):
        return
    try:
        require_one(source)
    except ValueError as none:
        raise none from error


def none_error(source, tried=None):
    """Returns the ValueError for a source without a readable image.

    Args:
      source: Source. tried: int, images that were tried; None: all.
    """
    first = "."
    if len(source):
        reason = read(source, 0)[1] or "it can be read now."
        first = f", the first is {source.name(0)}: {reason}"
    few = tried is not None and tried < len(source)
    tries = f"none of the {tried} that were tried" if few else "none"
    return ValueError(
        "There must be at least one image that can be read. Received "
        f"{len(source)} images, {tries} readable{first} Mend them, or give "
        "another source."
    )
