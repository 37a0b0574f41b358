import io

import pytest

from moco_tf.monitoring import progress


@pytest.mark.parametrize(
    ("size", "text"),
    [(30_720_000, "31 MB"), (999e6, "999 MB"), (1.25e12, "1250.0 GB")],
)
def test_sizes_are_read_at_a_glance(size, text):
    assert progress.format_bytes(size) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_plain_line_tells_every_quarter_of_a_minute_and_at_the_end():
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


def test_nothing_new_tells_nothing():
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
