"""Lists of image files, whole and broken."""

import hashlib
import os

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from moco_tf.data import sources
from tests import properties
from tests.data import pictures


def test_a_list_names_files_and_classes(tmp_path):
    pictures.write(tmp_path, "img/a b.jpg", "img/c.png")
    listed = tmp_path / "train.txt"
    listed.write_bytes(
        f"img/a b.jpg\tzebra\r\n{tmp_path}/img/c.png\tape\r\n\r\n".encode()
    )
    source = sources.open_source(f"list:{listed}")
    assert pictures.names(source) == ["img/a b.jpg", f"{tmp_path}/img/c.png"]
    assert source.class_names == ["ape", "zebra"]
    assert source.labels.tolist() == [1, 0]
    assert [pictures.read(source, i).shape for i in range(2)] == [(7, 9, 3)] * 2


def test_a_list_without_classes_has_no_labels(tmp_path):
    pictures.write(tmp_path, "b.jpg", "a.jpg")
    (tmp_path / "l").write_text("b.jpg\na.jpg\nb.jpg")
    source = sources.open_source(f"list:{tmp_path}/l")
    assert pictures.names(source) == ["b.jpg", "a.jpg", "b.jpg"]
    assert source.labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one image"),
        ("\n\n", "at least one image"),
        ("a.jpg\t0\na.jpg\n", "1 tabs in its first line and line 2: 'a.jpg'"),
        ("a.jpg\n\na.jpg\t0\n", "0 tabs in its first line and line 3"),
        ("a.jpg\t0\t1\n", "2 tabs in its first line and line 1"),
        ("a.jpg\t\n", "line 1: 'a.jpg.t'"),
        ("a.jpg\nnone.jpg\n", "line 2: 'none.jpg'. Correct or remove"),
        ("a.jpg 0\n", "line 1: 'a.jpg 0'. Path and class are separated by a"),
        ("a.webp\n", "Received 1 of other formats: a.webp"),
    ],
)
def test_a_list_that_does_not_match_is_refused_by_line(tmp_path, text, message):
    pictures.write(tmp_path, "a.jpg")
    (tmp_path / "l").write_text(text)
    with pytest.raises(ValueError, match=message):
        sources.open_source(f"list:{tmp_path}/l")


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No such file.*folder:PATH"):
        sources.open_source(f"list:{tmp_path}/none.txt")


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("b/1 a/1 c/gone b/gone d/1", "line 3: 'c/gone.jpg'"),
        ("b/1 a/1 b/gone a/gone", "line 3: 'b/gone.jpg'"),
    ],
)
def test_the_first_missing_line_is_named(tmp_path, listed, message):
    pictures.write(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg")
    text = "".join(f"{name}.jpg\n" for name in listed.split())
    (tmp_path / "l").write_text(text)
    with pytest.raises(ValueError, match=message):
        sources.open_source(f"list:{tmp_path}/l")


def test_a_folder_is_listed_once(tmp_path, monkeypatch):
    pictures.write(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    (tmp_path / "l").write_text("a/1.jpg\nb/1.jpg\na/2.jpg\na/1.jpg\n")
    calls = []
    listdir = os.listdir
    monkeypatch.setattr(
        "os.listdir", lambda path: calls.append(path) or listdir(path)
    )
    monkeypatch.setattr("os.path.exists", None)  # would fail if called
    assert len(sources.open_source(f"list:{tmp_path}/l")) == 4
    root = bytes(tmp_path)
    assert calls == [root + b"/a/", root + b"/b/"]


def test_files_of_a_folder_that_cannot_be_listed_are_found(
    tmp_path, monkeypatch
):
    pictures.write(tmp_path, "a/1.jpg")
    (tmp_path / "l").write_text("a/1.jpg\na/2.jpg\n")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match="line 2: 'a/2.jpg'"):
        sources.open_source(f"list:{tmp_path}/l")
    (tmp_path / "l").write_text("a/1.jpg\n")
    assert len(sources.open_source(f"list:{tmp_path}/l")) == 1


def test_the_fingerprint_is_of_what_is_listed(tmp_path):
    for name, contents in [("z.jpg", b"123"), ("caf\u00e9.jpg", b"")]:
        (tmp_path / name).write_bytes(contents)
    (tmp_path / "l").write_bytes(b"z.jpg\tb\xff\ncaf\xc3\xa9.jpg\ta\n")
    digest = hashlib.sha256(b"z.jpg\0caf\xc3\xa9.jpg")
    digest.update(np.array([1, 0], "<i8").tobytes() + b"a\0b\xff" + b"3 0 ")
    source = sources.open_source(f"list:{tmp_path}/l")
    assert source.fingerprint() == digest.hexdigest()


ODD_NAMES = [
    b"a.jpg", b" a b .jpg", b"./a.jpg", b"s//a.jpg", b"s/../a.jpg", b"s/a.jpg",
    "\u4e2d/\U0001f600.PNG".encode(), b"caf\xe9.jpg", b"\xed\xa0\x80.jpg",
    b"x\x0b\x0c\x1c\x85.jpg", "x\x85\u2028.jpg".encode(), b"./\xef\xbb\xbf.jpg",
]  # fmt: skip
CLASSES = [
    b"a", b" ", b"B c", b"2", b"10", b"010", "\u0662".encode(), b"\xff",
    "\u00e9".encode(), "\U0001f600".encode(), b"x\x0by", b"\xef\xbb\xbf",
]  # fmt: skip


@pytest.fixture(name="odd", scope="module")
def fixture_odd(tmp_path_factory):
    root = bytes(tmp_path_factory.mktemp("odd"))
    for name in ODD_NAMES:
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    return root


def read_as_text(path):
    """What a list says, read line by line: names, classes or None."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    rows = [row for row in rows if row != [""]]
    names = [row[0] for row in rows]
    return names, [row[1] for row in rows] if len(rows[0]) == 2 else None


def lines_of(cell):
    """Non-empty lists of lines that hold a cell each, or nothing."""
    line = strategies.tuples(
        strategies.one_of(cell, cell, strategies.just(b"")),
        strategies.sampled_from([b"\n", b"\r\n", b"\r"]),
    )
    lines = strategies.lists(line, min_size=1, max_size=12)
    return lines.filter(lambda lines: any(cell for cell, _ in lines))


NAME = strategies.sampled_from(ODD_NAMES)
LABELLED = strategies.tuples(NAME, strategies.sampled_from(CLASSES))


@hypothesis.settings(properties.few, max_examples=200)
@hypothesis.given(
    lines=lines_of(NAME) | lines_of(LABELLED.map(b"\t".join)),
    mark=strategies.sampled_from([b"", b"\xef\xbb\xbf"]),
    last_end=strategies.booleans(),
)
def test_odd_lists_are_read_as_text_says(odd, lines, mark, last_end):
    text = mark + b"".join(cell + end for cell, end in lines)
    path = os.path.join(odd, b"list.txt")
    with open(path, "wb") as file:
        file.write(text if last_end else text.removesuffix(lines[-1][1]))
    names, classes = read_as_text(path)
    source = sources.open_source(f"list:{os.fsdecode(path)}")
    assert pictures.names(source) == names
    if classes is None:
        assert source.labels is None
        return
    if all(name.isdecimal() for name in classes):
        expected = sorted(set(classes), key=lambda name: (int(name), name))
    else:
        expected = sorted(set(classes))
    assert source.class_names == expected
    assert [source.class_names[n] for n in source.labels] == classes
