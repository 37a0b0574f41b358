"""Capturing what the process writes to standard error."""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def capture(is_shown):
    """Captures standard error of this process while the block runs.

    The file descriptor is redirected, so that lines of C++ code are captured
    too. What a user shall see meanwhile must be written elsewhere.

    Args:
      is_shown: function: a line (bytes, without its end) -> whether it is
        written to standard error at the end.

    Yields:
      binary file, open for reading: what was written so far.
    """
    with (
        tempfile.NamedTemporaryFile() as file,
        # Opened again: reading must not move the position of the writing.
        open(file.name, "rb") as reader,
    ):
        sys.stderr.flush()
        standard_error = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield reader
        finally:
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)
            reader.seek(0)
            for line in reader.read().splitlines():
                if is_shown(line):
                    os.write(2, line + b"\n")
