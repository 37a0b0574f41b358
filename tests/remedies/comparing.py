"""Rows of comparing.py and encoders.py: encoders that are named by words."""

import numpy as np

from moco_tf import comparing, encoders
from tests.evaluation import plain_frozen, planted
from tests.remedies import following

ROWS = following.Rows("comparing.py", "encoders.py")


def behind(text):
    """What a message ends with, without its full stop."""
    return text.split()[-1].rstrip(".")


@ROWS.followed("encoders.py:parse", "Write it without")
def a_setting_that_there_is_not(tmp_path):
    path = planted.save(tmp_path, "bright")
    text = yield lambda: encoders.parse(f"{path}@view=v1")
    yield lambda: encoders.parse(behind(text))


@ROWS.followed("encoders.py:_kind", "An encoder is the workdir")
def an_encoder_that_is_not_there(tmp_path):
    path = tmp_path / "bright.keras"
    yield lambda: encoders.parse(str(path))
    planted.save(tmp_path, "bright")
    yield lambda: encoders.parse(str(path))
    text = ""
    try:
        encoders.parse("untraned")
    except ValueError as error:
        text = str(error)
    yield lambda: encoders.parse(following.suggested(text))


ROWS.within(
    ("encoders.py:_kind", "An encoder is the workdir"),
    ("encoders.py:_kind", "Did you mean"),
    ("encoders.py:_kind", "Give one that exists"),
)


@ROWS.followed("encoders.py:open_encoder", "flags stands behind the name")
def flags_of_one_encoder(tmp_path):
    path = planted.save(tmp_path, "bright")

    def open_named(ending):
        encoders.open_encoder(encoders.parse(f"{path}{ending}"))

    text = yield lambda: open_named("")
    ending = text.partition(str(path))[2]
    assert "@views=v2,image_size=224" in ending
    yield lambda: open_named("@views=v2,image_size=16")


@ROWS.followed("encoders.py:_open_untrained", "Name a configuration")
def untrained_beside_no_run(monkeypatch):
    monkeypatch.setattr(encoders.frozen, "build_encoder", lambda config: None)
    monkeypatch.setattr(encoders.frozen, "freeze", lambda *a: None)
    monkeypatch.setattr(encoders.frozen, "backbone_of", lambda frozen: None)

    def open_named(text):
        encoders.open_encoder(encoders.parse(text))

    text = yield lambda: open_named("untrained")
    yield lambda: open_named(behind(text))


@ROWS.followed("encoders.py:_whole", "Write, for instance")
def a_size_that_is_no_number(tmp_path):
    path = planted.save(tmp_path, "bright")

    def size(text):
        encoders._whole(encoders.parse(f"{path}@{text}"), "image_size")

    text = yield lambda: size("image_size=large")
    yield lambda: size(behind(text))


@ROWS.followed("comparing.py:compare", "Pass --output=DIR")
def a_comparison_without_a_folder(monkeypatch, tmp_path):
    class Opened(Exception):
        pass

    def stop(names):
        raise Opened

    monkeypatch.setattr(comparing, "_open", stop)

    def compare(output):
        try:
            comparing.compare(["pixels", "pixels"], "shapes", output=output)
        except Opened:
            return

    yield lambda: compare("")
    yield lambda: compare(tmp_path)


@ROWS.followed("comparing.py:_open", "Name from two to")
def a_single_encoder():
    yield lambda: comparing._open(["pixels"])
    yield lambda: comparing._open(["pixels", "pixels"])


@ROWS.followed("comparing.py:_open", "Name those of one number")
def encoders_of_other_channels(monkeypatch):
    channels = {"pixels": 3, "untrained": 6}

    def open_encoder(named, config, known):
        frozen = plain_frozen.make_frozen()
        return frozen._replace(channels=channels[named.text])

    monkeypatch.setattr(encoders, "open_encoder", open_encoder)
    yield lambda: comparing._open(["pixels", "untrained"])
    yield lambda: comparing._open(["pixels", "pixels"])


@ROWS.followed("comparing.py:_specs", "--images=SOURCE, such as")
def a_comparison_without_images():
    named, opened = [encoders.parse("pixels")], [plain_frozen.make_frozen()]
    yield lambda: comparing._specs("", "", named, opened)
    yield lambda: comparing._specs("folder:photos", "", named, opened)


@ROWS.followed("comparing.py:_check_same_images", "Remove {output")
def other_readable_images(tmp_path):
    one, other = np.arange(3), np.arange(2)
    check = comparing._check_same_images
    yield lambda: check([(one, one), (one, other)], tmp_path)
    yield lambda: check([(one, one), (one, one)], tmp_path)
