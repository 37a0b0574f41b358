"""A WSGI application on a port of this machine, by waitress.

waitress answers what it cannot parse in plain text; here that is JSON, as
everything else is. Needs the extra `serving`.
"""

import json

import waitress.channel
import waitress.server
import waitress.task

_SILENCE = 30  # seconds without a byte, after which a client is left
_CONNECTIONS = 200


class _JsonError(waitress.task.ErrorTask):
    """The answer to what is no request of HTTP; it closes the connection."""

    def execute(self):
        error = self.request.error
        body = json.dumps({"error": f"{error.reason}: {error.body}"}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Tasks(waitress.task.ThreadedTaskDispatcher):
    """Threads that answer, and one more for what takes no time.

    Predictions may keep all others busy; who asks whether the server lives
    must not wait for them.
    """

    def __init__(self):
        super().__init__()
        self._quick = waitress.task.ThreadedTaskDispatcher()
        self._quick.set_thread_count(1)

    def add_task(self, task):
        path = getattr(task.requests[0], "path", "")
        if path.lower().endswith(":predict"):
            super().add_task(task)
        else:
            self._quick.add_task(task)

    def shutdown(self, *args, **kwargs):
        self._quick.shutdown(*args, **kwargs)
        return super().shutdown(*args, **kwargs)


class _Channel(waitress.channel.HTTPChannel):
    """A connection."""

    error_task_class = _JsonError

    def send_continue(self):
        # Of a refused request, the body is not asked for.
        if self.request.error is None:
            super().send_continue()


def listen(app, host, port, threads, max_bytes):
    """Opens the port.

    Args:
      app: WSGI application.
      host: name or address. port: int, 0 for any that is free.
      threads: int, predictions that are answered at a time.
      max_bytes: int; a larger body is refused unread, and its connection
        closed. The application refuses smaller ones in its own words.

    Returns:
      the server of waitress, whose `run` serves until it is interrupted; the
      port, int, at the first address of the host.

    Raises:
      OSError, ValueError: where it cannot be opened.
    """
    sockets: dict = {}
    tasks = _Tasks()
    tasks.set_thread_count(threads)
    server = waitress.server.create_server(
        app,
        map=sockets,
        host=host,
        port=port,
        _dispatcher=tasks,
        max_request_body_size=max_bytes,
        channel_timeout=_SILENCE,
        connection_limit=_CONNECTIONS,
        ident=None,
    )
    listeners = [
        listener
        for listener in sockets.values()
        if isinstance(listener, waitress.server.BaseWSGIServer)
    ]
    for listener in listeners:
        listener.channel_class = _Channel
    return server, listeners[0].effective_port
