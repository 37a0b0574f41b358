"""What the JPEG decoder says on standard error, which no op returns.

libjpeg repairs damaged data as well as it can: it fills the rest with grey, or
goes on at a wrong place. The image then counts as decoded. Only its warning on
standard error tells.
"""

import contextlib
import os
import sys
import tempfile

_WORDS = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Invalid JPEG")


class DecoderWords:
    """Reads what was written to standard error since the last reading."""

    def __init__(self, file):
        """Reads from a binary file that standard error goes to."""
        self._file = file
        self._others = []

    def read(self):
        """The decoder's warnings since the last call, a list of str."""
        lines = self._file.read().splitlines()
        self._others += [line for line in lines if not line.startswith(_WORDS)]
        return [
            line.decode(errors="replace")
            for line in lines
            if line.startswith(_WORDS)
        ]

    def others(self):
        """All else that was written, a list of bytes."""
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
