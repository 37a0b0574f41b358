"""What the JPEG decoder says on standard error, which no op returns.

libjpeg repairs damaged data as well as it can: it fills the rest with grey, or
goes on at a wrong place. The image then counts as decoded. Only its warning on
standard error tells.
"""

import contextlib
import os
import re
import sys
import tempfile

_WARNINGS = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Invalid JPEG")
# Of images that cannot be read: their op fails, and says so itself.
_FAILURES = re.compile(
    rb"jpeg_mem\.cc|png_io\.cc|^Unsupported (marker|JPEG)|^Bogus |^Not a JPEG"
    rb"|^Input file read error|^libpng |^Improper call|^Empty (JPEG|input)"
)


class DecoderWords:
    """Reads what was written to standard error since the last reading."""

    def __init__(self, file):
        """Reads from a binary file that standard error goes to."""
        self._file = file
        self._others = []

    def read(self):
        """The decoder's warnings since the last call, a list of str."""
        lines = self._file.read().splitlines()
        said = [line for line in lines if line.startswith(_WARNINGS)]
        self._others += [
            line
            for line in lines
            if not line.startswith(_WARNINGS) and not _FAILURES.search(line)
        ]
        return [line.decode(errors="replace") for line in said]

    def others(self):
        """All that was written and is not the decoder's, a list of bytes."""
        self.read()
        return self._others


@contextlib.contextmanager
def listen():
    """Redirects standard error of the process to a DecoderWords.

    Side effects: what is not the decoder's is written to standard error at
    the end. Progress must go elsewhere meanwhile.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.NamedTemporaryFile() as held:
        # Of its own: reading must not move the place that is written to.
        with open(held.name, "rb") as reader:
            words = DecoderWords(reader)
            os.dup2(held.fileno(), 2)
            try:
                yield words
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                os.close(kept)
                for line in words.others():
                    os.write(2, line + b"\n")
