"""Two files a sample: which belong together, and what becomes of them."""

import hashlib
import json
import os

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from moco_tf import workdirs
from moco_tf.data import image_files, sources, stream, unreadable, views
from tests import properties
from tests.data import pictures


def test_class_folders_give_labels_in_sorted_order(tmp_path):
    pictures.write(
        tmp_path, "dog/2.jpg", "cat/1.jpg", "dog/1.png", "cat/3.JPEG"
    )
    source = sources.open_source(f"folder:{tmp_path}")
    assert pictures.names(source)[:2] == ["cat/1.jpg", "cat/3.JPEG"]
    assert pictures.names(source)[2:] == ["dog/1.png", "dog/2.jpg"]
    assert source.class_names == ["cat", "dog"]
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_class_folders_named_by_number_are_sorted_as_numbers(tmp_path):
    pictures.write(tmp_path, "10/a.jpg", "9/a.jpg")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ["9", "10"]
    assert source.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    "files",
    [
        ["a.jpg", "b.jpg"],
        ["one/a.jpg", "one/b.jpg"],
        ["one/a.jpg", "two/a.jpg", "c.jpg"],
        ["x/one/a.jpg", "x/two/a.jpg"],
    ],
)
def test_other_layouts_are_read_without_labels(tmp_path, files):
    pictures.write(tmp_path, *files)
    source = sources.open_source(f"folder:{tmp_path}")
    assert pictures.names(source) == sorted(files)
    assert source.labels is None
    assert source.class_names is None


def test_hidden_files_and_files_of_no_image_are_left_out(tmp_path):
    pictures.write(tmp_path, "a.jpg", ".b.jpg", ".thumbs/c.jpg")
    (tmp_path / "readme.txt").write_text("text")
    assert pictures.names(sources.open_source(f"folder:{tmp_path}")) == [
        "a.jpg"
    ]


def test_links_are_followed_but_not_in_circles(tmp_path):
    pictures.write(tmp_path / "elsewhere", "far.jpg")
    pictures.write(tmp_path / "root", "near.jpg")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    source = sources.open_source(f"folder:{tmp_path}/root")
    assert pictures.names(source) == ["gone.jpg", "linked/far.jpg", "near.jpg"]
    assert pictures.read(source, 1).shape == (7, 9, 3)
    with pytest.raises(tf.errors.NotFoundError):
        pictures.read(source, 0)


def test_names_that_are_no_text_are_read(tmp_path):
    path = bytes(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(pictures.encode(pictures.scene(), "JPEG"))
    source = sources.open_source(f"folder:{tmp_path}")
    assert pictures.read(source, 0).shape == (7, 9, 3)
    assert source.name(0) == "caf\udce9.jpg"


def test_missing_empty_and_imageless_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must name a folder.*is missing"):
        sources.open_source(f"folder:{tmp_path}/none")
    with pytest.raises(ValueError, match="at least one image.*with 0 files"):
        sources.open_source(f"folder:{tmp_path}")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="at least one image.*with 1 files"):
        sources.open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="a.txt', which is a file"):
        sources.open_source(f"folder:{tmp_path}/a.txt")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    pictures.write(tmp_path, "a.jpg")

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)  # root may read everything
    with pytest.raises(ValueError, match="Permission denied.*grant read"):
        sources.open_source(f"folder:{tmp_path}")


def test_other_formats_are_left_out_and_counted(tmp_path):
    pictures.write(tmp_path, "a.jpg")
    for number in range(6):
        (tmp_path / f"{number}.HEIC").write_bytes(b"x")
    source = sources.open_source(f"folder:{tmp_path}")
    assert pictures.names(source) == ["a.jpg"]
    assert ": 6 .heic\n" in sources.remark_lines(source)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"at least one image.*: 6 \.heic"):
        sources.open_source(f"folder:{tmp_path}")


def test_the_fingerprint_is_of_names_labels_and_sizes(tmp_path):
    pictures.write(tmp_path, "a/1.jpg", "b/2.jpg")

    def fingerprint():
        return sources.open_source(f"folder:{tmp_path}").fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    (tmp_path / "a/1.jpg").write_bytes(b"x")
    second = fingerprint()
    (tmp_path / "b/2.jpg").rename(tmp_path / "b/3.jpg")
    assert len({first, second, fingerprint()}) == 3


def test_the_fingerprint_stays_when_the_folder_moves(tmp_path):
    pictures.write(tmp_path / "one", "a/1.jpg", "b/2.jpg")
    first = sources.open_source(f"folder:{tmp_path}/one").fingerprint()
    (tmp_path / "one").rename(tmp_path / "two")
    second = sources.open_source(f"folder:{tmp_path}/two").fingerprint()
    assert first == second


def test_a_link_to_itself_is_passed_over(tmp_path):
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    with pytest.raises(ValueError, match=r"links in circles: 1 \(a.jpg\)"):
        sources.open_source(f"folder:{tmp_path}")
    pictures.write(tmp_path, "b.jpg")
    source = sources.open_source(f"folder:{tmp_path}")
    assert pictures.names(source) == ["b.jpg"]


@pytest.mark.parametrize(
    ("contents", "words"),
    [(b"PK\x03\x04" + bytes(40), "zip archive"), (b"hello", "plain text")],
)
def test_a_file_in_place_of_a_folder_is_named(tmp_path, contents, words):
    (tmp_path / "x").write_bytes(contents)
    with pytest.raises(ValueError, match=f"which is a file: .*{words}"):
        sources.open_source(f"folder:{tmp_path}/x")


def test_a_pipe_in_place_of_a_folder_or_a_list_is_named(tmp_path):
    os.mkfifo(tmp_path / "p")
    with pytest.raises(ValueError, match="p', which is a pipe"):
        sources.open_source(f"folder:{tmp_path}/p")
    with pytest.raises(ValueError, match="a pipe. Write the lines to a file"):
        sources.open_source(f"list:{tmp_path}/p")


@pytest.mark.parametrize(
    "extra", ["cover.jpg", "cat/x/1.jpg", "cat/@eaDir/1.jpg", "@eaDir/x/1.jpg"]
)
def test_a_stray_changes_neither_order_nor_fingerprint(tmp_path, extra):
    names = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", extra]
    pictures.write(tmp_path, *names)
    source = sources.open_source(f"folder:{tmp_path}")
    assert pictures.names(source) == sorted(names)
    # As of a version that gave such a folder no labels.
    unlabelled = image_files.FileSource(tmp_path, sorted(names))
    assert source.fingerprint() == unlabelled.fingerprint()
    labelled = sources.labelled(source, "bank")
    assert pictures.names(labelled) == sorted(names[:4])
    assert labelled.labels.tolist() == [0, 0, 1, 1]
    assert labelled.fingerprint() != source.fingerprint()
    assert extra in sources.remark_lines(labelled)


def test_where_labels_are_refused_the_remedy_gives_them(tmp_path):
    names = [f"{s}/{c}/1.jpg" for s in ("test", "train") for c in "ab"]
    pictures.write(tmp_path, *names)
    source = sources.open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="The bank has none: its images") as e:
        sources.labelled(source, "bank", "Or train without.")
    message = str(e.value)
    assert message.endswith("Or train without.")
    spec = message.partition(" as ")[2].partition(" (")[0]
    named = sources.labelled(sources.open_source(spec), "bank")
    assert named.labels.tolist() == [0, 1]


def test_a_list_without_classes_says_what_gives_them(tmp_path):
    pictures.write(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "l").write_text("a.jpg\nb.jpg\n")
    with pytest.raises(ValueError, match="Write PATH<TAB>CLASS on every line"):
        sources.labelled(sources.open_source(f"list:{tmp_path}/l"), "bank")
    (tmp_path / "l").write_text("a.jpg\tx\nb.jpg\ty\na.jpg\tz\n")
    source = sources.open_source(f"list:{tmp_path}/l")
    assert sources.labelled(source, "bank") is source
    words = sources.remark_lines(source)
    assert "lines that name an image of an earlier line: 1" in words
    assert "images with more than one class: 1 (a.jpg)" in words


def test_a_source_of_which_no_image_has_a_label_is_refused():
    pixels = np.zeros([2, 4, 4, 3], np.uint8)
    labels = np.array([-1, -1])
    source = sources.ArraySource(pixels, labels, ["a"], "set")
    with pytest.raises(ValueError, match="labels is -1, which stands for none"):
        sources.labelled(source, "bank")


def test_files_are_in_the_order_of_their_bytes(tmp_path):
    names = [b"Z.jpg", b"a.jpg", b"a/b.jpg", b"\xc3\xa9.jpg", b"\xe9.jpg"]
    pictures.write(tmp_path, *map(os.fsdecode, names))
    source = sources.open_source(f"folder:{tmp_path}")
    assert [os.fsencode(name) for name in pictures.names(source)] == names


def test_a_class_whose_name_is_no_text_has_a_fingerprint(tmp_path):
    pictures.write(tmp_path, "\udcff/1.jpg", "b/1.jpg")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ["b", "\udcff"]
    assert len(source.fingerprint()) == 64


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
        ("a.heic\n", "Received 1 of other formats: a.heic"),
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


def _only(function, path):
    """A function that no path but one, and folders, may be given to."""

    def checked(given, **options):
        assert given == path or os.fsencode(given).endswith(b"/")
        return function(given, **options)

    return checked


def test_a_folder_is_listed_once(tmp_path, monkeypatch):
    pictures.write(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    (tmp_path / "l").write_text("a/1.jpg\nb/1.jpg\na/2.jpg\na/1.jpg\n")
    calls = []
    scandir = os.scandir
    monkeypatch.setattr(
        "os.scandir", lambda path: calls.append(path) or scandir(path)
    )
    monkeypatch.setattr("os.stat", _only(os.stat, f"{tmp_path}/l"))
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


NAMES = ("a/2", "a/10", "b/1", "b/3")


def _write(root, size=(12, 10)):
    """Writes two folders of four files; returns the spec and the pairs.

    Returns:
      str, uint8 [4, H, W, 6].
    """
    random = np.random.default_rng(0)
    pairs = []
    for number, name in enumerate(NAMES):
        colour = random.integers(0, 256, [*size, 3]).astype(np.uint8)
        depth = np.full(size, 10 * number, np.uint8)
        for folder, image, form in (
            ("colour", colour, "PNG"),
            ("depth", depth, "PNG"),
        ):
            ending = "png" if folder == "depth" else "PNG"
            path = root / folder / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = pictures.Image.fromarray(image)
            path.write_bytes(pictures.encode(image, form))
        grey = np.repeat(depth[..., np.newaxis], 3, axis=2)
        pairs.append(np.concatenate([colour, grey], axis=2))
    return f"pairs:{root}/colour,{root}/depth", np.stack(pairs)


def _read(source, index):
    return source.image(source.records(tf.constant([index], tf.int64))[0])


def test_a_sample_is_both_files_of_a_name(tmp_path):
    spec, expected = _write(tmp_path)
    source = sources.open_source(spec, 6)
    assert len(source) == 4
    assert source.channels == 6
    assert source.class_names == ["a", "b"]
    names = [source.name(index) for index in range(4)]
    for index, name in enumerate(names):
        number = NAMES.index(name.removesuffix(".PNG"))
        np.testing.assert_array_equal(_read(source, index), expected[number])
        assert source.labels[index] == "ab".index(name[0])


def test_both_files_of_a_view_show_the_same_part(tmp_path):
    spec, _ = _write(tmp_path)
    # The second folder holds the first one's pictures.
    spec = spec.replace("depth", "colour")
    source = sources.open_source(spec, 6)
    batches = stream.Stream(source, views.RECIPES["cmc"], 8, 4)
    batch = next(iter(batches.batches(1, 0, 3)))
    for name in ("query", "key"):
        view = batch[name].numpy()
        assert view.shape == (4, 8, 8, 6)
        np.testing.assert_array_equal(view[..., :3], view[..., 3:])
        assert view.std() > 10


def test_colours_of_a_pair_are_not_distorted(tmp_path):
    source = sources.open_source(_write(tmp_path)[0], 6)
    with pytest.raises(ValueError, match="crop and flip alone.*views=cmc"):
        stream.Stream(source, views.RECIPES["v2"], 8, 4)
    with pytest.raises(ValueError, match="augment_on=host"):
        stream.Stream(source, views.RECIPES["cmc"], 8, 4, augment_on="device")


def test_files_of_unequal_size_count_as_unreadable(tmp_path):
    spec, _ = _write(tmp_path)
    source = sources.open_source(spec, 6)
    image = pictures.Image.new("L", (9, 9))
    (tmp_path / "depth" / "b" / "3.png").write_bytes(
        pictures.encode(image, "PNG")
    )
    _, reason = unreadable.read(source, 3)
    assert "Both files of a pair must have one size" in reason
    batches = stream.Stream(source, views.RECIPES["cmc"], 8, 4)
    batch = next(iter(batches.batches(1, 0, 3)))
    assert sorted(batch["valid"].numpy()) == [False, True, True, True]
    assert 3 not in batch["index"].numpy()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "depth/b/1.png").unlink(), "1 without: 'b/1'"),
        (
            lambda root: (root / "colour/a/2.jpg").write_bytes(b""),
            "'a/2' twice",
        ),
    ],
)
def test_a_file_without_its_one_pair_is_refused(tmp_path, change, message):
    spec, _ = _write(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        sources.open_source(spec, 6)


@pytest.mark.parametrize("text", ["x", "x,", "x,y,z"])
def test_two_folders_must_be_named(text):
    with pytest.raises(ValueError, match="must name two folders"):
        sources.open_source(f"pairs:{text}", 6)


def test_who_works_on_one_file_refuses_pairs(tmp_path):
    spec, _ = _write(tmp_path)
    with pytest.raises(ValueError, match="3 channels are needed.*of 6"):
        sources.open_source(spec)
    with pytest.raises(ValueError, match="6 channels are needed.*of 3"):
        sources.open_source(f"folder:{tmp_path}/colour", 6)


def test_the_order_and_the_data_are_in_the_fingerprint(tmp_path):
    spec, _ = _write(tmp_path)
    first = sources.open_source(spec, 6).fingerprint()
    swapped = f"pairs:{tmp_path}/depth,{tmp_path}/colour"
    assert sources.open_source(swapped, 6).fingerprint() != first
    (tmp_path / "depth/b/1.png").write_bytes(b"shorter")
    assert sources.open_source(spec, 6).fingerprint() != first


@pytest.mark.parametrize("kind", ["folder", "pairs"])
def test_a_run_that_began_with_fewer_endings_goes_on_with_its_images(
    tmp_path, kind
):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        pictures.write(folder, "a.jpg", "b.png")
    spec = f"folder:{folders[0]}"
    if kind == "pairs":
        spec = f"pairs:{folders[0]},{folders[1]}"
    run = tmp_path / "run"
    run.mkdir()
    first = sources.open_source(spec, None).fingerprint()
    saved = {"data_fingerprint": first, "sources": {}, "config": {}}
    (run / "config.json").write_text(json.dumps(saved))
    # Files that were there all the time, and were not read then.
    for folder in folders:
        for name in ("0.mpo", "c.apng", "d.dib", "e.webp", "f.tif"):
            (folder / name).write_bytes((folder / "a.jpg").read_bytes())
    now = sources.open_source(spec, None)
    assert len(now) == 7
    data = workdirs.restore_source(now, run)
    assert pictures.names(data.source) == ["a.jpg", "b.png"]
    assert (data.fingerprint, data.difference) == (first, None)
    assert len(data.images.names) == 2  # listed from now on
    (folders[0] / "a.jpg").unlink()
    with pytest.raises(ValueError):  # other data
        workdirs.restore_source(sources.open_source(spec, None), run)


def test_a_run_of_today_takes_all_endings(tmp_path):
    pictures.write(tmp_path / "images", "a.jpg", "b.mpo")
    source = sources.open_source(f"folder:{tmp_path / 'images'}")
    data = workdirs.restore_source(source, tmp_path / "run")
    assert pictures.names(data.source) == ["a.jpg", "b.mpo"]
