"""Waits that end."""

import time


def wait_for(ready, seconds=60):
    """Waits until `ready()` is true, which it returns; fails after so long."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, f"waited for {seconds} s"
        time.sleep(0.01)
    return found
