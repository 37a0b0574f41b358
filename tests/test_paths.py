"""Paths of any name; what TensorFlow does with them is in test_ugly_paths."""

import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moco_tf import filesystem, paths
from moco_tf.cli import main as cli
from moco_tf.doctor import table
from tests import properties, ugly_names

# Flags of text that name no file. A source spec opens its own "~".
NO_PATHS = {
    "workers", "worker_index", "cross_device_ops", "communication", "devices",
    "views", "layout", "name", "licence", "to", "names", "features",
    "source", "images", "bank", "query", "entry", "prefix",
}  # fmt: skip


def bash(command):
    """What bash prints for a command, bytes."""
    return subprocess.run(
        ["bash", "-c", os.fsencode(command)], capture_output=True, check=True
    ).stdout


def words_of(command):
    """The words that bash makes of a command, list of bytes."""
    return bash(f"printf '%s\\0' {command}").split(b"\0")[:-1]


def test_bash_reads_a_printed_command_as_the_words_it_was_made_of():
    words = [*ugly_names.NAMES, ugly_names.WORST]
    words += [f"--workdir={name}" for name in words]
    assert words_of(paths.join(words)) == [os.fsencode(word) for word in words]


@properties.few
@given(st.lists(ugly_names.RANDOM, min_size=1, max_size=50))
def test_bash_reads_any_words(words):
    assert words_of(paths.join(words)) == [os.fsencode(word) for word in words]


@pytest.mark.parametrize("word", ["", "plain", "a b", "it's", "日本 é", "$x"])
def test_what_can_be_printed_is_quoted_as_everywhere(word):
    assert paths.quote(word) == shlex.quote(word)
    assert paths.shown(word) == word


@properties.few
@given(ugly_names.RANDOM)
def test_what_is_shown_is_one_line_of_text_that_names_the_path(name):
    shown = paths.shown(pathlib.Path(name))
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    if not name.isprintable():
        assert words_of(shown) == [os.fsencode(name)]


def left_over():
    return sorted(pathlib.Path(tempfile.gettempdir()).glob("moco_tf-*"))


@pytest.mark.parametrize("name", [*ugly_names.NAMES, ugly_names.WORST])
def test_a_plain_name_leads_to_the_same_folder(name, tmp_path):
    before = left_over()
    folder = ugly_names.make(tmp_path, name)
    (folder / "a.txt").write_text("here")
    with paths.plain(folder) as plain:
        assert not set("[]\\*?\n\x1b") & set(plain)
        assert plain.encode().decode() == plain
        assert pathlib.Path(plain, "a.txt").read_text() == "here"
        pathlib.Path(plain, "b.txt").write_text("new")
    assert (folder / "b.txt").read_text() == "new"
    assert left_over() == before


def test_a_name_that_needs_no_link_is_handed_on_as_it_is(tmp_path):
    for path in (tmp_path / "a b é", "relative/folder", "~x", "a,b@c"):
        with paths.plain(path) as plain:
            assert plain == str(path)


def test_a_plain_name_keeps_the_ending_and_may_be_of_a_new_file(tmp_path):
    path = tmp_path / "a[1].keras"
    with paths.plain(path) as plain:
        assert plain.endswith(".keras")
        pathlib.Path(plain).write_text("new")
    assert path.read_text() == "new"


def test_a_relative_path_means_the_same_by_its_plain_name(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("a[1]").mkdir()
    with paths.plain("a[1]") as plain:
        pathlib.Path(plain, "x").write_text("")
    assert pathlib.Path("a[1]", "x").is_file()


def test_the_link_goes_when_the_block_fails(tmp_path):
    before = left_over()
    with pytest.raises(ZeroDivisionError), paths.plain(tmp_path / "["):
        raise ZeroDivisionError
    assert left_over() == before


def test_the_temporary_folder_may_have_such_a_name_itself(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t[1]"))
    (tmp_path / "t[1]").mkdir()
    (tmp_path / "a*").mkdir()
    with paths.plain(tmp_path / "a*") as plain:
        assert not set("[*") & set(plain)
        assert os.path.samefile(plain, tmp_path / "a*")
    monkeypatch.setattr(paths, "_TEMPORARY", ())
    with pytest.raises(OSError, match="Set TMPDIR to one"):
        with paths.plain(tmp_path / "a*"):
            pass


def test_two_points_behind_a_link_are_what_the_system_takes_them_for(
    tmp_path,
):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "far" / "x").write_text("far")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    path = tmp_path / "link" / ".." / "x"
    assert paths.absolute(path) == os.path.realpath(tmp_path / "far" / "x")
    with paths.plain(path) as plain:
        assert ".." not in plain
        assert pathlib.Path(plain).read_text() == "far"
    # A link alone stays: it may lead elsewhere tomorrow.
    assert paths.absolute(tmp_path / "link") == str(tmp_path / "link")


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "[" * 250 + ".html"])
def test_the_longest_name_can_be_written(name, tmp_path):
    path = tmp_path / name
    with filesystem.atomic_file(path) as part:
        part.write_text("new")
        assert part.name.startswith(".")
    with filesystem.atomic_file(path, per_process=True) as part:
        part.write_text("newer")
    assert path.read_text() == "newer"
    path.unlink()
    with filesystem.atomic_folder(path) as part:
        (part / "a").write_text("")
    assert [x.name for x in tmp_path.rglob("*")] == [name, "a"]
    other = filesystem.part_of(tmp_path / (name[:-1] + "y"))
    assert other != filesystem.part_of(path)


def takes_text(flag):
    """Whether a flag takes any text; numbers and choices do not."""
    try:
        return flag.read is not None and flag.read("~/x y") is not None
    except ValueError:
        return False


def path_flags():
    return [
        pytest.param(flag, id=f"{command}-{flag.name}")
        for command, entry in cli.COMMANDS.items()
        for flag in entry.flags
        if takes_text(flag) and flag.name not in NO_PATHS
    ]


@pytest.mark.parametrize("flag", path_flags())
def test_every_flag_with_a_path_takes_the_home(flag, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of [a] user")
    assert flag.read("~/x y") == "/home/of [a] user/x y"
    assert flag.read("~root/x") == os.path.expanduser("~root/x")
    assert flag.read("a/~/x") == "a/~/x"


@pytest.mark.parametrize("flag", path_flags())
def test_an_address_is_no_path(flag):
    for text in ("gs://bucket/run", "s3://b", "https://x/y", "file:///x"):
        with pytest.raises(ValueError, match="Mount or copy it"):
            flag.read(text)
    assert flag.read("gs:/x") == "gs:/x"
    assert flag.read("a/s3://x") == "a/s3://x"


def test_the_flags_that_name_files_have_the_type_of_paths():
    names = {f.values[0].name for f in path_flags()}
    assert {
        "workdir", "output", "path", "saved_model", "checkpoint", "config",
        "json", "csv", "grid", "plot", "head", "model",
    } <= names  # fmt: skip
    bank, query = (
        next(f for f in cli.COMMANDS["neighbours"].flags if f.name == name)
        for name in ("bank", "query")
    )
    assert bank.read("~") == query.read("~") == os.path.expanduser("~")


def test_a_suggested_value_is_quoted_for_a_shell():
    changes = {"data.source": "folder:/a b/[c]", "train.batch_size": 8}
    assert table.flags(changes) == [
        "'--config.data.source=folder:/a b/[c]'",
        "--config.train.batch_size=8",
    ]


def test_a_name_is_plain_only_as_the_locale_has_it(tmp_path):
    """Of another locale Python's bytes of a name are not TensorFlow's."""
    (tmp_path / "é").mkdir()
    program = (
        "import os, sys; from moco_tf import paths\n"
        "with paths.plain(sys.argv[1]) as plain:\n"
        "    print(plain.isascii(), os.path.samefile(plain, sys.argv[1]))"
    )
    other = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "é"],
        env=os.environ | other,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True True\n"


def test_the_names_that_were_made_up_are_taken_out_of_a_message(tmp_path):
    with paths.plain(tmp_path / "a[1]") as plain:
        text = f"Not found: {plain}/state.index; No such file"
    assert paths.without_link(text) == "Not found: state.index; No such file"
    assert paths.without_link("no link/at all") == "no link/at all"
