"""The command that fills a cache, from its words to its files."""

import contextlib
import io
import os
import pathlib
import resource
import tempfile

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import prepare
from moco_tf.cli import main as cli
from moco_tf.data import prepared_cache, sources, unreadable
from tests.data import prepared_caches
from tests.evaluation import plain_frozen


@pytest.fixture(name="images")
def _images(tmp_path):
    prepared_caches.write_pictures(tmp_path / "images", 10)
    (tmp_path / "images/a/3.png").write_bytes(b"....ftypavif")
    return tmp_path / "images"


def _committed(cache):
    return (prepared_cache.read_about(cache) or {"images": 0})["images"]


def test_the_command_prepares_verifies_and_names_the_source(
    images, tmp_path, capsys
):
    cache = tmp_path / "cache"
    words = ["prepare", f"--source=folder:{images}", f"--path={cache}"]
    assert cli.run([*words, "--short_side=8", "--verify"]) == 0
    out = capsys.readouterr().out
    assert f"10 images of folder:{images}, short side at most 8, raw" in out
    assert "unreadable  1, named in unreadable.csv" in out
    assert f"use it as   prepared:{cache}" in out
    assert "verified    10 images" in out
    log = (cache / "unreadable.csv").read_text().splitlines()
    assert log == [
        "place,name,reason",
        '3,a/3.png,"An image must be a JPEG, PNG, GIF, BMP, WebP or TIFF. '
        'Received an AVIF. Convert it to PNG."',
    ]
    assert len(sources.open_source(f"prepared:{cache}")) == 10


def test_a_finished_cache_is_left_as_it_is(images, tmp_path, monkeypatch):
    about = prepared_caches.make(images, tmp_path / "cache")
    monkeypatch.setattr(prepared_cache, "Writer", None)  # not called
    shown = io.StringIO()
    cache = str(tmp_path / "cache")
    assert prepare.prepare(f"folder:{images}", cache, 256, shown) == about
    assert shown.getvalue() == f"This cache is finished: {cache}\n"


def test_a_flipped_bit_of_an_image_is_found_by_name(images, tmp_path, capsys):
    cache = tmp_path / "cache"
    prepared_caches.make(images, cache)
    rows = prepared_cache.Cache(cache).rows
    for index in (4, 7):
        prepared_caches.flip(cache / "images.bin", rows["offset"][index] + 323)
    assert cli.run(["prepare", "--verify", f"--path={cache}"]) == 1
    message = capsys.readouterr().err
    assert "2 of 10 differ: a/4.png, b/2.png. Prepare it again" in message


def test_a_folder_with_other_files_is_refused_and_untouched(images, capsys):
    words = ["prepare", f"--source=folder:{images}", f"--path={images / 'a'}"]
    before = prepared_caches.contents(images / "a")
    assert cli.run(words) == 1
    assert "A cache needs a folder of its own" in capsys.readouterr().err
    assert prepared_caches.contents(images / "a") == before


@contextlib.contextmanager
def _largest_file(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_keeps_what_is_committed_and_goes_on_later(
    images, tmp_path, monkeypatch
):
    prepared_caches.make(images, tmp_path / "at once")
    monkeypatch.setattr(prepared_cache, "_COMMIT_BYTES", 1)
    cache = tmp_path / "cache"
    # 384 bytes an image: the system takes five of them and a part.
    with (
        _largest_file(2000),
        pytest.raises(OSError, match="takes no more.*6 images are in.*stay"),
    ):
        prepared_caches.make(images, cache)
    assert _committed(cache) == 6  # one of them unreadable
    prepared_caches.make(images, cache)
    expected = prepared_caches.contents(tmp_path / "at once")
    assert prepared_caches.contents(cache) == expected


def test_a_folder_that_cannot_be_written_is_named():
    user = os.geteuid()
    # Not below tmp_path, which other users may not enter.
    with tempfile.TemporaryDirectory() as folder:
        images = pathlib.Path(folder) / "images"
        prepared_caches.write_pictures(images, 2)
        os.chmod(folder, 0o555)
        if user == 0:  # to root nothing is forbidden
            os.seteuid(65534)
        try:
            with pytest.raises(
                OSError, match="written to. .*cache': Permission denied. Give"
            ):
                prepared_caches.make(images, f"{folder}/cache")
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)


def test_a_reader_of_the_progress_that_leaves_is_not_the_folders(
    images, tmp_path
):
    class Left(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    spec = f"folder:{images}"
    with pytest.raises(BrokenPipeError, match=r"\] Broken pipe$"):
        prepare.prepare(spec, tmp_path / "cache", stream=Left())


def test_a_file_in_place_of_the_folder_is_refused(images, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("mine")
    words = ["prepare", f"--source=folder:{images}", f"--path={path}"]
    assert cli.run(words) == 1
    assert "can be written to" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_images_that_cannot_be_read_at_all_make_no_cache(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/x.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 images, none readable.*able.csv"):
        prepared_caches.make(tmp_path / "images", tmp_path / "cache")


@pytest.mark.parametrize("outage", [False, True])
@pytest.mark.parametrize("stopped_at", [None, 3, 4])
def test_an_error_that_is_not_the_images_is_not_kept_at_once(
    monkeypatch, stopped_at, outage
):
    monkeypatch.setattr(prepare, "_PAUSES", (0.0, 0.0))
    tries = []

    class Source:
        labels = None

        def __len__(self):
            return 6

        def records(self, indices):
            return indices

        def image(self, record):
            def fail(index):
                if index == 4 or outage:
                    tries.append(index)
                    raise tf.errors.UnknownError(None, None, "disk is asleep")
                return np.zeros([2, 2, 3], np.uint8)

            image = tf.numpy_function(fail, [record], tf.uint8)
            return tf.ensure_shape(image, [None, None, 3])

        def name(self, index):
            return f"{index}.png"

    read = prepare.reader(Source(), 8, stopped_at=stopped_at)
    if stopped_at == 4 and not outage:
        stored, reason = read(4)
        assert stored is None and "asleep" in reason
    else:
        with pytest.raises(ValueError, match="4.png may .*asleep") as error:
            read(4)
        assert "\n" not in str(error.value)  # nothing of the graph
    assert tries.count(4) >= 3


def test_a_session_that_was_stopped_does_not_count_as_one_that_failed(
    images, tmp_path, monkeypatch
):
    stopped_at, reader = [], prepare.reader

    def fail_once(source, short_side, form, stopped):
        read = reader(source, short_side, form)
        stopped_at.append(stopped)

        def fail(index):
            if index == 2 and len(stopped_at) == 2:
                raise ValueError("c.png may be intact")
            if index == 2 and len(stopped_at) == 1:
                raise KeyboardInterrupt
            return read(index)

        return fail

    monkeypatch.setattr(prepare, "reader", fail_once)
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            prepared_caches.make(images, tmp_path / "cache")
    prepared_caches.make(images, tmp_path / "cache")
    assert stopped_at == [None, None, 2]
    about = prepared_cache.read_about(tmp_path / "cache")
    assert about["finished"] and prepared_cache.FAILED not in about


def test_a_file_that_never_can_be_read_is_left_out_the_second_time(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(prepare, "_PAUSES", ())
    images = tmp_path / "images"
    plain_frozen.write_greys(images, {"a.png": 1, "c.png": 3})
    (images / "b.png").symlink_to("b.png")  # a loop
    names = "".join(f"{images}/{x}.png\n" for x in "abc")
    (tmp_path / "list.txt").write_text(names)
    words = ["prepare", f"--source=list:{tmp_path}/list.txt"]
    words += [f"--path={tmp_path}/cache"]
    assert cli.run(words) == 1
    assert "b.png may be intact" in capsys.readouterr().err
    assert cli.run(words) == 0
    cached = sources.open_source(f"prepared:{tmp_path}/cache")
    readable = [unreadable.read(cached, n)[1] is None for n in range(3)]
    assert readable == [True, False, True]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--path=x"], 2, "--source must be given"),
        (["--source=shapes"], 2, "--path must be given"),
        (["--source=shapes", "--path=x", "--short_side=s"], 2, "whole number"),
        (["--source=shapes", "--path=x", "--short_side=-1"], 1, "at least 1"),
        (["--verify", "--path=/nowhere"], 1, "which has no about.json"),
        (["--source=nothing", "--path=x"], 1, "A source must be"),
    ],
)
def test_a_wrong_command_is_refused(words, status, message, capsys):
    assert cli.run(["prepare", *words]) == status
    assert message in capsys.readouterr().err


def test_an_array_and_a_cache_can_be_prepared_too(tmp_path):
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    source = sources.ArraySource(images, np.array([1, 0]), ["a", "b"], "x")
    stored, reason = prepare.reader(source, 8)(1)
    assert bytes(stored.data) == images[1].tobytes()
    assert (stored.height, stored.width) == (4, 4)
    assert reason is None
