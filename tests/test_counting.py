"""Signs of life: counts, elapsed time, and numbers in words."""

import io
import re
import sys
import threading
import types

import pytest

from moco_tf import counting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("size", "text"),
    [(30_720_000, "31 MB"), (999e6, "999 MB"), (1.25e12, "1250.0 GB")],
)
def test_sizes_are_read_at_a_glance(size, text):
    assert counting.format_bytes(size) == text


def test_a_plain_line_comes_every_quarter_of_a_minute_and_at_the_end():
    stream = io.StringIO()
    now = [1000.0]
    with counting.Counter(
        100, 40, "preparing", stream, clock=lambda: now[0]
    ) as shown:
        now[0] += 2
        shown.add(1)
        assert stream.getvalue() == ""
        now[0] += 2
        shown.add(1)  # the first after 3 s
        now[0] += 14
        shown.add(3)
        now[0] += 2
        shown.add(5)  # 10 in 20 s, 50 are left
        now[0] += 5
        shown.add(50)
    assert stream.getvalue().splitlines() == [
        "preparing 42/100  0.5 images/s  left 2 min",
        "preparing 50/100  0.5 images/s  left 2 min",
        "preparing 100/100  2.4 images/s  left 0 s",
    ]


def test_nothing_new_prints_nothing():
    stream = io.StringIO()
    with counting.Counter(7, 7, "verifying", stream):
        pass
    assert stream.getvalue() == ""


def test_messages_stand_on_lines_of_their_own():
    stream = io.StringIO()
    with counting.Counter(2, 0, "preparing", stream) as shown:
        shown.message("half of it")
    assert stream.getvalue() == "half of it\n"


def test_on_a_terminal_a_bar_counts_from_where_it_was():
    stream = Terminal()
    with counting.Counter(8, 6, "verifying", stream) as shown:
        shown.add(2)
    assert "verifying:  75%" in stream.getvalue()
    assert "8/8" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (90, "2 min"),
        (3569, "59 min"),
        (3571, "1 h 0 min"),
        (18720, "5 h 12 min"),
        (86399, "1 d 0 h"),
        (100 * 3600, "4 d 4 h"),
        (47 * 3600 + 3599, "2 d 0 h"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert counting.format_duration(seconds) == text


def test_a_notebook_gets_bars(monkeypatch):
    stream = io.StringIO()
    assert not counting.has_bars(stream)
    monkeypatch.setattr("sys.stdout", stream)
    assert not counting.has_bars(stream)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert counting.has_bars(stream)
    assert not counting.has_bars(io.StringIO())


@pytest.mark.parametrize(
    ("pause", "lines"),
    [
        (1.0, []),  # the result comes at the third second
        (
            2.0,
            [
                "encoding 4/5  1.0 images/s  left 1 s",
                "encoding 5/5  0.8 images/s  left 0 s",
            ],
        ),
    ],
)
def test_what_takes_no_three_seconds_shows_no_progress(pause, lines):
    stream, now = io.StringIO(), [0.0]
    with counting.Counter(
        5, 0, "encoding", stream, lambda: now[0], brief=True
    ) as shown:
        for count in (1, 1, 2, 1):
            shown.add(count)
            now[0] += pause
        now[0] -= pause
    assert stream.getvalue().splitlines() == lines


def test_what_cannot_be_counted_says_how_long_it_takes(monkeypatch):
    stream = io.StringIO()
    with counting.Elapsed("exporting", stream):
        pass
    assert stream.getvalue() == ""
    monkeypatch.setattr(counting, "_PATIENCE", 0)
    with counting.Elapsed("exporting", stream) as shown:
        while not stream.getvalue():
            shown._thread.join(0.01)
    assert stream.getvalue() == "exporting ...  0 s\n"


def test_what_takes_minutes_is_said_in_minutes_and_seconds(monkeypatch):
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(counting, "_PATIENCE", 0)
    monkeypatch.setattr(counting.time, "monotonic", lambda: now.pop())
    now[:] = [75.0, 0.0]  # when it is asked, from the last: start, first line
    with counting.Elapsed("exporting", stream) as shown:
        while not stream.getvalue():
            shown._thread.join(0.01)
    assert stream.getvalue() == "exporting ...  1 min 15 s\n"


def _wait_for(condition):
    """Waits until the thread of a sign of life has done its part."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("nothing was shown in 20 s")


@pytest.fixture
def hasty(monkeypatch):
    """Signs of life without patience, ten a second."""
    monkeypatch.setattr(counting, "_PATIENCE", 0)
    monkeypatch.setattr(counting, "LINE_SECONDS", 0.1)


def test_a_counter_shows_itself_while_nothing_gets_done(hasty):
    stream = io.StringIO()
    with counting.Counter(3, 0, "fitting", stream, unit="fits") as shown:
        _wait_for(lambda: stream.getvalue().count("\n") > 1)
        shown.add(3)
    first, *_, last = stream.getvalue().splitlines()
    assert re.fullmatch(r"fitting 0/3 fits  0 s", first)
    assert last.startswith("fitting 3/3  ")


def test_a_bar_is_drawn_before_anything_is_done(hasty):
    stream = Terminal()
    with counting.Counter(3, 0, "fitting", stream, brief=True):
        _wait_for(lambda: "0/3" in stream.getvalue())


def test_a_line_about_time_stands_above_the_bar(hasty):
    stream = Terminal()
    with (
        counting.Counter(10, 0, "encoding", stream),
        counting.Elapsed("exporting", stream),
    ):
        _wait_for(lambda: "exporting ...  0 s\n" in stream.getvalue())
    for line in re.split("[\r\n]", stream.getvalue()):
        assert not ("encoding" in line and "exporting" in line)


def test_words_about_time_change_in_one_output_of_a_notebook(
    hasty, monkeypatch
):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    states = []
    shown = types.SimpleNamespace(
        display=lambda data, **_: (
            states.append([data["text/plain"]])
            or types.SimpleNamespace(
                update=lambda data, raw: states[-1].append(data["text/plain"])
            )
        )
    )
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    with counting.Elapsed("drawing"):
        _wait_for(lambda: states and len(states[0]) > 2)
    assert len(states) == 1
    assert set(states[0]) == {"drawing ...  0 s"}


def test_a_function_says_what_it_does(hasty, capsys):
    @counting.timed("comparing")
    def compare(first, second):
        """Compares."""
        _wait_for(lambda: "comparing ...  0 s" in capsys.readouterr().out)
        return first + second

    assert compare(1, second=2) == 3
    assert compare.__doc__ == "Compares."


def test_of_nothing_nothing_is_shown(hasty):
    for stream in (io.StringIO(), Terminal()):
        with counting.Counter(0, 0, "encoding", stream) as shown:
            threading.Event().wait(0.05)
            assert not shown.describe("encoding images")
        assert stream.getvalue() == ""


def test_a_bar_may_go_and_may_be_named_anew():
    stream = Terminal()
    with counting.Counter(3, 0, "looking", stream, leave=False) as shown:
        assert shown.describe("steps")
        shown.add(3)
    assert (
        "steps: 100%" in stream.getvalue() or "steps:   0%" in stream.getvalue()
    )
    assert stream.getvalue().endswith("\r")


def test_a_bar_that_a_sign_of_life_drew_ends_its_line(hasty):
    stream = Terminal()
    with pytest.raises(ZeroDivisionError):
        with counting.Counter(3, 0, "fitting", stream, brief=True) as shown:
            shown._bar.delay = 3600  # no count draws it
            _wait_for(lambda: "0/3" in stream.getvalue())
            raise ZeroDivisionError
    assert stream.getvalue().endswith("\n")


@pytest.mark.parametrize("leave", [True, False])
def test_work_that_is_short_shows_no_bar_by_its_name(leave):
    stream = Terminal()
    with counting.Counter(3, 0, "a", stream, brief=True, leave=leave) as shown:
        assert shown.describe("b")
        shown.add(3)
    assert stream.getvalue() == ""


class _Interrupted(Terminal):
    """A terminal at which Ctrl-C is pressed while it is written to, once."""

    pressed = False

    def write(self, text):
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return super().write(text)


@pytest.mark.parametrize("draw", ["refresh", "clear"])
def test_an_interruption_while_a_bar_is_drawn_stops_no_other_thread(
    hasty, draw
):
    stream = _Interrupted()
    stream.pressed = True
    bar = counting.Bar(total=3, file=stream)
    stream.pressed = False
    with pytest.raises(KeyboardInterrupt):
        getattr(bar, draw)()
    with counting.Elapsed("saving", stream):
        _wait_for(lambda: "saving ..." in stream.getvalue())
    bar.close()


def test_a_stream_that_hangs_is_not_waited_for(hasty, monkeypatch):
    monkeypatch.setattr(counting, "_PARTING", 0.1)
    free, asked = threading.Event(), threading.Event()

    class Stopped(io.StringIO):
        def write(self, text):
            asked.set()
            free.wait(60)

    with counting.Elapsed("exporting", Stopped()) as shown:
        assert asked.wait(20)
    assert shown._thread.is_alive()
    free.set()
    shown._thread.join(20)
    assert not shown._thread.is_alive()


def test_an_interruption_at_the_start_leaves_no_thread(monkeypatch):
    shown = counting.Elapsed("saving", io.StringIO())
    begin = shown._thread.start

    def start():
        begin()
        raise KeyboardInterrupt

    monkeypatch.setattr(shown._thread, "start", start)
    with pytest.raises(KeyboardInterrupt), shown:
        pass
    shown._thread.join(20)
    assert not shown._thread.is_alive()


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError])
def test_a_stream_that_nobody_reads_is_left_to_the_work(hasty, error, capfd):
    class Closed(io.StringIO):
        asked = False

        def write(self, text):
            self.asked = True
            raise error("closed")

    stream = Closed()
    with counting.Elapsed("exporting", stream):
        _wait_for(lambda: stream.asked)
    assert capfd.readouterr().err == ""  # of the thread


def test_an_error_ends_the_signs_of_life(hasty):
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), counting.Elapsed("a", io.StringIO()):
        raise ZeroDivisionError
    assert threading.active_count() == before
