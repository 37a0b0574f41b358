"""A real browser without a window, driven over a pipe."""

import json
import os
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATH = next((path for path in map(shutil.which, NAMES) if path), None)
_PATIENCE = 60  # seconds for an answer, on a loaded machine


class Browser:
    """One page of a headless Chromium (its DevTools protocol, 1.3).

    Attributes:
      requests: addresses that the page has asked for.
      complaints: errors of its scripts, and what its policy has refused.
    """

    def __init__(self, folder):
        """Starts it; `folder` is empty and takes its profile."""
        commands, answers = os.pipe(), os.pipe()
        self._process = subprocess.Popen(
            [
                PATH,
                "--headless",
                "--remote-debugging-pipe",
                "--no-sandbox",  # root, as in containers, has none
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                f"--user-data-dir={folder}",
            ],
            # The browser reads from 3 and writes to 4.
            preexec_fn=lambda: _place(commands[0], answers[1]),
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands[0])
        os.close(answers[1])
        self._in, self._out = commands[1], answers[0]
        os.set_blocking(self._out, False)
        self._rest, self._number, self._session = b"", 0, None
        self.requests, self.complaints = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        for name in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{name}.enable")

    def call(self, method, **arguments):
        """Calls a method of the protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for answer in self._heard():
                if answer.get("id") == self._number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    return answer["result"]
                self._note(answer)
        raise TimeoutError(f"The browser has not answered {method}.")

    def open(self, path, width, height, dark=False):
        """Opens a file in a window of this size."""
        self.requests, self.complaints = [], []
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = "dark" if dark else "light"
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        # Another page first: the same one would only be scrolled.
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + _PATIENCE
        while self.run("document.readyState + location.protocol") != (
            "completefile:"
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} has not loaded.")

    def run(self, code):
        """The value of a JavaScript expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def press(self, key):
        """Presses a key, "Tab" or "ArrowLeft"."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        arrows = ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown")
        codes |= {name: code for code, name in enumerate(arrows, start=37)}
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **(more if kind == "keyDown" else {}),
            )

    def point(self, x, y):
        """Moves the pointer to a position in the window, pixels."""
        # What has been scrolled there must have been painted.
        painted = "new Promise(f => requestAnimationFrame(() => setTimeout(f)))"
        self.call("Runtime.evaluate", expression=painted, awaitPromise=True)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def close(self):
        """Ends the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _heard(self):
        try:
            data = os.read(self._out, 1 << 20)
        except BlockingIOError:
            time.sleep(0.005)
            return []
        if not data:
            raise RuntimeError("The browser has ended by itself.")
        *messages, self._rest = (self._rest + data).split(b"\0")
        return [json.loads(text) for text in messages]

    def _note(self, event):
        method, about = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"])
        elif method == "Log.entryAdded":
            self.complaints.append(about["entry"]["text"])


def _place(reads, writes):
    """Puts the ends of two pipes where the browser looks for them."""
    # First to the lowest free numbers, the writing end above the other: then
    # taking 3 for the one closes nothing that the other needs.
    reads, writes = os.dup(reads), os.dup(writes)
    os.dup2(reads, 3)
    os.dup2(writes, 4)
    for end in (3, 4):
        os.set_inheritable(end, True)
