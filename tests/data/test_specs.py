"""Specs of sources that are opened from other folders and other shells."""

import os
import pathlib

import pytest

from moco_tf.data import specs


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """The current folder, with images, a list and a data set of TFDS."""
    folder = tmp_path / "project"
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    (folder / "list.txt").write_text("images/a.png\n")
    (folder / "sets" / "mine" / "1.0.0").mkdir(parents=True)
    (folder / "sets" / "mine" / "1.0.0" / "dataset_info.json").write_text("{}")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    return folder


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("folder:images", "folder:{}/images"),
        ("folder:images/", "folder:{}/images"),
        ("folder:./images/../images", "folder:{}/images"),
        ("list:list.txt", "list:{}/list.txt"),
        ("prepared:cache", "prepared:{}/cache"),
        ("pairs:images,depth", "pairs:{0}/images,{0}/depth"),
        ("tfds:sets/mine/1.0.0/train", "tfds:{}/sets/mine/1.0.0/train"),
        ("tfds:mine/train@sets", "tfds:mine/train@{}/sets"),
        ("tfds:mine/train", "tfds:mine/train"),
        ("shapes:train", "shapes:train"),
        ("shapes", "shapes"),
        ("", ""),
    ],
)
def test_a_spec_is_made_absolute(project, spec, expected):
    assert specs.absolute(spec) == expected.format(project)
    assert specs.absolute(specs.absolute(spec)) == expected.format(project)
    os.chdir("/")
    assert specs.absolute(spec, str(project)) == expected.format(project)


def test_the_home_and_the_folder_of_data_sets_are_written_out(
    project, monkeypatch
):
    monkeypatch.setenv("HOME", "/home/me")
    assert specs.absolute("folder:~/images") == "folder:/home/me/images"
    monkeypatch.setenv("TFDS_DATA_DIR", "sets")
    expected = f"tfds:mine/train@{project}/sets"
    assert specs.absolute("tfds:mine/train") == expected


@pytest.mark.parametrize(
    ("spec", "there"),
    [
        ("folder:images", True),
        ("folder:gone", False),
        ("pairs:images,depth", True),
        ("pairs:images,gone", False),
        ("tfds:mine/train@sets", True),
        ("tfds:mine/train@gone", False),
        ("tfds:/gone/mine/1.0.0/train", False),
        ("shapes:train", True),
        ("", True),
    ],
)
def test_a_spec_exists_with_all_its_paths(spec, there):
    assert specs.exists(spec) is there


def test_data_are_found_where_they_were_or_beside_the_run(project):
    typed, noted = "folder:images", f"folder:{project}/images"
    folders = f"{project}/run", f"{project}/run"
    os.chdir("/")
    assert specs.find(typed, noted, folders) == noted
    moved = project.rename(project.with_name("moved"))
    now = f"{project}/run", f"{moved}/run"
    assert specs.find(typed, noted, now) == f"folder:{moved}/images"
    os.chdir(moved)
    elsewhere = f"{project}/run", "/elsewhere/run"
    assert specs.find(typed, noted, elsewhere) == typed
    os.chdir("/")
    assert specs.find(typed, noted, elsewhere) == noted


def test_an_absolute_spec_that_was_corrected_by_hand_counts(project):
    typed = f"folder:{project}/depth"
    noted = f"folder:{project}/images"
    assert specs.find(typed, noted, ("/run", "/run")) == typed


def test_data_that_are_gone_are_named_with_the_remedy(project):
    specs.check_there(f"folder:{project}/images", "knn.bank", "pass --bank.")
    pathlib.Path("images").rmdir()
    with pytest.raises(
        ValueError, match="knn.bank was 'folder:.*/images'.*pass --bank"
    ):
        specs.check_there(
            f"folder:{project}/images", "knn.bank", "pass --bank."
        )
