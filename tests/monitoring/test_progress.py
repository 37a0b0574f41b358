import io
import math
import sys
import types

import pytest

from moco_tf.monitoring import progress


@pytest.mark.parametrize(
    ("size", "text"),
    [(30_720_000, "31 MB"), (999e6, "999 MB"), (1.25e12, "1250.0 GB")],
)
def test_sizes_are_read_at_a_glance(size, text):
    assert progress.format_bytes(size) == text


def test_a_plain_line_comes_every_quarter_of_a_minute_and_at_the_end():
    stream = io.StringIO()
    now = [1000.0]
    with progress.Counter(
        100, 40, "preparing", stream, clock=lambda: now[0]
    ) as shown:
        now[0] += 10
        shown.add(5)
        assert stream.getvalue() == ""
        now[0] += 10
        shown.add(5)  # 10 in 20 s, 50 are left
        now[0] += 5
        shown.add(50)
    assert stream.getvalue().splitlines() == [
        "preparing 50/100  0.5 images/s  left 2 min",
        "preparing 100/100  2.4 images/s  left 0 s",
    ]


def test_nothing_new_prints_nothing():
    stream = io.StringIO()
    with progress.Counter(7, 7, "verifying", stream):
        pass
    assert stream.getvalue() == ""


def test_messages_stand_on_lines_of_their_own():
    stream = io.StringIO()
    with progress.Counter(2, 0, "preparing", stream) as shown:
        shown.message("half of it")
    assert stream.getvalue() == "half of it\n"


def test_on_a_terminal_a_bar_counts_from_where_it_was():
    stream = Terminal()
    with progress.Counter(8, 6, "verifying", stream) as shown:
        shown.add(2)
    assert "verifying:  75%" in stream.getvalue()
    assert "8/8" in stream.getvalue()


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _progress(total, per_epoch, stream=None):
    clock, stream = Clock(), stream or io.StringIO()
    shown = progress.Progress(
        total, per_epoch, math.log(4097), stream=stream, clock=clock
    )
    return shown, stream, clock


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
    assert progress.format_duration(seconds) == text


def test_the_plain_line():
    shown, stream, clock = _progress(19400, 97)
    shown.start(0)
    clock.now += 60.0
    shown.update(97)  # no figures, no line; the speed counts from here
    assert stream.getvalue() == ""
    clock.now += 194.0  # 1 s per step
    shown.update(
        291,
        {
            "loss": 6.861,
            "instance_top1": 0.0214,
            "images_per_second": 83.2,
            "input_wait_share": 0.031,
        },
    )
    # 19109 steps at 1 s are 5 h 18 min 29 s
    assert stream.getvalue() == (
        "epoch 3/200  step 291/19400  loss 6.86 (chance 8.32)  "
        "instance_top1 2.1 %  83 images/s  input wait 3 %  "
        "left 197 epochs, 5 h 18 min\n"
    )


def test_a_figure_that_is_not_there_is_left_out():
    shown, stream, _ = _progress(10, 5)
    shown.start(0)
    shown.update(1, {"loss": 1.0, "images_per_second": None, "steps": 1})
    assert stream.getvalue() == (
        "epoch 1/2  step 1/10  loss 1.00 (chance 8.32)\n"
    )


def test_knn_has_its_own_words():
    shown, stream, _ = _progress(10, 5)
    shown.start(0)
    shown.update(5, {"knn_backbone": 0.3112, "knn_projection": 0.5})
    assert "kNN backbone 31.1 %  kNN projection 50.0 %" in stream.getvalue()


def test_a_probe_has_its_words_in_a_line_and_at_the_end_of_an_epoch():
    shown, stream, _ = _progress(10, 5)
    shown.start(0)
    shown.update(5, {"loss": 1.0, "probe_train_top1": 0.125})
    shown.on_epoch(None, {"step": 5, "epoch_loss": 1.0, "probe_top1": 0.25})
    line, end = stream.getvalue().splitlines()
    assert line.endswith("  probe 12.5 %")
    assert end.endswith("  probe 25.00 %")


def test_no_time_passed_is_no_division_by_zero():
    shown, _, _ = _progress(10, 5)
    shown.start(0)
    assert shown.seconds_left(0) is None
    assert shown.seconds_left(3) is None


def test_the_first_update_counts_from_the_start():
    shown, _, clock = _progress(100, 10)
    shown.start(0)
    clock.now += 20.0
    assert shown.seconds_left(10) == 180.0  # 2 s per step, 90 steps


def test_a_resumed_run_counts_this_session_only():
    shown, _, clock = _progress(1000, 100)
    shown.start(900)
    clock.now += 30.0
    shown.update(910)  # compiling included
    clock.now += 20.0
    assert shown.seconds_left(930) == 70.0  # 20 steps in 20 s, 70 to go


def _timed(total, per_epoch, **options):
    clock, stream = Clock(), io.StringIO()
    shown = progress.Progress(
        total, per_epoch, stream=stream, clock=clock, **options
    )
    return shown, stream, clock


def test_the_first_figures_tell_their_speed_without_what_was_compiled():
    shown, stream, clock = _timed(100, 10, batch_size=8)
    shown.start(0)
    clock.now += 60.0  # compiling
    shown.update(10, {"images_per_second": 16.0})  # half a second a step
    assert stream.getvalue().endswith("left 9 epochs, 45 s\n")


def test_right_after_a_resume_the_earlier_speed_tells_what_is_left():
    rows = [
        {"steps": 10, "images_per_second": 4.0},
        {"steps": 30, "images_per_second": 12.0},
        {"steps": 1, "images_per_second": None},
    ]
    # 80 images in 20 s, 240 in 20 s: 40 steps in 40 s
    seconds = progress.seconds_a_step(rows, batch_size=8)
    assert seconds == 1.0
    shown, stream, _ = _timed(
        150, 100, epochs=9, batch_size=8, step_seconds=seconds
    )
    shown.on_start(None, 25)  # of 9 epochs; max_steps ends it after 150 steps
    assert stream.getvalue() == ("left 1.2 epochs, 2 min at the speed so far\n")
    shown.update(30, {"loss": 1.0})
    assert "epoch 1/9  step 30/150" in stream.getvalue()


def test_a_new_run_begins_without_a_guess():
    assert progress.seconds_a_step([], 8) is None
    shown, stream, _ = _timed(10, 5, batch_size=8)
    shown.on_start(None, 0)
    assert stream.getvalue() == ""


def test_a_notebook_gets_bars(monkeypatch):
    stream = io.StringIO()
    assert not progress.has_bars(stream)
    monkeypatch.setattr("sys.stdout", stream)
    assert not progress.has_bars(stream)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert progress.has_bars(stream)
    assert not progress.has_bars(io.StringIO())


def test_a_bar_of_a_notebook_is_one_output_that_changes(monkeypatch):
    """With a stand-in for IPython, which is not installed with the package."""
    stream, outputs = io.StringIO(), []

    class Handle:
        def __init__(self):
            outputs.append([])

        def update(self, data, raw):
            assert raw
            outputs[-1].append(data["text/plain"])

    def display(data, raw, display_id):
        assert display_id
        handle = Handle()
        handle.update(data, raw)
        return handle

    shown = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr("sys.stdout", stream)
    bar = progress.Progress(total_steps=4, steps_per_epoch=2, stream=stream)
    bar.start(0)
    for step in (1, 2):
        bar.update(step, {"loss": 2.0})
    bar.message("epoch 1/2 done")
    bar.update(3, {"loss": 1.0})
    bar.close()
    assert stream.getvalue() == "epoch 1/2 done\n"
    (states,) = outputs  # of both epochs
    assert states[0].startswith("epoch 1/2   0%|")
    assert states[-1].startswith("epoch 2/2  50%|\N{FULL BLOCK}")
    assert not any("\r" in state for state in states)


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
    with progress.Counter(
        5, 0, "encoding", stream, lambda: now[0], patience=3
    ) as shown:
        for count in (1, 1, 2, 1):
            shown.add(count)
            now[0] += pause
        now[0] -= pause
    assert stream.getvalue().splitlines() == lines


def test_what_cannot_be_counted_says_how_long_it_takes():
    stream = io.StringIO()
    with progress.Elapsed("exporting", stream, patience=3):
        pass
    assert stream.getvalue() == ""
    with progress.Elapsed("exporting", stream, patience=0) as shown:
        while not stream.getvalue():
            shown._thread.join(0.01)
    assert stream.getvalue() == "exporting ...  0 s\n"


def test_what_takes_minutes_is_said_in_minutes_and_seconds(monkeypatch):
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.pop())
    now[:] = [75.0, 0.0]  # when it is asked, from the last: start, first line
    with progress.Elapsed("exporting", stream, patience=0) as shown:
        while not stream.getvalue():
            shown._thread.join(0.01)
    assert stream.getvalue() == "exporting ...  1 min 15 s\n"


def test_the_end_has_nothing_left():
    shown, stream, clock = _progress(10, 5)
    shown.start(0)
    clock.now += 5.0
    shown.update(10, {"loss": 1.0})
    assert stream.getvalue().endswith("left 0 epochs, 0 s\n")


def test_a_partial_last_epoch_counts_as_an_epoch():
    shown, stream, _ = _progress(12, 5)
    shown.start(10)
    shown.update(11, {"loss": 1.0})
    assert stream.getvalue().startswith("epoch 3/3  step 11/12")


def test_a_message_is_a_line_of_its_own():
    shown, stream, _ = _progress(10, 5)
    shown.message("kNN ...")
    assert stream.getvalue() == "kNN ...\n"


def test_a_terminal_gets_one_bar_per_epoch():
    shown, stream, clock = _progress(10, 5, Terminal())
    shown.start(0)
    for step in range(1, 11):
        clock.now += 1.0
        shown.update(step, {"loss": step / 4} if step % 5 == 0 else None)
    shown.close()
    text = stream.getvalue()
    assert "epoch 1/2 100%" in text
    assert "epoch 2/2 100%" in text
    assert "5/5" in text
    assert "10/10" not in text
    assert "loss 1.25 (chance 8.32)  left 1 epochs, 5 s" in text


def test_a_resumed_bar_starts_inside_its_epoch():
    shown, stream, clock = _progress(10, 5, Terminal())
    shown.start(7)
    clock.now += 1.0
    shown.update(8, {"loss": 2.0})
    shown.close()
    assert "epoch 2/2  60%" in stream.getvalue()


def test_closing_twice_or_without_a_bar_is_harmless():
    shown, stream, _ = _progress(10, 5, Terminal())
    shown.close()
    shown.start(0)
    shown.update(1)
    shown.close()
    shown.close()
    assert "1/5" in stream.getvalue()
