import pytest

from moco_tf import filesystem


def test_a_file_appears_when_all_of_it_is_there(tmp_path):
    path = tmp_path / "made" / "a.txt"
    with filesystem.file(path) as part:
        part.write_text("new")
        assert [path.name for path in path.parent.iterdir()] == [".a.txt.part"]
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        with filesystem.file(path) as part:
            part.write_text("new")
            raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_and_begins_empty(tmp_path):
    (tmp_path / ".1.part").mkdir()
    (tmp_path / ".1.part" / "left").write_text("by one that was killed")
    with filesystem.folder(tmp_path / "1") as part:
        (part / "a.txt").write_text("new")
        assert not (tmp_path / "1").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "a.txt"]


def test_a_folder_that_fails_or_is_there_changes_nothing(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "a.txt").write_text("old")
    with pytest.raises(OSError):
        with filesystem.folder(tmp_path / "1") as part:
            (part / "a.txt").write_text("new")
    with pytest.raises(ZeroDivisionError):
        with filesystem.folder(tmp_path / "2"):
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "a.txt"]
    assert (tmp_path / "1" / "a.txt").read_text() == "old"
