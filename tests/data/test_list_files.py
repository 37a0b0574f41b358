"""Lists as people write them: what is read, and hints that work.

A hint is followed: the line is written as it says, and the list is read.
"""

import codecs
import os
import re
import subprocess
import unicodedata

import pytest

from moco_tf.data import list_files

FILES = ["a.jpg", "img/b c.jpg", "caf\u00e9.jpg", "UPPER.JPG"]


@pytest.fixture(name="root")
def fixture_root(tmp_path):
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def read(root, contents):
    """Writes a list, reads it and checks its files: Rows."""
    path = root / "list.txt"
    if isinstance(contents, str):
        contents = contents.encode()
    path.write_bytes(contents)
    rows = list_files.read(str(path))
    list_files.check_files(str(path), rows)
    return rows


def refusal(root, contents):
    with pytest.raises(ValueError) as error:
        read(root, contents)
    return str(error.value)


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"] + ["utf-16-be"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_in_unicode_are_read(root, encoding, end):
    text = end.join(["a.jpg\tx", "", "caf\u00e9.jpg\ty", ""])
    rows = read(root, text.encode(encoding))
    assert rows.images == [b"a.jpg", "caf\u00e9.jpg".encode()]
    assert rows.classes == [b"x", b"y"]
    assert rows.numbers.tolist() == [1, 3]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_lists_of_powershell_are_read(root, mark):
    encoding = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"
    assert len(read(root, mark + "a.jpg\r\n".encode(encoding)).images) == 1


@pytest.mark.parametrize("separator", [",", ";", "|", " ", "  ", ", ", " ; "])
@pytest.mark.parametrize("quote", ["", '"', "'"])
@pytest.mark.parametrize("name", ["a.jpg", "img/b c.jpg"])
def test_another_separator_has_a_hint_that_works(root, separator, quote, name):
    line = f"{quote}{name}{quote}{separator}{quote}cat{quote}"
    message = refusal(root, f"{line}\n{line}\n")
    assert "line 1: " in message and "separated by a tab" in message
    written = re.search(r"write (.*)<TAB>(.*)\. Correct", message)
    rows = read(root, "\t".join(written.groups()))
    assert rows.images == [name.encode()] and rows.classes == [b"cat"]


def test_a_class_before_its_path_has_a_hint_that_works(root):
    message = refusal(root, "cat,a.jpg\n")
    assert "The path comes first" in message
    assert "write a.jpg<TAB>cat" in message


NAMES = [
    ("img\\b c.jpg", "img/b c.jpg", "folders are separated by /"),
    ("a.jpg ", "a.jpg", "remove the blanks"),
    (" a.jpg", "a.jpg", "remove the blanks"),
    ('"a.jpg"', "a.jpg", "remove the quotes"),
    ("/img/b c.jpg", "img/b c.jpg", "without /"),
    ("img/b%20c.jpg", "img/b c.jpg", "a blank"),
    ("A.jpg", None, ""),
    ("UPPER.jpg", "UPPER.JPG", "another ending"),
    ("a.png", "a.jpg", "another ending"),
    (
        unicodedata.normalize("NFD", "caf\u00e9.jpg"),
        "caf\u00e9.jpg",
        "form NFC",
    ),
]


@pytest.mark.parametrize(("name", "meant", "words"), NAMES)
@pytest.mark.parametrize("label", ["", "\tcat"])
def test_a_name_that_is_nearly_right_has_a_hint_that_works(
    root, name, meant, words, label
):
    message = refusal(root, f"a.jpg{label}\n{name}{label}\n")
    assert "line 2: " in message
    if meant is None:
        assert "There is" not in message
        return
    assert f"There is {meant!r}: " in message and words in message
    assert len(read(root, f"a.jpg{label}\n{meant}{label}\n").images) == 2


def test_paths_of_the_working_folder_have_a_hint(root, monkeypatch):
    monkeypatch.chdir(root)
    (root / "lists").mkdir()
    message = refusal(root / "lists", "a.jpg\n")
    assert f"There is '{root}/a.jpg': paths start from the list's" in message
    assert len(read(root / "lists", f"{root}/a.jpg").images) == 1


def test_a_list_in_latin_1_has_a_hint_that_works(root):
    text = "caf\u00e9.jpg\n".encode("latin-1")
    message = refusal(root, text)
    assert "There is 'caf\u00e9.jpg': the list is written in CP1252" in message
    command = re.search(r"iconv -f \S+ -t UTF-8", message).group().split()
    converted = subprocess.run(
        [*command, str(root / "list.txt")], capture_output=True, check=True
    )
    assert read(root, converted.stdout).images == ["caf\u00e9.jpg".encode()]


def test_a_name_that_is_in_latin_1_on_the_disk_is_read(root):
    name = b"caf\xe9.jpg"
    with open(os.path.join(os.fsencode(root), name), "wb"):
        pass
    assert read(root, name + b"\n").images == [name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("filename,label\na.jpg,cat\n", "has no header: remove line 1."),
        ("path\na.jpg\n", "has no header: remove line 1."),
        ("image_path\tclass\na.jpg\tcat\n", "has no header: remove line 1."),
        ("file\na.jpg\tcat\n", "line 2: 'a.jpg.tcat'. A list has no header"),
        ("# mine\na.jpg\n", "A list has no comments."),
        ("a.jpg\n   \n", "line 2: '   '. The line has nothing but blanks."),
        ("https://x.org/a.jpg\n", "download the file"),
        (f"file://{'{root}'}/a.jpg\n", "a list has paths, not addresses"),
        ("<!DOCTYPE html>\n", "The list is HTML (a web page)"),
        ("version https://git-lfs.github.com/x\n", "Run `git lfs pull`"),
        ("img\n", "line 1: 'img', which is a folder. Correct"),
        ("a.jpg\timg\nimg\tx\n", "line 2: 'img', which is a folder."),
        ("pipe.jpg\n", "line 1: 'pipe.jpg', which is a pipe."),
        ("to_pipe.jpg\n", "line 1: 'to_pipe.jpg', which is a pipe."),
        ("to_folder.jpg\n", "'to_folder.jpg', which is a folder."),
        ("a.jpg\tcat\nUPPER.JPG\n", "line 2: 'UPPER.JPG'. Label all lines"),
        ("a.jpg\tcat\nUPPER.JPG\t\n", "line 2: 'UPPER.JPG.t'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_line(root, text, words):
    os.mkfifo(root / "pipe.jpg")
    (root / "to_pipe.jpg").symlink_to("pipe.jpg")
    (root / "to_folder.jpg").symlink_to("img")
    message = refusal(root, text.replace("{root}", str(root)))
    assert re.search(re.escape(words).replace(r"\.t", ".t"), message), message


def test_a_list_is_read_without_its_header(root):
    text = "image_path\tclass\na.jpg\tcat\n"
    number = re.search(r"remove line (\d+)", refusal(root, text)).group(1)
    lines = text.splitlines()
    del lines[int(number) - 1]
    assert read(root, "\n".join(lines)).classes == [b"cat"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cat", "cat "), ("cat ", "cat"), (" cat", "cat"), ('"cat"', "cat"),
        ("'a b'", "a b"), ("e\u0301", "\u00e9"), ("cat\u00a0", "cat"),
    ],
)  # fmt: skip
def test_classes_that_look_alike_are_refused_with_both_lines(
    root, first, second
):
    message = refusal(root, f"a.jpg\tx\na.jpg\t{first}\n\na.jpg\t{second}\n")
    assert f"{first!r} in line 2 and {second!r} in line 4" in message
    plain = re.search(r"Write '(.*)' in both", message).group(1)
    rows = read(root, f"a.jpg\tx\na.jpg\t{plain}\na.jpg\t{plain}\n")
    assert len(set(rows.classes)) == 2


def test_classes_that_differ_in_case_are_two(root):
    assert read(root, "a.jpg\tcat\na.jpg\tCat\n").classes == [b"cat", b"Cat"]


def test_a_path_below_home_is_read(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root / "img"))
    rows = read(root, "~/b c.jpg\n")
    assert rows.images == [os.fsencode(root / "img/b c.jpg")]
    (root / "~").mkdir()
    (root / "~/b c.jpg").write_bytes(b"x")
    assert read(root, "~/b c.jpg\n").images == [b"~/b c.jpg"]


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(root):
    (root / "gone.jpg").symlink_to("nowhere")
    assert read(root, "gone.jpg\na.jpg\n").images == [b"gone.jpg", b"a.jpg"]


@pytest.mark.parametrize(
    ("contents", "name"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0", "a PNG"),
        (b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(30), "a zip archive"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip data"),
    ],
)
def test_a_file_that_is_no_list_is_named(root, contents, name):
    message = refusal(root, contents)
    assert "UTF-8 or UTF-16" in message and f"which is {name}." in message


@pytest.mark.parametrize("name", ["GIF8.jpg", "P6 1.jpg", "[1].jpg", "ID3.jpg"])
def test_names_that_begin_as_a_format_does_are_read(root, name):
    (root / name).write_bytes(b"x")
    assert read(root, f"{name}\n").images == [name.encode()]
