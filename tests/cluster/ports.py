"""Free ports of this machine."""

import contextlib
import socket


def free(count):
    """Returns so many different ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(count)
        ]
        return [s.getsockname()[1] for s in sockets]


def workers(count):
    """Addresses of so many workers on this machine."""
    return tuple(f"127.0.0.1:{port}" for port in free(count))
