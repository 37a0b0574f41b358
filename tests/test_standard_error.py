"""Standard error that is held back is shown, at the end at the latest."""

import os
import subprocess
import sys

import pytest

from moco_tf import standard_error

# A process that writes two lines as C++ code does, then does something.
CODE = """
import os, resource, signal, sys
from moco_tf import standard_error
os.setpgid(0, 0)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with standard_error.capture(lambda line: line != b"a notice"):
    os.write(2, b"a notice\\n")
    os.write(2, b"F cpu_feature_guard.cc:1] no AVX\\n")
    {act}
print(os.listdir(os.environ["TMPDIR"]))
"""


def run(act, folder):
    """The process that acts so, ended; its files lie in a folder."""
    return subprocess.run(
        [sys.executable, "-c", CODE.format(act=act)],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("act", "status"),
    [
        ("os.abort()", -6),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.killpg(0, signal.SIGTERM)", -15),  # as timeout or a shell does
    ],
)
def test_a_process_that_dies_has_its_last_words_shown(tmp_path, act, status):
    folder = tmp_path / 'it\'s "here"'
    folder.mkdir()
    done = run(act, folder)
    assert done.returncode == status
    assert done.stderr.splitlines()[-1] == "F cpu_feature_guard.cc:1] no AVX"
    assert list(folder.iterdir()) == []


def test_a_process_that_goes_on_shows_what_is_to_be_shown(tmp_path):
    done = run("pass", tmp_path)
    assert done.stderr == "F cpu_feature_guard.cc:1] no AVX\n"
    assert done.stdout == "[]\n"


def test_nothing_is_left_of_what_waits_for_the_end(monkeypatch):
    started, start = [], subprocess.Popen

    def noted(*arguments, **keywords):
        started.append(start(*arguments, **keywords))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    with standard_error.capture(lambda line: True):
        assert [process.poll() for process in started] == [None]
    assert [process.returncode for process in started] == [0]


def test_where_no_process_can_be_started_lines_are_held_back_too(
    monkeypatch, capfd
):
    def refuse(*arguments, **keywords):
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with standard_error.capture(lambda line: line != b"a notice"):
        os.write(2, b"a notice\ndisk failure\n")
    assert capfd.readouterr().err == "disk failure\n"
