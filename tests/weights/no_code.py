"""Notices what Python imports, calls or starts for a file."""

import contextlib
import sys
import time

# What Python reports of a file that imports, calls or starts something.
CODE = ("import", "exec", "compile", "pickle.", "os.system", "subprocess.")

"".encode("cp437")  # zipfile has it imported for the name of a member

watching = False
seen = []


def _note(event, arguments):
    if watching and event.startswith(CODE):
        seen.append((event, arguments))


sys.addaudithook(_note)


@contextlib.contextmanager
def no_code(seconds=None):
    """Fails where its block imports or calls what a file asks for.

    Args:
      seconds: of the processor that it may take; None: any.
    """
    global watching
    seen.clear()
    watching = True
    started = time.process_time()
    try:
        yield
    finally:
        watching = False
    assert not seen
    if seconds is not None:
        assert time.process_time() - started < seconds
