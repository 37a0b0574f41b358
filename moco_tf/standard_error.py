"""Capturing what the process writes to standard error."""

import contextlib
import os
import subprocess
import sys
import tempfile

# Waits for a line of this process, or for its end.
_LAST_WORDS = 'read -r line || { tail -n 50 "$1"; rm -f "$1"; }'


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

    Side effects: where the process dies in the block, the last 50 lines are
    shown.
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
            with _last_words(file.name, standard_error):
                yield reader
        finally:
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)
            reader.seek(0)
            for line in reader.read().splitlines():
                if is_shown(line):
                    os.write(2, line + b"\n")


@contextlib.contextmanager
def _last_words(path, output):
    """Has the last lines of a file shown if this process dies in the block.

    TensorFlow says why it cannot go on (no AVX, another CUDA) and aborts:
    nothing of this process runs any more, so another one shows it. A shell
    starts in a few milliseconds.

    Args:
      path: str, of the file; it is removed then. output: file descriptor.
    """
    command = ["/bin/sh", "-c", _LAST_WORDS, "sh", path]
    try:
        shell = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            process_group=0,  # Ctrl-C and kill are for this process alone
        )
    except OSError:  # no process more may be started: the block can still run
        shell = None
    try:
        yield
    finally:
        if shell:
            shell.communicate(b"\n")
