"""Sources whose folders, lists, classes and files have any name."""

import os

import pytest
import tensorflow as tf

from moco_tf import prepare
from moco_tf.data import image_files, sources, specs, unreadable
from moco_tf.doctor import scan
from tests import ugly_names
from tests.data import pictures

NAMES = (*ugly_names.NAMES, ugly_names.WORST)
# What the line of a list cannot hold.
IN_LISTS = [name for name in NAMES if not set("\n\r\t") & set(name)]


def read_all(source):
    """The images of a source, uint8 [H, W, C]."""
    records = source.records(tf.range(len(source), dtype=tf.int64))
    return [source.image(record).numpy() for record in records]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_holds_classes_and_files_of_any_name(
    name, tmp_path
):
    root = ugly_names.make(tmp_path, name)
    files = [f"{name}/{name}.png", "other/a.png"]
    hidden = name.startswith(".")
    pictures.write(root, *files[hidden:])
    source = sources.open_source(f"folder:{root}")
    assert len(read_all(source)) == 2 - hidden
    if not hidden:
        assert set(source.class_names) == {name, "other"}
        assert set(pictures.names(source)) == set(files)
    assert specs.absolute(f"folder:{root}") == f"folder:{root}"


@pytest.mark.parametrize("name", ["a[b]", "two\nlines", "\udcff", "x" * 200])
def test_an_ending_is_seen_behind_any_name(name, tmp_path):
    root = ugly_names.make(tmp_path, name)
    pictures.write(root, f"{name}.png", f"2{name}.JPG")
    (root / f"{name}.png").rename(root / f"3{name}.bmp")
    source = sources.open_source(f"folder:{root}")
    figures = scan.scan_source(source, 1)
    assert figures.columns["misnamed"].tolist() == [0, 1]


@pytest.mark.parametrize("name", IN_LISTS)
def test_a_list_of_any_name_names_files_and_classes_of_any_name(name, tmp_path):
    root = ugly_names.make(tmp_path, name)
    pictures.write(root, f"{name}.png", "b.png")
    path = root / f"{name}.txt"
    lines = [f"{name}.png\t{name}", f"{root}/b.png\tother"]
    path.write_bytes(os.fsencode("\n".join(lines)))
    source = sources.open_source(f"list:{path}")
    assert len(read_all(source)) == 2
    assert set(source.class_names) == {name, "other"}


@pytest.mark.parametrize("name", ["a,b", ",", "a,", ugly_names.WORST])
def test_the_folders_of_pairs_may_hold_commas(name, tmp_path):
    first, second = (
        ugly_names.make(tmp_path, part) for part in (f"1{name}", f"2{name}")
    )
    for folder in (first, second):
        pictures.write(folder, "x.png")
    spec = f"pairs:{first},{second}"
    source = sources.open_source(spec, None)
    assert read_all(source)[0].shape[-1] == 6
    assert specs.absolute(spec) == spec
    assert specs.split_pair(spec.removeprefix("pairs:")) == (
        str(first),
        str(second),
    )


def test_commas_that_leave_two_ways_are_refused(tmp_path):
    for name in ("a", "b", "a,b", "b,a"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="two folders with a comma between"):
        specs.split_pair(f"{tmp_path}/a,{tmp_path}/b,{tmp_path}/a")


@pytest.mark.parametrize("name", ["plain", "a[b] c", "\udcff"])
def test_the_home_is_meant_by_every_source_with_a_path(
    name, tmp_path, monkeypatch
):
    home = ugly_names.make(tmp_path, name)
    monkeypatch.setenv("HOME", str(home))
    pictures.write(home / "x", "a.png", "b.png")
    (home / "x.txt").write_text("x/a.png\n")
    prepare.prepare("folder:~/x", "~/cache")
    for spec, size in (
        ("folder:~/x", 2),
        ("list:~/x.txt", 1),
        ("pairs:~/x,~/x", 2),
        ("prepared:~/cache", 2),
    ):
        source = sources.open_source(spec, None)
        assert len(source) == size
        assert len(read_all(source)) == size
        assert f"{home}/x" in specs.absolute(spec) or "cache" in spec
    with pytest.raises(ValueError, match="Did you mean 'folder:~/x'"):
        sources.open_source("~/x")


def test_two_points_behind_a_link_lead_where_the_system_says(tmp_path):
    pictures.write(tmp_path / "far", "images/a.png", "b.png")
    (tmp_path / "far" / "deep").mkdir()
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / "deep")
    folder = f"folder:{tmp_path}/near/link/../images"
    assert len(read_all(sources.open_source(folder))) == 1
    assert specs.absolute(folder) == f"folder:{tmp_path}/far/images"
    listed = tmp_path / "near" / "list.txt"
    listed.write_text(f"link/../b.png\n../far/b.png\n{tmp_path}/far/b.png\n")
    source = sources.open_source(f"list:{listed}")
    assert len(read_all(source)) == 3
    assert pictures.names(source)[:2] == ["link/../b.png", "../far/b.png"]
    # A list that is reached through a link.
    pictures.write(tmp_path / "far", "deep/c.png")
    (tmp_path / "far" / "deep" / "l.txt").write_text("../b.png\nc.png\n")
    through = f"list:{tmp_path}/near/link/l.txt"
    assert len(read_all(sources.open_source(through))) == 2


def test_a_long_path_leaves_the_reason_to_be_read(tmp_path):
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    (folder / "a.png").symlink_to(folder / "nothing")
    source = image_files.FileSource(folder, ["a.png"])
    _, reason = unreadable.read(source, 0)
    assert reason.endswith("No such file or directory")
