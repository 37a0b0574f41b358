import errno
import io
import os
import sys
import threading

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


def test_a_worker_waits_for_the_folder_that_the_first_one_makes(tmp_path):
    folder = tmp_path / "run"
    threading.Timer(0.2, folder.mkdir).start()
    with printed.copied():
        printed.keep(folder, "start", worker=1)
        print("kept")
    assert (folder / "log.worker-1.txt").read_text() == "== start\nkept\n"


def test_a_folder_that_a_worker_does_not_see_is_no_damage(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(printed, "_APPEARS", 0)
    with printed.copied():
        printed.keep(tmp_path / "run", "start", worker=1)
        print("goes on")
    said = capsys.readouterr().out
    assert "must see the same workdir" in said and "goes on" in said
    assert "damaged" not in said and "Move" not in said


class Broken(io.BytesIO):
    """A file that has an error of a number instead of its second line."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, data):
        if self.getvalue():
            raise OSError(self.number, os.strerror(self.number))
        return super().write(data)


def test_a_full_disk_raises_once(tmp_path, monkeypatch):
    with printed.copied():
        monkeypatch.setattr(
            "builtins.open", lambda *a, **k: Broken(errno.ENOSPC)
        )
        printed.keep(tmp_path, "start")
        with pytest.raises(OSError, match="No space"):
            print("one")
        print("the error itself can still be printed")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_run_outlives_its_log(tmp_path, monkeypatch, capsys, number):
    with monkeypatch.context() as patch, printed.copied():
        patch.setattr("builtins.open", lambda *a, **k: Broken(number))
        printed.keep(tmp_path, "start")
        assert printed.kept() == str(tmp_path / "log.txt")
        print("one")
        assert printed.kept() is None
        printed.keep(tmp_path, "start")
        print("two", file=sys.stderr)
    shown = capsys.readouterr()
    assert shown.out.count("log.txt cannot be written to any more") == 1
    assert os.strerror(number) in shown.out and shown.out.startswith("one\n")
    assert shown.err == "two\n"


def test_each_worker_has_a_file_of_its_own(tmp_path):
    with printed.copied():
        print("joins")
        printed.keep(tmp_path, "start", worker=3)
    assert [path.name for path in tmp_path.iterdir()] == ["log.worker-3.txt"]
    text = (tmp_path / "log.worker-3.txt").read_text()
    assert text == "== start\njoins\n"


def test_a_start_without_a_title_has_its_time_and_command(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["moco-tf", "a b"])
    with printed.copied():
        printed.keep(tmp_path)
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert line.startswith("== 20") and line.endswith(" moco-tf 'a b'")


def test_parts_of_a_stream_do_not_mix_their_lines(tmp_path):
    with printed.copied():
        printed.keep(tmp_path, "start")
        sys.stdout.log("\r 30 %|###", part="bar")
        print("Warning: dead")
        sys.stdout.log("\r 60 %|######", part="bar")
        sys.stdout.log("\n", part="bar")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines == ["== start", "Warning: dead", " 60 %|######"]


def test_what_is_printed_after_the_block_is_not_kept(tmp_path, capsys):
    with printed.copied():
        printed.keep(tmp_path, "start")
        kept = sys.stdout
        print("in it")
    print("after it", file=kept)
    with printed.copied():
        refused = sys.stderr
    print("after it", file=refused)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("in it\nafter it\n", "after it\n")
    assert (tmp_path / "log.txt").read_text() == "== start\nin it\n"
    assert refused._log.lines is None


def test_an_error_is_kept_whatever_has_become_of_the_streams(
    tmp_path, monkeypatch
):
    with pytest.raises(ZeroDivisionError), printed.copied():
        printed.keep(tmp_path, "start")
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        print(1 / 0)
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()


def test_a_line_that_its_stream_does_not_take_is_kept(tmp_path, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with printed.copied():
        printed.keep(tmp_path, "start")
        with pytest.raises(BrokenPipeError):
            print("nobody reads this")
    text = (tmp_path / "log.txt").read_text()
    assert text == "== start\nnobody reads this\n"


def test_threads_lose_no_text_of_each_other(tmp_path, monkeypatch):
    last_state, others = printed._last_state, []

    def slowly(line):
        # The other thread prints while this one is within the log.
        if not others:
            write = sys.stdout.write
            others.append(threading.Thread(target=write, args=["two"]))
            others[0].start()
            others[0].join(0.2)
        return last_state(line)

    monkeypatch.setattr(printed, "_last_state", slowly)
    with printed.copied():
        printed.keep(tmp_path, "start")
        sys.stdout.write("one")
        others[0].join()
    assert (tmp_path / "log.txt").read_text() == "== start\nonetwo\n"


def test_an_interruption_is_kept_where_words_are_given(tmp_path, capsys):
    words = "Interrupted: the same call goes on."
    with pytest.raises(KeyboardInterrupt, match=words), printed.copied(words):
        printed.keep(tmp_path, "start")
        raise KeyboardInterrupt
    assert (tmp_path / "log.txt").read_text() == f"== start\n\n{words}\n"
    with pytest.raises(KeyboardInterrupt), printed.copied():
        raise KeyboardInterrupt
    assert capsys.readouterr().out == f"\n{words}\n"
