"""Atomic files and folders, and locks.

The lock of a killed process is in test_workdirs.py.
"""

import errno
import os

import pytest

from moco_tf import filesystem


def test_a_file_appears_when_all_of_it_is_there(tmp_path):
    path = tmp_path / "made" / "a.txt"
    with filesystem.atomic_file(path) as part:
        part.write_text("new")
        assert [path.name for path in path.parent.iterdir()] == [".a.txt.part"]
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        with filesystem.atomic_file(path) as part:
            part.write_text("new")
            raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_complete_and_begins_empty(tmp_path):
    (tmp_path / ".1.part").mkdir()
    (tmp_path / ".1.part" / "left").write_text("by one that was killed")
    with filesystem.atomic_folder(tmp_path / "1") as part:
        (part / "a.txt").write_text("new")
        assert not (tmp_path / "1").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "a.txt"]


def test_a_folder_that_fails_or_is_there_changes_nothing(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "a.txt").write_text("old")
    with pytest.raises(OSError):
        with filesystem.atomic_folder(tmp_path / "1") as part:
            (part / "a.txt").write_text("new")
    with pytest.raises(ZeroDivisionError):
        with filesystem.atomic_folder(tmp_path / "2"):
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "a.txt"]
    assert (tmp_path / "1" / "a.txt").read_text() == "old"


def test_a_second_open_file_does_not_get_the_lock_until_the_first_closes(
    tmp_path,
):
    path = tmp_path / "lock"
    first, second = path.open("ab"), path.open("ab")
    assert filesystem.lock(first, tmp_path)
    assert not filesystem.lock(second, tmp_path)
    first.close()
    assert filesystem.lock(second, tmp_path)
    second.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of(
    number, tmp_path, capsys, monkeypatch
):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filesystem.fcntl, "flock", refuse)
    with (tmp_path / "lock").open("ab") as file:
        assert filesystem.lock(file, tmp_path)
    warning = capsys.readouterr().out
    assert f"no-locks: the file system of {tmp_path} has no locks" in warning
    assert os.strerror(number) in warning


def test_another_error_is_not_taken_for_a_file_system_without_locks(tmp_path):
    path = tmp_path / "lock"
    file = path.open("ab")
    descriptor = file.fileno()
    file.close()
    with pytest.raises(OSError) as error:
        filesystem.lock(descriptor, tmp_path)
    assert error.value.errno == errno.EBADF
