"""Rows of data/: folders, lists, caches, prepared data sets, the stream."""

import functools
import io
import os
import pathlib
import shutil
import struct
import sys
import types
import zlib
from unittest import mock

import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import file_kinds, plan, prepare
from moco_tf.data import (
    augmentation,
    compiled_views,
    decode,
    prepared_cache,
    shapes,
    sources,
    specs,
    stream,
    unreadable,
    views,
)
from tests.data import prepared_caches
from tests.evaluation import plain_frozen
from tests.remedies import following

ROWS = following.Rows("data/*.py", "file_kinds.py", "prepare.py")

FOLDER = "data/image_files.py:open_folder"
PNG = tf.io.encode_png(np.zeros([8, 8, 3], np.uint8)).numpy()


def write(root, *names, data=PNG):
    """Writes images below a folder; returns its spec."""
    for name in names:
        path = pathlib.Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return f"folder:{root}"


def listed(root, text):
    """Writes a list beside images; returns its spec."""
    path = pathlib.Path(root) / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"list:{path}"


def labels_of(spec):
    """Opens a source for a command that needs labels."""
    return sources.labelled(sources.open_source(spec), "bank")


def remarks_of(spec):
    """What is said about a source, with the remedies."""
    remarks = sources.remarks(sources.open_source(spec))
    return " ".join(map(str, remarks))


def _opened(place, words, before, *changes, opens=sources.open_source):
    """A row of one source: how it is made, and what mends it, each anew."""

    @ROWS.followed(f"data/{place}", words)
    def row(tmp_path):
        yield lambda: opens(before(tmp_path / "0"))
        for number, change in enumerate(changes, 1):
            root = tmp_path / str(number)
            before(root)
            yield lambda taken=(change, root): opens(taken[0](taken[1]))


def _images(*names, **options):
    return lambda root: write(root, *names, **options)


def _moved(*pairs):
    """Renames below the root, and opens it; to "" is away."""

    def change(root):
        for old, new in pairs:
            if not new:
                (root / old).unlink()
                continue
            (root / new).parent.mkdir(parents=True, exist_ok=True)
            (root / old).rename(root / new)
        return f"folder:{root}"

    return change


def _as_list(root):
    """Names the images of a folder in a list, with their classes."""
    names = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    lines = [f"{name}\t{'ab'[n % 2]}\n" for n, name in enumerate(names)]
    return listed(root, "".join(lines))


# Labels.

_opened(
    *("sources.py:labelled", "An evaluation needs labels"),
    _images("1.png", "2.png"),
    _moved(("1.png", "a/1.png"), ("2.png", "b/2.png")),
    _as_list,
    lambda root: "shapes:test",
    opens=labels_of,
)
_opened(
    *("class_folders.py:_refusal", "Move them away or into class folders"),
    _images("a/1.png", "b/1.png", "2.png", "3.png"),
    _moved(("2.png", ""), ("3.png", "")),
    _moved(("2.png", "a/2.png"), ("3.png", "b/3.png")),
    _as_list,
    opens=labels_of,
)
_opened(
    *("class_folders.py:_refusal", "Give the folder whose folders are the"),
    _images("train/a/1.png", "train/b/1.png"),
    lambda root: f"folder:{root / 'train'}",
    _as_list,
    opens=labels_of,
)
_opened(
    *("class_folders.py:_refusal", "Add the folders of the others, "),
    _images("a/1.png", "a/2.png"),
    lambda root: write(root, "b/1.png"),
    _as_list,
    opens=labels_of,
)
_opened(
    *("class_folders.py:_refusal", "Put those of each class into a folder"),
    _images("1.png", "2.png"),
    _moved(("1.png", "a/1.png"), ("2.png", "b/2.png")),
    _as_list,
    opens=labels_of,
)
_opened(
    *("image_files.py:open_list", "Write PATH<TAB>CLASS on every line"),
    lambda root: (write(root, "1.png"), listed(root, "1.png\n"))[1],
    lambda root: listed(root, "1.png\ta\n"),
    opens=labels_of,
)
_opened(
    *("prepared_source.py:PreparedSource.__init__", "Prepare one that has"),
    lambda root: _cache(write(root / "flat", "1.png", "2.png"), root / "c"),
    lambda root: _cache(write(root / "two", "a/1.png", "b/1.png"), root / "d"),
    opens=labels_of,
)


def _cache(spec, folder):
    make_cache(spec.removeprefix("folder:"), folder)
    return f"prepared:{folder}"


# What is said about a folder.

MANY = [f"{kind}/{number}.png" for kind in "ab" for number in range(20)]
_opened(
    *("class_folders.py:Classes.remarks", "Move them into class folders, or"),
    _images(*MANY, "cover.png"),
    _moved(("cover.png", "")),
    _moved(("cover.png", "a/cover.png")),
    opens=remarks_of,
)
_opened(
    *("class_folders.py:Classes.remarks", "Move these folders away if they"),
    _images(*MANY, "@eaDir/1.png"),
    _moved(("@eaDir/1.png", "")),
    opens=remarks_of,
)


def _linked(target, name):
    def make(root):
        spec = write(root, *MANY)
        os.symlink(target, root / name)
        return spec

    return make


_opened(
    *("folder_contents.py:Contents.remarks", "remove the links to have it"),
    _linked("0.png", "a/again.png"),
    _moved(("a/again.png", "")),
    opens=remarks_of,
)
_opened(
    *("folder_contents.py:Contents._other_remark", "write them as PNG"),
    lambda root: (write(root, "a.dng", data=b"II*\0"), write(root, *MANY))[1],
    lambda root: (write(root, "a/a.png"), _moved(("a.dng", ""))(root))[1],
    opens=remarks_of,
)
_opened(
    *("folder_contents.py:Contents._hidden_images", "Rename them to an ending"),
    _images(*MANY, "a/photo.jpg?width=300"),
    _moved(("a/photo.jpg?width=300", "a/photo.png")),
    lambda root: listed(root, "a/photo.jpg?width=300\n"),
    opens=remarks_of,
)
_opened(
    *("folder_contents.py:_odd_remark", "Mend or remove them; those named"),
    _linked("nowhere.png", "a/link.png"),
    _moved(("a/link.png", "")),
    lambda root: write(root, "a/nowhere.png"),
    opens=remarks_of,
)
_opened(
    *("folder_contents.py:_odd_remark", "Remove them: they were not followed"),
    _linked("loop", "a/loop"),
    _moved(("a/loop", "")),
    opens=remarks_of,
)


def _pipe(root):
    spec = write(root, *MANY)
    os.mkfifo(root / "a" / "pipe")
    return spec


_opened(
    *("folder_contents.py:_odd_remark", "Move them away: they were not"),
    _pipe,
    _moved(("a/pipe", "")),
    opens=remarks_of,
)


@ROWS.followed("data/folder_contents.py:_odd_remark", "Grant read and search")
def folder_without_permission(tmp_path, monkeypatch):
    # Of a process that may read anything, as root, the system says nothing.
    spec = write(tmp_path, *MANY, "closed/1.png")
    real = os.scandir

    def scandir(path="."):
        if os.fsencode(path).endswith(b"closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    yield lambda: remarks_of(spec)
    monkeypatch.undo()
    yield lambda: remarks_of(spec)


@ROWS.followed("data/sources.py:remark_lines", "`moco-tf doctor` says what")
def remarks_of_a_run(tmp_path):
    from moco_tf.cli import main

    def lines():
        source = sources.open_source(f"folder:{tmp_path}")
        return sources.remark_lines(source)

    write(tmp_path, *MANY, "cover.png")
    yield lines
    assert "doctor" in main.COMMANDS
    # It shows the remedies, which test_remedies.py follows one by one.
    (tmp_path / "cover.png").unlink()
    yield lines


# Specs and folders.


@ROWS.followed("data/sources.py:open_source", "Did you mean {_quoted(f'folder")
def folder_without_its_kind(tmp_path):
    write(tmp_path, "1.png")
    text = yield lambda: sources.open_source(str(tmp_path))
    yield lambda: sources.open_source(following.suggested(text))


@ROWS.followed("data/sources.py:open_source", "Did you mean {_quoted(meant)}")
def misspelt_kind(tmp_path):
    write(tmp_path, "1.png")
    text = yield lambda: sources.open_source(f"foldr:{tmp_path}")
    yield lambda: sources.open_source(following.suggested(text))


@ROWS.followed("data/sources.py:open_source", "Give, for instance, folder:")
def no_kind_at_all(tmp_path):
    write(tmp_path / "images", "1.png")
    text = yield lambda: sources.open_source("photographs")
    spec = text.rpartition(" ")[2].rstrip(".")
    spec = spec.replace("/data", str(tmp_path))
    yield lambda: sources.open_source(spec)


@ROWS.followed("data/sources.py:open_source", "channels are needed here")
def source_of_other_channels(tmp_path):
    for name in ("left", "right"):
        write(tmp_path / name, "1.png")
    pairs = f"pairs:{tmp_path / 'left'},{tmp_path / 'right'}"
    one = f"folder:{tmp_path / 'left'}"
    text = yield lambda: sources.open_source(pairs, 3)
    assert "folder:DIR" in text
    yield lambda: sources.open_source(one, 3)
    yield lambda: sources.open_source(pairs, 6)


@ROWS.followed("data/specs.py:check_there", "Mount or link it there, or")
def data_that_moved(tmp_path):
    spec = write(tmp_path / "first", "1.png")
    shutil.move(tmp_path / "first", tmp_path / "other")
    yield lambda: specs.check_there(spec, "data.source", "")
    os.symlink(tmp_path / "other", tmp_path / "first")
    yield lambda: specs.check_there(spec, "data.source", "")


_opened(
    *("image_files.py:open_folder", "a list of files is opened with list:"),
    lambda root: f"folder:{write(root, '1.png') and root / 'no'}",
    lambda root: f"folder:{root}",
    lambda root: listed(root, "1.png\n"),
)


@ROWS.followed(FOLDER, "Every folder of the images must exist")
def folder_that_cannot_be_read(tmp_path, monkeypatch):
    spec = write(tmp_path / "closed", "1.png")
    right = write(tmp_path / "open", "1.png")

    def scandir(path="."):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    yield lambda: sources.open_source(spec)
    monkeypatch.undo()
    yield lambda: sources.open_source(spec)
    yield lambda: sources.open_source(right)


_opened(
    *("image_files.py:open_folder", "A folder must contain at least one"),
    lambda root: write(root / "empty", "notes.txt"),
    lambda root: write(root / "images", "1.png"),
)
_opened(
    *("image_files.py:_list_remarks", "remove those that are not meant"),
    lambda root: (write(root, "1.png"), listed(root, "1.png\n" * 2))[1],
    lambda root: listed(root, "1.png\n"),
    opens=remarks_of,
)
_opened(
    *("image_files.py:_list_remarks", "Keep the line of the class"),
    lambda root: (
        write(root, "1.png", "2.png"),
        listed(root, "1.png\ta\n1.png\tb\n2.png\tb\n"),
    )[1],
    lambda root: listed(root, "1.png\ta\n2.png\tb\n"),
    opens=remarks_of,
)
_opened(
    *("image_files.py:open_pairs", "or add the missing files"),
    lambda root: _pair(root, ("1.png", "2.png"), ("1.png",)),
    lambda root: (os.remove(root / "l" / "2.png"), _pair(root))[1],
    lambda root: _pair(root, (), ("2.png",)),
    opens=lambda spec: sources.open_source(spec, 6),
)
_opened(
    *("image_files.py:_index_by_stem", "Move one of them away"),
    lambda root: _pair(root, ("1.png", "1.jpg"), ("1.png",)),
    lambda root: (os.remove(root / "l" / "1.jpg"), _pair(root))[1],
    opens=lambda spec: sources.open_source(spec, 6),
)
_opened(
    *("image_files.py:_refuse_formats", "or remove their lines"),
    lambda root: (
        write(root, "1.png", "2.heic"),
        listed(root, "1.png\n2.heic\n"),
    )[1],
    lambda root: (write(root, "2.png"), listed(root, "1.png\n2.png\n"))[1],
    lambda root: listed(root, "1.png\n"),
)


def _pair(root, left=(), right=()):
    write(root / "l", *left)
    write(root / "r", *right)
    return f"pairs:{root / 'l'},{root / 'r'}"


# Lists.


def _list(words, text, *mended, place="read"):
    """A row of a list whose text is refused, and texts that are taken."""

    def before(root):
        write(root, "1.png", "2.png", "ö.png")
        return listed(root, text)

    changes = [lambda root, t=t: listed(root, t) for t in mended]
    _opened(f"list_files.py:{place}", words, before, *changes)


_list("Write one path a line, or", "", "1.png\n", "1.png\ta\n")
_list("Correct or remove the", "1.png\n3.png\n", "1.png\n2.png\n", "1.png\n",
      place="check_files")  # fmt: skip
_list("Write one path a line", b"\x89PNG\r\n\x1a\n\0\0", "1.png\n",
      place="_refuse_kind")  # fmt: skip
_list("Label all lines or none", "1.png\ta\n2.png\n", "1.png\ta\n2.png\tb\n",
      "1.png\n2.png\n", place="_count_tabs")  # fmt: skip
_list("in both", "1.png\ta\n2.png\ta \n",
      "1.png\ta\n2.png\ta\n", place="_check_classes")  # fmt: skip
_list("A list has no header: remove", "path\tclass\n1.png\ta\n", "1.png\ta\n",
      place="_header_hint")  # fmt: skip
_list("Path and class are separated by a tab", "1.png,a\n", "1.png\ta\n",
      place="_other_separator")  # fmt: skip
_list("The path comes first", "a 1.png\n", "1.png\ta\n",
      place="_other_separator")  # fmt: skip


@ROWS.followed("data/list_files.py:_other_names", "convert the list with iconv")
def list_in_latin_letters(tmp_path):
    write(tmp_path, "ö.png")
    text = yield lambda: sources.open_source(
        listed(tmp_path, "ö.png\n".encode("latin-1"))
    )
    encoding = text.partition("iconv -f ")[2].split()[0]
    converted = b"\xf6.png\n".decode(encoding).encode()  # as iconv does
    yield lambda: sources.open_source(listed(tmp_path, converted))


@ROWS.followed("data/list_files.py:_read_lines", "Write the lines to a file")
def list_of_a_pipe(tmp_path):
    write(tmp_path, "1.png")
    os.mkfifo(tmp_path / "pipe")
    yield lambda: sources.open_source(f"list:{tmp_path / 'pipe'}")
    yield lambda: sources.open_source(listed(tmp_path, "1.png\n"))


@ROWS.followed("data/list_files.py:_read_lines", "a folder of images is opened")
def list_that_is_a_folder(tmp_path):
    spec = write(tmp_path, "1.png")
    yield lambda: sources.open_source(f"list:{tmp_path}")
    yield lambda: sources.open_source(spec)
    yield lambda: sources.open_source(listed(tmp_path, "1.png\n"))


# Caches.


def make_cache(images, folder, **options):
    """Prepares few images, without the graph that takes a second to trace."""

    def reader(source, short_side, form, stopped_at):
        del short_side

        def read(index):
            image, reason = unreadable.read(source, index)
            if reason:
                return None, reason
            encoded = form.encode(image)
            return form.stored(encoded.numpy(), *image.shape[:2]), None

        return read

    with mock.patch.object(prepare, "reader", reader):
        return prepared_caches.make(images, folder, **options)


def made(tmp_path, name="cache", **options):
    """A cache of six images, and its folder."""
    images = tmp_path / "images"
    if not images.exists():
        prepared_caches.write_pictures(images)
    folder = tmp_path / name
    make_cache(images, folder, **options)
    return images, folder


def begun(tmp_path):
    """A cache that was interrupted after some images."""
    images, folder = made(tmp_path)
    about = prepared_cache.read_about(folder)
    about["finished"] = False
    prepared_cache.write_about(folder, about)
    return images, folder


@ROWS.followed("data/prepared_cache.py:Cache.__init__", "Correct the path, or")
def folder_that_is_no_cache(tmp_path):
    _, folder = made(tmp_path)
    other = tmp_path / "other"
    text = yield lambda: sources.open_source(f"prepared:{other}")
    yield lambda: sources.open_source(f"prepared:{folder}")
    from moco_tf.cli import flags, main

    words = text.rpartition("moco-tf ")[2].split()
    _, options, _ = flags.parse(words, main.COMMANDS)
    make_cache(tmp_path / "images", options.path)
    yield lambda: sources.open_source(f"prepared:{other}")


@ROWS.followed("data/prepared_cache.py:Cache.__init__", "Start its command")
def cache_that_is_begun(tmp_path):
    images, folder = begun(tmp_path)
    yield lambda: sources.open_source(f"prepared:{folder}")
    make_cache(images, folder)
    yield lambda: sources.open_source(f"prepared:{folder}")


@ROWS.followed("data/prepared_cache.py:Writer._lock", "Wait for it, or give")
def cache_that_another_writes(tmp_path):
    images, folder = begun(tmp_path)
    settings = prepared_cache.read_about(folder)
    writer = prepared_cache.Writer(folder, settings)
    yield lambda: make_cache(images, folder)
    yield lambda: make_cache(images, tmp_path / "other")
    writer.close()  # it has ended
    yield lambda: make_cache(images, folder)


@ROWS.followed("data/prepared_cache.py:Writer._resume", "is shorter than")
def cache_that_lost_its_end(tmp_path):
    images, folder = begun(tmp_path)
    os.truncate(folder / prepared_cache.IMAGES, 10)
    yield lambda: make_cache(images, folder)
    yield lambda: make_cache(images, tmp_path / "other")


@ROWS.followed("data/prepared_cache.py:_not_its_own", "a folder of its own")
def folder_of_something_else(tmp_path):
    images, _ = made(tmp_path)
    write(tmp_path / "mine", "1.png")
    yield lambda: make_cache(images, tmp_path / "mine")
    yield lambda: make_cache(images, tmp_path / "new")


@ROWS.followed("data/prepared_cache.py:check_folder", "goes on only with the")
def cache_of_other_settings(tmp_path):
    images, folder = begun(tmp_path)
    make = functools.partial(make_cache, images, short_side=4)
    yield lambda: make(folder)
    yield lambda: make(tmp_path / "other")
    shutil.rmtree(folder)
    yield lambda: make(folder)


@ROWS.followed("data/prepared_cache.py:read_about", "Prepare it with this")
def cache_of_another_format(tmp_path):
    images, folder = made(tmp_path)
    about = prepared_cache.read_about(folder)
    prepared_cache.write_about(folder, about | {"format": 99})
    yield lambda: sources.open_source(f"prepared:{folder}")
    other = tmp_path / "other"
    make_cache(images, other)
    yield lambda: sources.open_source(f"prepared:{other}")


@ROWS.followed("data/prepared_cache.py:", "Prepare it again with another")
def damaged_cache(tmp_path):
    images, folder = made(tmp_path)
    os.remove(folder / prepared_cache.IMAGES)
    yield lambda: sources.open_source(f"prepared:{folder}")
    other = tmp_path / "other"
    make_cache(images, other)
    yield lambda: sources.open_source(f"prepared:{other}")


@ROWS.followed("data/stored_images.py:", "Prepare them again with another")
def damaged_jpeg_of_a_cache(tmp_path):
    images, folder = made(tmp_path, stored_as="jpeg")
    prepared_caches.flip(folder / prepared_cache.IMAGES, 100)

    def read(folder):
        source = sources.open_source(f"prepared:{folder}")
        for index in range(len(source)):
            _, reason = unreadable.read(source, index)
            if reason:
                raise ValueError(reason)

    yield lambda: read(folder)
    make_cache(images, tmp_path / "other", stored_as="jpeg")
    yield lambda: read(tmp_path / "other")


def in_shards(tmp_path, name, shards=2):
    """A cache in shards, and the function that makes one of them again."""

    def make(shard, **options):
        options |= {"shard": shard, "shards": shards}
        return made(tmp_path, name, **options)

    for shard in range(shards):
        _, folder = make(shard)
    return folder, make


@ROWS.followed("data/prepared_cache.py:open_caches", "Prepare or copy what is")
def cache_without_a_shard(tmp_path):
    folder, make = in_shards(tmp_path, "cache")
    shutil.rmtree(folder / "shard-0-of-2")
    (folder / "shard-0-of-3").mkdir()
    yield lambda: sources.open_source(f"prepared:{folder}")
    (folder / "shard-0-of-3").rename(tmp_path / "shard-0-of-3")
    make(0)
    yield lambda: sources.open_source(f"prepared:{folder}")


@ROWS.followed("data/prepared_cache.py:_check_same", "Prepare all shards in")
def shards_of_two_caches(tmp_path):
    folder, make = in_shards(tmp_path, "cache")
    shutil.rmtree(folder / "shard-1-of-2")
    yield lambda: make(1, short_side=4)
    other, _ = in_shards(tmp_path, "other")
    yield lambda: sources.open_source(f"prepared:{other}")


@ROWS.followed("prepare.py:_part", "Give --shards from 1 to the number")
def shard_that_there_is_not(tmp_path):
    yield lambda: made(tmp_path, shard=2, shards=2)
    yield lambda: made(tmp_path, shard=1, shards=2)


@ROWS.followed("prepare.py:_fill", "Mend them, then prepare them with")
def cache_of_broken_images(tmp_path):
    broken = {"a/1.png": None, "b/1.png": None}
    images, folder = tmp_path / "images", tmp_path / "cache"
    plain_frozen.write_greys(images, broken)
    yield lambda: make_cache(images, folder)
    plain_frozen.write_greys(images, dict.fromkeys(broken, 9))
    yield lambda: make_cache(images, tmp_path / "other")


@ROWS.followed("data/unreadable.py:none_error", "Mend them, or give another")
def evaluation_of_broken_images(tmp_path):
    from moco_tf.evaluation import features

    encoder = plain_frozen.make_frozen()
    images = tmp_path / "images"

    def extract(spec):
        source = sources.open_source(spec)
        features.extract_to_disk(encoder, source, tmp_path / "features")

    spec = plain_frozen.write_greys(images, {"1.png": None})
    other = plain_frozen.write_greys(tmp_path / "other", {"1.png": 9})
    yield lambda: extract(spec)
    yield lambda: extract(other)
    plain_frozen.write_greys(images, {"1.png": 9})
    yield lambda: extract(spec)


@ROWS.followed("prepare.py:verify", "Prepare it again with another --path")
def cache_of_flipped_bits(tmp_path):
    images, folder = made(tmp_path)
    prepared_caches.flip(folder / prepared_cache.IMAGES, 100)
    quiet = io.StringIO()
    yield lambda: prepare.verify(folder, quiet)
    make_cache(images, tmp_path / "other")
    yield lambda: prepare.verify(tmp_path / "other", quiet)


@ROWS.followed("prepare.py:_with_remedy", "Give another --path, or grant the")
def cache_that_cannot_be_written(tmp_path):
    images, _ = made(tmp_path)
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" / "cache"
    yield lambda: make_cache(images, blocked)
    yield lambda: make_cache(images, tmp_path / "other")
    (tmp_path / "file").unlink()
    yield lambda: make_cache(images, blocked)


@ROWS.followed("prepare.py:_with_remedy", "Make room and start the same")
def cache_on_a_full_disk(tmp_path, monkeypatch):
    prepared_caches.write_pictures(tmp_path / "images")
    make = functools.partial(
        make_cache, tmp_path / "images", tmp_path / "cache"
    )
    append, count = prepared_cache.Writer.append, iter(range(99))

    def full(writer, *image):
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        append(writer, *image)

    monkeypatch.setattr(prepared_cache.Writer, "append", full)
    yield make
    monkeypatch.undo()
    yield make


@ROWS.followed("prepare.py:reader.read", "Start the same command again")
def image_that_could_not_be_read_this_once(tmp_path, monkeypatch):
    prepared_caches.write_pictures(tmp_path / "images")
    make = functools.partial(
        prepared_caches.make, tmp_path / "images", tmp_path / "cache"
    )

    def busy(*_):
        raise tf.errors.UnavailableError(None, None, "the disk is busy")

    monkeypatch.setattr(unreadable, "image_at", busy)
    yield make
    monkeypatch.undo()
    yield make


# Streams and views.


def small_stream(count=8, batch=4, recipe="v2", channels=3, **options):
    pixels = np.zeros([count, 8, 8, channels], np.uint8)
    source = sources.ArraySource(pixels, None, None, "set")
    return stream.Stream(
        source, views.RECIPES[recipe], 8, batch, seed=0, **options
    )


@ROWS.followed("data/stream.py:Stream.__init__", "Use a smaller config.train")
def batch_of_more_than_the_images():
    from moco_tf.doctor import recipe

    yield lambda: small_stream(100, 512)
    yield lambda: small_stream(512, 512)
    config = configs.load("moco_cifar10", {"data.source": "shapes:train"})
    (row,) = recipe.training_rows(config, 100)
    batch = row.overrides["train.batch_size"]
    yield lambda: small_stream(100, batch)


def stage(*parts, on="host", channels=3):
    parts = tuple(augmentation.in_parts(part) for part in parts)
    names = ("query", "key")
    return augmentation.ViewStage(parts, 8, names, on, None, channels).check()


def by_hand(image, size, seed):
    """A view that is a function, no Augmentation."""
    del size, seed
    return image


V2 = views.RECIPES["v2"].augment


@ROWS.followed("data/augmentation.py:ViewStage.check", "Replace augment_key")
def views_of_two_kinds():
    yield lambda: stage(by_hand, V2)
    yield lambda: stage(by_hand, by_hand)
    yield lambda: stage(V2, V2)  # without an augment_key of its own


@ROWS.followed("data/augmentation.py:ViewStage.check", "whose parts are known")
def views_that_a_device_cannot_make():
    yield lambda: stage(by_hand, by_hand, on="device")
    yield lambda: stage(by_hand, by_hand, on="host")


@ROWS.followed("data/compiled_views.py:require", "so Numba must be installed")
def views_without_numba(monkeypatch):
    compiled_views.why_not.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    yield lambda: stage(V2, V2)
    monkeypatch.undo()
    compiled_views.why_not.cache_clear()
    yield lambda: stage(V2, V2)  # installed
    monkeypatch.setattr(compiled_views, "why_not", lambda: "no")
    graph = configs.load("quickstart", {"data.augment_on": "graph"})
    yield lambda: stage(V2, V2, on=graph.data.augment_on)


@ROWS.followed("data/augmentation.py:ViewStage.check", "Images of two files")
def views_of_two_files():
    cmc = views.RECIPES["cmc"].augment
    yield lambda: stage(V2, V2, channels=6)
    yield lambda: stage(cmc, cmc, channels=6)
    fields = {"data.views": "cmc", "data.augment_on": "host"}
    fields |= {"data.source": "pairs:a,b", "model.input": "pair"}
    yield lambda: plan.check(configs.load("cmc_imagenet", fields), 1)


@ROWS.followed("data/shapes.py:load", "Use shapes:train or shapes:test")
def split_of_shapes():
    yield lambda: sources.open_source("shapes:val")
    yield lambda: shapes.load("test")


@ROWS.followed("data/unreadable.py:UnreadableLog.check", "Mend them (of a")
def too_many_unreadable_images(tmp_path):
    spec = plain_frozen.write_greys(
        tmp_path / "images", {f"{n}.png": None for n in range(20)}
    )
    source = sources.open_source(spec)

    def check(fraction, bad=20, session=None):
        batches = types.SimpleNamespace(source=source)
        log = unreadable.UnreadableLog(tmp_path / "log", batches, fraction)
        log.check(bad, 100, session)

    text = yield lambda: check(0.01)
    (remedy,) = following.advised(text)
    fraction = float(remedy["data.max_corrupt_fraction"])
    yield lambda: check(fraction)
    yield lambda: check(0.01, session=(0, 50))  # mended, or removed
    fields = {"data.source": "x", "data.max_corrupt_fraction": str(fraction)}
    yield lambda: plan.check(configs.load("moco_cifar10", fields), 1)


@ROWS.followed("data/listing.py:read", "Put a copy of it back; or")
def listing_that_is_damaged(tmp_path):
    from moco_tf.data import listing

    spec = write(tmp_path / "images", "1.png")
    images = sources.open_source(spec).listing()
    path = tmp_path / "source.npz"
    listing.write(path, images)
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    yield lambda: listing.read(path)
    path.write_bytes(whole)  # the copy
    yield lambda: listing.read(path)
    path.unlink()  # and a start with those images writes it
    listing.write(path, images)
    yield lambda: listing.read(path)


# Data sets of TFDS.


@functools.cache
def tiny():
    """The folder of a small prepared data set, and what is written there."""
    import atexit
    import tempfile

    from tests.data import tfds_sets

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    tfds_sets.prepare(folder.name, "tfrecord")
    return pathlib.Path(folder.name)


def _tfds(words, spec, *mended, place="open_tfds"):
    @ROWS.followed(f"data/tfds_records.py:{place}", words)
    def row():
        yield lambda: sources.open_source(spec.format(tiny()))
        for other in mended:
            yield lambda taken=other: sources.open_source(taken.format(tiny()))


_tfds("Add the split, for instance", "tfds:tiny", "tfds:tiny/train@{}")
_tfds(
    *("Give the folder of the data", "tfds:tiny/none/train@{}/x"),
    *("tfds:tiny/train@{}", "tfds:{}/tiny/1.2.0/train"),
    place="_prepared_folder",
)
_tfds("Correct the split", "tfds:tiny/val@{}", "tfds:tiny/test@{}",
      place="_extents")  # fmt: skip
_tfds("Widen the split", "tfds:tiny/train[:0]@{}", "tfds:tiny/train[:2]@{}",
      place="_extents")  # fmt: skip


@ROWS.followed("data/tfds_records.py:_damaged", "Copy or prepare the data set")
def damaged_records(tmp_path):
    folder = shutil.copytree(tiny(), tmp_path / "sets")
    path = sorted((folder / "tiny" / "1.2.0").glob("*train*"))[1]
    intact = path.read_bytes()
    path.write_bytes(intact[:-1])
    spec = f"tfds:tiny/train@{folder}"
    yield lambda: sources.open_source(spec)
    path.write_bytes(intact)  # copied again
    yield lambda: sources.open_source(spec)


@ROWS.followed(
    "data/tfds_records.py:_refuse_foreign_features", "give folder:DIR"
)
def features_of_another_package(tmp_path):
    folder = shutil.copytree(tiny(), tmp_path / "sets")
    (path,) = folder.glob("tiny/*/features.json")
    text = path.read_text()
    old = "tensorflow_datasets.core.features.image_feature.Image"
    assert old in text
    path.write_text(text.replace(old, "elsewhere.Image"))
    yield lambda: sources.open_source(f"tfds:tiny/train@{folder}")
    image = tmp_path / "classes" / "a" / "1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(tf.io.encode_png(np.zeros([9, 9, 3], np.uint8)).numpy())
    yield lambda: sources.open_source(f"folder:{image.parent.parent}")
    path.write_text(text)  # built with features of TFDS
    yield lambda: sources.open_source(f"tfds:tiny/train@{folder}")


@ROWS.followed("data/tfds_records.py:_foreign_names", "Bring back a copy")
def features_that_are_cut(tmp_path):
    folder = shutil.copytree(tiny(), tmp_path / "sets")
    (path,) = folder.glob("tiny/*/features.json")
    text = path.read_text()
    path.write_text(text[:-9])
    yield lambda: sources.open_source(f"tfds:tiny/train@{folder}")
    path.write_text(text)
    yield lambda: sources.open_source(f"tfds:tiny/train@{folder}")


@ROWS.followed(
    "data/tfds_records.py:TfdsSource._refuse_damaged", "Copy or prepare"
)
def damaged_labels(monkeypatch):
    spec = f"tfds:tiny/train@{tiny()}"

    def labels(damage):
        source = sources.open_source(spec)
        read = type(source._files)._read_one
        with monkeypatch.context() as patch:
            if damage:
                patch.setattr(
                    type(source._files),
                    "_read_one",
                    lambda f, index: b"" if index == 9 else read(f, index),
                )
            return source.labels

    yield lambda: labels(True)
    yield lambda: labels(False)


@ROWS.followed(
    "data/tfds_records.py:TfdsSource.__init__", "--file_format=tfrecord"
)
def records_of_another_format(monkeypatch):
    from moco_tf.data import tfds_records

    spec = f"tfds:tiny/train@{tiny()}"
    monkeypatch.setattr(tfds_records, "_READERS", {})
    yield lambda: sources.open_source(spec)
    monkeypatch.undo()
    yield lambda: sources.open_source(spec)  # prepared as tfrecord


@ROWS.followed("data/tfds_records.py:_image_key", "Choose another data set")
def data_set_without_an_image():
    import tensorflow_datasets as tfds

    from moco_tf.data import tfds_records

    image, text = tfds.features.Image(), tfds.features.Text()
    yield lambda: tfds_records._image_key({"text": text})
    yield lambda: tfds_records._image_key({"text": text, "photo": image})


# What a file is in place of an image.


def _kind(words, *kinds):
    """A row of a sentence: each kind that has it, and an image in its place."""

    @ROWS.followed("file_kinds.py:", words)
    def row():
        for kind in kinds:
            assert words in kind.remedy, kind
        yield lambda: kinds[0].remedy
        # What is converted, taken out or downloaded is an image then.
        yield lambda: file_kinds.kind_of(PNG).name


def by_name(name):
    """The kind with a name, of the table of first bytes."""
    return next(row[0] for row in file_kinds.SIGNATURES if name in row[0].name)


_kind("Copy or download it anew.", file_kinds.EMPTY, file_kinds.ZEROS)
_kind("Convert it to PNG.", file_kinds.UNKNOWN, by_name("JPEG-LS"))
_kind("Take frames out of it as", file_kinds.ISO, by_name("AVI"))
_kind("Take the pictures out of", file_kinds.OFFICE, by_name("PDF"))
_kind("Move it away.", file_kinds.TORCH, by_name("WAV"))
_kind("Unpack it and give what", file_kinds.ZIP, file_kinds.GZIP)
_kind("Write the images that it", file_kinds.NPY, file_kinds.HDF5)
_kind("Run `git lfs pull` in", file_kinds.LFS)
_kind("Run `git annex get` in", file_kinds.ANNEX)
_kind("Open it in a browser, then", file_kinds.HTML)
_kind("Read it: if it is the error of a download, download", file_kinds.JSON)
_kind("Draw it as PNG.", file_kinds.SVG)
_kind("put the file in its place", file_kinds.TEXT)
_kind("Write its pixels to PNG.", by_name("DICOM"))


def _decoded(place, words, contents):
    @ROWS.followed(f"data/{place}", words)
    def row():
        yield lambda: decode.decode(contents)
        yield lambda: decode.decode(PNG)


# A BMP of run lengths, and a page, which are PNG afterwards.
RUN_LENGTHS = struct.pack(
    "<2sIHHIIiiHHIIiiII", b"BM", 1082, 0, 0, 1078,
    *(40, 8, 8, 1, 8, 1, 4, 0, 0, 256, 0),
) + bytes(1028)  # fmt: skip
_decoded("decode.py:_decode_bmp", "Convert it to PNG", RUN_LENGTHS)
_decoded("file_bytes.py:", "Convert it to PNG if it is a", b"<!DOCTYPE html>")


def chunk(kind, data):
    """The bytes of a chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


TEXTS = PNG[:33] + chunk(b"tEXt", b"a\0b") * 5000 + PNG[33:]
_decoded("decode.py:_decode_png", "Save it again.", TEXTS)
APPLE = PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:]
_decoded("decode.py:", "pngcrush -revert-iphone", APPLE)
JPEG = tf.io.encode_jpeg(np.zeros([8, 8, 3], np.uint8)).numpy()
SEGMENT = b"\xff\xe1" + struct.pack(">H", 4) + b"ab"
SEGMENTS = JPEG[:2] + SEGMENT * 2000 + JPEG[2:]
_decoded("decode.py:_decode_jpeg", "segments before its pixels", SEGMENTS)

ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("data/augmentation.py:ViewStage.check", "augment_on must be one of"),
    ("data/specs.py:split_pair", "must name two folders"),
    ("data/stream.py:Stream.distribute", "number of replicas must"),
    ("prepare.py:prepare", "short_side must be"),
)
ROWS.states(
    following.PART_OF_ANOTHER,
    ("data/listing.py:_unpack", "its names are not as long"),
    ("data/prepared_cache.py:read_about", "is of no prepared cache"),
    ("data/sources.py:open_source", "A source must be folder:PATH"),
)
ROWS.states(
    following.OF_A_CALLER,
    ("data/views.py:Recipe.small", "Small views need a recipe"),
    ("file_kinds.py:ends_of_file", "Files alone can be looked at"),
)
