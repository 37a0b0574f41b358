import errno
import io
import sys

import pytest
import tqdm

from moco_tf.monitoring import printed


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_from_before_and_after_the_start_are_kept(tmp_path, capsys):
    with printed.copied():
        print("before")
        printed.keep(tmp_path, "first start")
        print("and", "after", file=sys.stderr)
        print("no end", end="")
    assert capsys.readouterr().out == "before\nno end"
    text = (tmp_path / "log.txt").read_text()
    assert text == "== first start\nbefore\nand after\nno end\n"
    with printed.copied():
        printed.keep(tmp_path, "second")
        print("again")
    text = (tmp_path / "log.txt").read_text()
    assert text.endswith("no end\n\n== second\nagain\n")


def test_a_line_is_in_the_file_at_once(tmp_path):
    with printed.copied():
        printed.keep(tmp_path, "start")
        print("one")
        assert (tmp_path / "log.txt").read_text().endswith("one\n")


def test_what_does_not_begin_writes_nothing(tmp_path):
    with printed.copied():
        print("refused")
    printed.keep(tmp_path, "outside")
    assert not [*tmp_path.iterdir()]


def test_streams_are_as_they_were_after_an_error_that_is_kept(tmp_path):
    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), printed.copied():
        printed.keep(tmp_path, "start")
        print(1 / 0)
    assert (sys.stdout, sys.stderr) == before
    text = (tmp_path / "log.txt").read_text()
    assert text.endswith("ZeroDivisionError: division by zero\n")


def test_of_a_bar_the_last_state_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with printed.copied():
        printed.keep(tmp_path, "start")
        with tqdm.tqdm(total=3, file=sys.stdout, mininterval=0) as bar:
            bar.update(1)
            tqdm.tqdm.write("a message", file=sys.stdout)
            bar.update(2)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[:2] == ["== start", "a message"]
    assert len(lines) == 3 and "3/3" in lines[2] and "1/3" not in lines[2]


def test_letters_that_are_no_text_cost_no_line(tmp_path):
    with printed.copied():
        printed.keep(tmp_path, "start")
        print("\udcff", file=sys.stderr)
        print("after")
    text = (tmp_path / "log.txt").read_text()
    assert text == "== start\n\\udcff\nafter\n"


def test_a_log_that_cannot_be_opened_costs_a_warning_alone(tmp_path, capsys):
    (tmp_path / "log.txt").mkdir()
    with printed.copied():
        printed.keep(tmp_path, "start")
        print("goes on")
    said = capsys.readouterr().out
    assert "what is printed is kept nowhere" in said and "goes on" in said


def test_a_full_disk_raises_once(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with printed.copied():
        monkeypatch.setattr("builtins.open", lambda *a, **k: Full())
        with pytest.raises(OSError, match="No space"):
            printed.keep(tmp_path, "start")
        print("the error itself can still be printed")
