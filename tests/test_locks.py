"""Locks of open files; those of a killed process are in test_workdirs.py."""

import errno
import os

import pytest

from moco_tf import filesystem


def test_a_second_open_file_does_not_get_the_lock_until_the_first_closes(
    tmp_path,
):
    path = tmp_path / "lock"
    first, second = path.open("ab"), path.open("ab")
    assert filesystem.take(first, tmp_path)
    assert not filesystem.take(second, tmp_path)
    first.close()
    assert filesystem.take(second, tmp_path)
    second.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_of(
    number, tmp_path, capsys, monkeypatch
):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filesystem.fcntl, "flock", refuse)
    with (tmp_path / "lock").open("ab") as file:
        assert filesystem.take(file, tmp_path)
    said = capsys.readouterr().out
    assert f"no-locks: the file system of {tmp_path} has no locks" in said
    assert os.strerror(number) in said


def test_another_error_is_not_taken_for_a_file_system_without_locks(tmp_path):
    path = tmp_path / "lock"
    file = path.open("ab")
    descriptor = file.fileno()
    file.close()
    with pytest.raises(OSError) as error:
        filesystem.take(descriptor, tmp_path)
    assert error.value.errno == errno.EBADF
