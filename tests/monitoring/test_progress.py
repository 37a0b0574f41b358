import io
import math
import sys
import threading
import types

import pytest

from moco_tf import counting
from moco_tf.monitoring import printed, progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _progress(total, per_epoch, stream=None, **kwargs):
    clock, stream = Clock(), stream or io.StringIO()
    shown = progress.Progress(
        total, per_epoch, math.log(4097), stream=stream, clock=clock, **kwargs
    )
    return shown, stream, clock


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


def test_of_very_many_short_epochs_most_lines_are_left_out():
    shown, stream, clock = _progress(800 * 4, 4)
    shown.on_start(None, 0)
    for step in range(4, 800 * 4 + 1, 4):
        clock.now += 0.5  # 400 s in all: a line of a kind in 15 s
        shown.on_step(None, step - 1)
        row = {"step": step, "loss": 1.0, "epoch_loss": 1.0}
        shown.on_report(None, row)
        shown.on_epoch(None, row)
    lines = stream.getvalue().splitlines()
    assert lines[58].startswith("epoch 30/800  step 120/3200")
    assert lines[59].startswith("epoch 30/800 done")
    notices = [line for line in lines if "metrics.csv has all" in line]
    assert notices == [lines[60]]
    assert 105 < len(lines) < 120
    assert all("loss" in line for line in lines if line not in notices)
    assert [line.split("  ")[0] for line in lines[-2:]] == [
        "epoch 800/800",
        "epoch 800/800 done",
    ]


@pytest.mark.parametrize("period", [0.5, 3.1, 5.0, 7.0])
@pytest.mark.parametrize("measured", [1, 5])
def test_of_short_epochs_the_accuracy_is_shown_all_the_time(period, measured):
    shown, stream, clock = _progress(800, 1)
    shown.on_start(None, 0)
    for step in range(1, 801):
        clock.now += period - 0.4
        row = {"step": step, "loss": 1.0, "epoch_loss": 1.0}
        shown.on_report(None, row)
        clock.now += 0.4
        more = {"knn_backbone": 0.5} if step % measured == 0 else {}
        shown.on_epoch(None, row | more)
    late = stream.getvalue().splitlines()[61:]
    most = 2 + 800 * period / counting.LINE_SECONDS
    for words in ("  step ", " done  loss 1.0000  kNN"):
        count = sum(words in line for line in late)
        assert most / 3 < count <= most, words


def test_a_step_whose_figures_come_is_not_shown_before_them():
    shown, stream, clock = _progress(100, 10, log_every=2)
    shown.on_start(None, 0)
    for step in range(1, 5):
        clock.now += 20
        shown.on_step(None, step)
        if step % 2 == 0:
            shown.on_report(None, {"step": step, "loss": 1.0})
    shown.close()
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        f"step {step}/100" for step in range(1, 5)
    ]


def test_slow_steps_show_themselves_before_the_first_figures():
    shown, stream, clock = _progress(100, 10)
    shown.on_start(None, 0)
    for step in range(1, 4):
        clock.now += 8
        shown.on_step(None, step)
    shown.close()
    assert stream.getvalue() == "epoch 1/10  step 2/100\n"


def test_a_bar_moves_with_every_step():
    shown, stream, _ = _progress(20, 10, Terminal())
    shown.on_start(None, 0)
    for step in range(1, 11):
        shown.on_step(None, step)
        assert step == 10 or shown._bar.n == step
        if step % 5 == 0:  # steps of a report
            shown.on_report(None, {"step": step, "loss": 2.0})
    shown.close()
    assert "10/10" in stream.getvalue()


@pytest.mark.parametrize("end", ["on_step", "close"])
def test_that_the_first_step_is_compiled_is_said(monkeypatch, end):
    monkeypatch.setattr(counting, "_PATIENCE", 0)
    before = threading.active_count()
    shown, stream, _ = _progress(100, 10)
    shown.on_start(None, 0)
    while not stream.getvalue():
        threading.Event().wait(0.01)
    shown.on_step(None, 1) if end == "on_step" else shown.close()
    assert threading.active_count() == before
    assert stream.getvalue() == "compiling the first step ...  0 s\n"


def test_of_long_epochs_every_line_is_printed():
    shown, stream, clock = _progress(800, 4)
    for step in range(4, 801, 4):
        clock.now += 16
        shown.on_epoch(None, {"step": step, "epoch_loss": 1.0})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 200 and not any("metrics.csv" in x for x in lines)


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


@pytest.fixture(name="outputs")
def _outputs(monkeypatch):
    """The states of each output of a notebook, in lists.

    Of a stand-in for IPython, which is not installed with the package.
    """
    outputs = []

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
    return outputs


def test_a_bar_of_a_notebook_is_one_output_that_changes(monkeypatch, outputs):
    stream = io.StringIO()
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


@pytest.mark.usefixtures("outputs")
def test_a_message_in_an_epoch_of_a_notebook_is_a_line_of_the_log(tmp_path):
    with printed.copied():
        printed.keep(tmp_path, "start")
        bar = progress.Progress(total_steps=2, steps_per_epoch=2)
        bar.start(0)
        bar.update(1, {"loss": 2.0})
        bar.message("Warning: dead")
        bar.update(2, {"loss": 1.0})
    _, warning, state = (tmp_path / "log.txt").read_text().splitlines()
    assert warning == "Warning: dead"
    assert state.startswith("epoch 1/1 100%|") and "loss 1.00" in state


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
