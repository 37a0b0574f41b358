"""Unreadable images: their reasons, the log of a run, and its limit."""

import collections
import csv
import math
import os
import pathlib
import re

import tensorflow as tf

from moco_tf import file_kinds, filesystem, state_files
from moco_tf.data import host_decode

_BYTES = re.compile(r"\bb'([^']*)'")
_NODE = re.compile(r"\{\{\w+ [^}]*\}\}|\[Op:\w+\]( name:)?")
# What reading an image may raise; the second, where its name is no text.
FAILURES = (tf.errors.OpError, UnicodeDecodeError)
_HEADER = ("name", "reason", "first_step")
_FLOOR = 1000  # samples; a few bad images at the start of a run stop nothing


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

    def add(self, steps):
        """Names the unreadable samples of steps that had some.

        Args:
          steps: ints.

        Side effects: appends to the log.
        """
        rows = []
        for step in steps:
            indices = self.stream.samples(self.stream.positions(step))
            for index in indices.numpy():
                if self.stream.is_removed(index):
                    continue
                name = self.stream.source.name(int(index))
                if name not in self.named:
                    _, reason = read(self.stream.source, index)
                    if reason:
                        self._note(name, reason)
                        rows.append([name, reason, step + 1])
        _append(self.path, rows)

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


def none_error(source):
    """Returns the ValueError for a source without a readable image."""
    first = "."
    if len(source):
        reason = read(source, 0)[1] or "it can be read now."
        first = f", the first is {source.name(0)}: {reason}"
    return ValueError(
        "An evaluation needs at least one image that can be read. Received "
        f"{len(source)} images, none readable{first} Mend them, or give "
        "another source."
    )
