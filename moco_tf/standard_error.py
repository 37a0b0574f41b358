"""Standard error of the process, held back for a while."""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def held_back(is_shown):
    """Holds back what this process writes to standard error.

    The file descriptor is redirected, so lines of C++ code are held back too.
    What shall be seen meanwhile must go elsewhere.

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
