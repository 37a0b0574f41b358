"""Which images of a folder have a class: the rule, and each kind of stray.

Nothing is read: the rule is one of paths.
"""

import os

import numpy as np
import pytest

from moco_tf.data import class_folders

PLAIN = [f"{name}/{n}.jpg" for name in ("cat", "dog") for n in range(4)]


def classes_of(*names, root="/data"):
    images = sorted(os.fsencode(name) for name in names)
    return images, class_folders.classes_of(images, root)


@pytest.mark.parametrize(
    "stray",
    [
        "cover.jpg",
        "zebra.png",
        "cat/deeper/1.jpg",
        "cat/@eaDir/1.jpg",
        "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "dog/Thumbs/1.jpg",
        "dog/thumbnails/1.jpg",
        "@eaDir/1.jpg",
        "__MACOSX/cat/1.jpg",
        "#recycle/1.jpg",
        "lost+found/1.jpg",
        "other/deep/1.jpg",
    ],
)
def test_one_stray_takes_no_label_away(stray):
    images, classes = classes_of(*PLAIN, stray)
    place = images.index(os.fsencode(stray))
    assert classes.names == ["cat", "dog"]
    assert classes.refusal == ""
    assert classes.labels[place] == -1
    kept = np.delete(classes.labels, place)
    assert kept.tolist() == [0] * 4 + [1] * 4
    (remark,) = classes.remarks()
    assert f": 1 ({stray})" in remark.words
    assert "Move " in remark.remedy


def test_strays_are_counted_and_the_first_named():
    *_, classes = classes_of(*PLAIN * 2, *"abcd", "cat/x/1.jpg")
    (remark,) = classes.remarks()
    assert "a class: 5 (a, b, c, ...)" in remark.words


def test_thumbnails_do_not_outnumber_the_images_that_they_are_of():
    thumbs = [f"{x}/@eaDir/{n}.jpg" for x in ("cat", "dog") for n in range(40)]
    _, classes = classes_of(*PLAIN, *thumbs)
    assert classes.names == ["cat", "dog"]
    assert (classes.labels >= 0).sum() == len(PLAIN)
    assert classes.kept.count == 80


def test_a_class_may_have_the_name_of_thumbnails():
    _, classes = classes_of("fists/1.jpg", "thumbs/1.jpg", "thumbs/2.jpg")
    assert classes.names == ["fists", "thumbs"]
    assert classes.remarks() == []


def test_two_strays_of_a_small_folder_are_allowed():
    four = ["a/1", "a/2", "b/1", "b/2"]
    assert classes_of(*four, "x", "a/c/1")[1].names == ["a", "b"]
    assert classes_of(*four[1:], "x", "a/c/1")[1].labels is None


def test_as_many_strays_as_one_of_four_are_allowed():
    six = ["a/1", "a/2", "a/3", "b/1", "b/2", "b/3"]
    assert classes_of(*six, "x", "y")[1].names == ["a", "b"]
    refusal = classes_of(*six, "x", "y", "z")[1].refusal
    assert "3 of its 9 images lie beside the class folders" in refusal
    assert "(x, y, z): more than one of four. Move them away" in refusal


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.jpg", "b.jpg"], "lie side by side (a.jpg, b.jpg). Put those"),
        (["one/a.jpg", "one/b.jpg"], "lie in one folder, 'one', and classes"),
        (["@eaDir/a.jpg"], "lie side by side"),
        (["cat/@eaDir/a.jpg", "cat/a.jpg"], "lie in one folder, 'cat'"),
        (["x/y/a.jpg", "x/y/b.jpg"], "more than one folder deep (x/y/a.jpg)"),
        (["one/a.jpg", "two/a.jpg", "c.jpg"], "1 of its 3 images lie beside"),
    ],
)
def test_other_layouts_have_no_labels_and_say_why(names, words):
    _, classes = classes_of(*names)
    assert classes.labels is None and classes.names is None
    assert words in classes.refusal
    assert "list:FILE" in classes.refusal


def test_a_folder_of_splits_is_not_one_of_classes_but_names_one_that_is():
    splits = [
        f"{split}/{name}" for split in ("test", "train") for name in PLAIN
    ]
    _, classes = classes_of(*splits, root="/data/x")
    assert classes.labels is None
    assert "(test/cat/0.jpg)" in classes.refusal
    assert "as folder:/data/x/test (2 are such)" in classes.refusal


@pytest.mark.parametrize(
    ("names", "recorded"),
    [
        (PLAIN, ["cat", "dog"]),
        ([*PLAIN, "cover.jpg"], None),
        ([*PLAIN, "cat/x/1.jpg"], None),
        # Earlier versions took any folder for a class.
        ([*PLAIN, "@eaDir/1.jpg"], ["@eaDir", "cat", "dog"]),
        (["one/a.jpg"], None),
        (["@eaDir/1.jpg", "one/a.jpg"], ["@eaDir", "one"]),
    ],
)
def test_a_fingerprint_holds_the_labels_of_earlier_versions(names, recorded):
    _, classes = classes_of(*names)
    if recorded is None:
        assert classes.recorded is None
    else:
        labels, classes_then = classes.recorded
        assert classes_then == recorded
        assert len(labels) == len(names) and labels.min() == 0


@pytest.mark.parametrize(
    ("name", "plain"),
    [("cat ", "cat"), ('"cat"', "cat"), ("'cat'", "cat"), ("e\u0301", "\xe9")],
)
def test_what_is_not_seen_of_a_class_is_left_out(name, plain):
    assert class_folders.without_quotes(name) == plain


def test_a_tally_names_the_first_whatever_the_order():
    tally = class_folders.Tally([b"d", b"b", b"e", b"a", b"c"])
    assert str(tally) == "a, b, c, ..."
    assert tally.count == 5
