"""Images that could not be read: named in a log, counted, and limited."""

import csv
import pathlib
import re

import tensorflow as tf

_BYTES = re.compile(r"\bb'([^']*)'")
_PLACE = re.compile(r"\{\{\w+ [^}]*\}\}|\[Op:\w+\]( name:)?")
# What reading an image may raise; the second, where its name is no text.
FAILURES = (tf.errors.OpError, UnicodeDecodeError)
_FLOOR = 1000  # samples; a few bad images at the start of a run stop nothing


class UnreadableLog:
    """Writes `unreadable.csv`: which files or records, and why.

    The step only counts. Here the samples of a step that counted some are read
    once more, which is possible because a batch is a function of its step.
    """

    def __init__(self, path, stream, max_fraction):
        """Reads what an earlier session has named.

        Args:
          path: of the log.
          stream: Stream of the run.
          max_fraction: float in 0..1, of the samples seen; more stop the run.
        """
        self.path = pathlib.Path(path)
        self.stream = stream
        self.max_fraction = max_fraction
        self.named = set()
        if self.path.exists():
            with self._open("r") as file:
                self.named = {row["name"] for row in csv.DictReader(file)}

    def add(self, steps):
        """Names the unreadable samples of steps that had some.

        Args:
          steps: ints.

        Side effects: appends to the log.
        """
        found = []
        for step in steps:
            indices = self.stream.samples(self.stream.positions(step))
            for index in indices.numpy():
                name = self.stream.source.name(int(index))
                if name not in self.named:
                    _, why = read(self.stream.source, index)
                    if why:
                        self.named.add(name)
                        found.append([name, why, step + 1])
        with self._open("a") as file:
            writer = csv.writer(file)
            if not file.tell():
                writer.writerow(["name", "reason", "first_step"])
            writer.writerows(found)

    def check(self, unreadable, seen):
        """Stops a run that meets too many unreadable samples.

        Args:
          unreadable: int, so far.
          seen: int, samples so far.

        Raises:
          ValueError: above max_fraction of the samples seen (at least of the
            first thousand).
        """
        if unreadable > self.max_fraction * max(seen, _FLOOR):
            raise ValueError(
                f"{unreadable} of {seen} samples could not be read, more than "
                f"data.max_corrupt_fraction={self.max_fraction} allows. They "
                f"are named in {self.path}. Mend or remove them, or allow more."
            )

    def _open(self, mode):
        """The log; a file name need not be text, so its bytes are kept."""
        return self.path.open(
            mode, newline="", encoding="utf-8", errors="surrogateescape"
        )


def image_at(source, place):
    """One image of a source, uint8 [H, W, C]; raises one of FAILURES.

    Args:
      source: Source. place: int64 scalar.
    """
    records = source.records(place[tf.newaxis])
    record = tf.nest.map_structure(lambda rows: rows[0], records)
    return source.image(record)


def read(source, index):
    """One whole image of a source, if it can be read.

    Args:
      source: Source. index: int.

    Returns:
      uint8 [H, W, C] and None; or None and the reason.
    """
    try:
        return image_at(source, tf.constant(index, tf.int64)), None
    except tf.errors.OpError as error:
        text, kind = error.message, type(error).__name__
    except UnicodeDecodeError as error:
        # The platform fails to say it of a name that is no text.
        kind = "unreadable"
        text = error.object.decode("utf-8", "surrogateescape")
    # An assertion's text is a list of b'...', one a line.
    text = text.split("Summarized data:")[-1]
    text = _PLACE.sub("", _BYTES.sub(r"\1", text))
    return None, " ".join(text.split())[:200] or kind
