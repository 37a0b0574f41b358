"""Rows of doctor/ and benchmark.py: findings, and what they suggest."""

import functools
import itertools
import pathlib
import re
import tempfile
import types
from unittest import mock

import numpy as np
import tensorflow as tf

from moco_tf import benchmark, cores, input_cost, plan
from moco_tf import config as configs
from moco_tf.cluster import membership
from moco_tf.data import sources
from moco_tf.doctor import (
    auto,
    devices,
    examination,
    exchange,
    images,
    recipe,
    reference,
    resources,
    rules,
    scan,
    table,
)
from moco_tf.models import encoder as encoders
from moco_tf.training import distribution
from tests.doctor import photographs, small_backbone
from tests.remedies import following

ROWS = following.Rows("doctor/*.py", "benchmark.py", "input_cost.py")

GB = 10**9


def config_of(preset="moco_v2_imagenet", fields=(), **more):
    """A configuration; fields with __ for the dot, or a dict of them."""
    values = {key.replace("__", "."): more[key] for key in more}
    texts = {k: str(v) for k, v in (dict(fields) | values).items()}
    return configs.load(preset, {"data.source": "shapes:train"} | texts)


def advice(rows, check):
    """The remedy of a check, or "" where all is well."""
    return next((row.remedy for row in rows if row.check == check), "")


def changes(rows, check):
    """The fields that a check suggests."""
    return next((row.overrides for row in rows if row.check == check), {})


def training(count, preset="moco_v2_imagenet", fields=(), replicas=1, **more):
    """The rows about a recipe over so many images."""
    config = config_of(preset, fields, **more)
    return recipe.training_rows(config, count, None, replicas)


def sizes(side, width=0, preset="moco_v2_imagenet", **more):
    """The rows about views of images of one size."""
    columns = {
        "height": np.full(3, side, np.int32),
        "width": np.full(3, width or side, np.int32),
        "pixel_hash": np.zeros(3),
    }
    config = config_of(preset, **more)
    return recipe.size_rows(config, scan.Scan(columns, {}, {}))


# The recipe.


@ROWS.followed("doctor/recipe.py:size_row", "Resize the files once, to a")
def large_images():
    text = yield lambda: advice(sizes(3000, 4000), "image size")
    side = int(text.rpartition("about ")[2].split()[0])
    yield lambda: advice(sizes(side, side * 4 // 3), "image size")


@ROWS.followed("doctor/recipe.py:size_row", "Views are enlarged: smaller")
def small_images():
    yield lambda: advice(sizes(100), "image size")
    fields = changes(sizes(100), "image size")
    yield lambda: advice(sizes(100, fields=fields), "image size")


@ROWS.followed("doctor/recipe.py:_small_data", "use a smaller batch or more")
def batch_of_more_than_all():
    yield lambda: advice(training(200), "batch")
    fields = changes(training(200), "batch")
    yield lambda: advice(training(200, fields=fields), "batch")
    yield lambda: advice(training(256), "batch")


@ROWS.followed("doctor/recipe.py:_queue", "A queue of more than a tenth")
def long_queue():
    def ask(count, **more):
        return advice(training(count, **more), "queue")

    yield lambda: ask(50_000)
    fields = changes(training(50_000), "queue")
    yield lambda: ask(50_000, fields=fields)


@ROWS.followed("doctor/recipe.py:_queue", "Leave these out (mask_same")
def queue_of_a_batch():
    def rows(fields):
        return training(1000, fields={"moco.queue_size": 256} | fields)

    yield lambda: advice(rows({}), "queue")
    assert changes(rows({}), "queue") == {"moco.mask_same_image": True}
    yield lambda: advice(rows(changes(rows({}), "queue")), "queue")
    batch = {"train.batch_size": 64, "optimizer.learning_rate": 0.0075}
    queue = changes(rows(batch), "queue")
    assert queue == {"moco.queue_size": 64}
    yield lambda: advice(rows(batch | queue), "queue")


@ROWS.followed("doctor/recipe.py:_queue", "Lower the batch, then the queue")
def queue_of_all_images():
    def rows(count, fields):
        fields = {"train.batch_size": 128, "moco.queue_size": 256} | fields
        return training(count, "quickstart", fields)

    # A step's keys, of both views, are more than there are images.
    yield lambda: advice(rows(200, {}), "queue")
    fields = {"train.batch_size": 32, "moco.queue_size": 64}
    masked = fields | {"moco.mask_same_image": True}
    yield lambda: advice(rows(200, masked), "queue")


@ROWS.followed("doctor/recipe.py:_rate", "Scale the rate with the batch")
def rate_of_another_batch():
    def ask(**more):
        return advice(training(10**6, **more), "learning rate")

    batch = {"train.batch_size": 1024}
    yield lambda: ask(fields=batch)
    fields = changes(training(10**6, fields=batch), "learning rate")
    yield lambda: ask(fields=batch | fields)


@ROWS.followed("doctor/rules.py:remarks", "Use fewer devices")
def devices_for_few_images():
    def crowd(replicas):
        facts = rules.Facts(60, replicas=replicas, here=replicas)
        given = {"data.source": "shapes:train"}
        chosen = rules.choose(facts, given, lambda config: 0)
        return "".join(x for x in chosen.remarks if "replicas" in x)

    text = yield lambda: crowd(8)
    most = int(text.rpartition("devices, ")[2].split()[0])
    yield lambda: crowd(most)


@ROWS.followed("doctor/rules.py:remarks", "start from weights that were")
def few_images():
    def few(**more):
        given = {"data.source": "shapes:train"} | more
        facts = rules.Facts(60)
        chosen = rules.choose(facts, given, lambda config: 0)
        return "".join(x for x in chosen.remarks if "too few" in x)

    text = yield few
    field, path = re.search(r"--config.([\w.]+)=(\w+)", text).groups()
    yield lambda: few(**{field: path})


@ROWS.followed("doctor/auto.py:Choice.keep", "Pass --workdir=DIR to have it")
def choice_without_a_workdir(tmp_path, capsys, monkeypatch):
    photographs.write(tmp_path / "images", 60)
    given = {"data.source": f"folder:{tmp_path / 'images'}"}
    monkeypatch.setattr(encoders, "build_backbone", small_backbone.build)
    choice = auto.Choice(given, tf.distribute.get_strategy(), 100 * GB)

    def keep(workdir):
        choice.keep(workdir)
        said = capsys.readouterr().out
        return said if "Pass --workdir" in said else ""

    yield lambda: keep("")
    yield lambda: keep(str(tmp_path / "DIR"))
    yield lambda: configs.load(tmp_path / "DIR" / "preset.py")


@ROWS.followed("doctor/recipe.py:_groups", "use two groups or more")
def single_group():
    def ask(**more):
        return advice(training(10**6, **more), "batch norm")

    yield lambda: ask(model__bn_groups=1)
    fields = changes(training(10**6, model__bn_groups=1), "batch norm")
    yield lambda: ask(fields=fields)


@ROWS.followed("doctor/recipe.py:_groups", "a larger batch.")
def small_groups():
    def ask(batch, **more):
        more["train__batch_size"] = batch
        return advice(training(10**6, **more), "batch norm")

    yield lambda: ask(32)  # in eight groups
    fields = changes(training(10**6, train__batch_size=32), "batch norm")
    yield lambda: ask(32, fields=fields)
    yield lambda: ask(64)


@ROWS.followed("doctor/recipe.py:_length", "With momentum 1")
def momentum_of_one():
    def rows(momentum):
        return training(10**6, moco__momentum=momentum)

    text = yield lambda: advice(rows(1.0), "length")
    advised = float(text.rpartition("use ")[2].rstrip("."))
    yield lambda: advice(rows(advised), "length")


@ROWS.followed("doctor/recipe.py:_length", "train longer, or lower")
def momentum_of_a_longer_run():
    def rows(**more):
        return training(25_600, **{"train__epochs": 10} | more)

    yield lambda: advice(rows(), "length")
    yield lambda: advice(rows(fields=changes(rows(), "length")), "length")
    yield lambda: advice(rows(train__epochs=100), "length")


@ROWS.followed("doctor/recipe.py:knn_row", "Name labelled images in")
def no_knn(tmp_path):
    for name in "ab":
        photographs.write(tmp_path / "bank" / name, 2)
        photographs.write(tmp_path / "query" / name, 2, first=2)
    yield lambda: recipe.knn_row(config_of())
    fields = {f"knn.{x}": f"folder:{tmp_path / x}" for x in ("bank", "query")}
    yield lambda: recipe.knn_row(config_of(fields=fields | {"knn.k": 2}))


@ROWS.followed("doctor/recipe.py:votes_row", "Let fewer vote (knn.k)")
def more_neighbours_than_images():
    def row(k, bank):
        return recipe.votes_row(config_of(fields={"knn.k": k}), bank)

    yield lambda: row(200, 74)
    yield lambda: row(row(200, 74).overrides["knn.k"], 74)
    yield lambda: row(200, 200)


@ROWS.followed("doctor/recipe.py:knn_row", "Correct knn.bank")
def knn_that_cannot_be(tmp_path):
    photographs.write(tmp_path / "a", 2)
    photographs.write(tmp_path / "b", 2)
    spec = f"folder:{tmp_path}"

    def row(bank, query, k):
        fields = {"knn.bank": bank, "knn.query": query, "knn.k": k}
        return recipe.knn_row(config_of(fields=fields))

    yield lambda: row(spec, f"{spec}/none", 4)
    yield lambda: row(spec, spec, 4)


@ROWS.followed("doctor/recipe.py:precision_rows", "float32 is faster here")
def precision_without_kernels():
    def rows(precision):
        config = config_of(fields={"train.precision": precision})
        return recipe.precision_rows(config, "CPU")

    slow = mock.patch.object(cores, "lack_kernels_for", lambda x: "16" in x)
    with slow:
        yield lambda: rows("mixed_bfloat16")
        (row,) = rows("mixed_bfloat16")
        yield lambda: rows(row.overrides["train.precision"])


# Resources.


def disk(workdir, free, keep=2):
    usage = types.SimpleNamespace(free=free)
    return resources.disk_row(workdir, GB, keep, lambda _: usage)


@ROWS.followed("doctor/resources.py:disk_row", "Pass --workdir to compare")
def disk_without_a_workdir(tmp_path):
    yield lambda: disk("", 100 * GB)
    yield lambda: disk(tmp_path / "run", 100 * GB)


@ROWS.followed("doctor/resources.py:disk_row", "Pass another --workdir, or")
def folder_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    yield lambda: disk(blocked / "run", 100 * GB)
    yield lambda: disk(tmp_path / "run", 100 * GB)


@ROWS.followed("doctor/resources.py:disk_row", "Free space, pass another")
def full_disk(tmp_path):
    yield lambda: disk(tmp_path, 4 * GB, 5)
    yield lambda: disk(tmp_path, 100 * GB, 5)  # space is free, or elsewhere
    yield lambda: disk(tmp_path, 8 * GB, 1)  # a lower checkpoint.keep


def memory(fields=(), free=None, replicas=1):
    """The row about the memory of a GPU, of a small network."""
    fields = {"train.batch_size": 4096, "model.width": 1.0} | dict(fields)
    config = config_of(fields=fields)
    with mock.patch.object(encoders, "build_backbone", small_backbone.build):
        parts = resources.predict_memory(config, replicas, 10**6)
    row = resources.memory_row(parts, config, replicas, "GPU", free)
    return parts.total, row


@ROWS.followed("doctor/resources.py:memory_row", "Compare with the memory of")
def memory_that_is_not_known():
    needed, row = memory()
    yield lambda: row
    yield lambda: memory(free=2 * needed)[1]  # as nvidia-smi says


@ROWS.followed("doctor/resources.py:memory_row", "Lower train.batch_size, and")
def memory_that_is_too_small():
    needed, _ = memory()
    _, row = memory(free=needed // 2)
    yield lambda: row
    fields = {"train.batch_size": 1024, "optimizer.learning_rate": 0.12}
    yield lambda: memory(fields, free=needed // 2)[1]
    for fields, replicas in (
        ({"train.micro_batches": 4}, 1),
        ({}, 4),  # more devices
    ):
        free = int(1.3 * memory(fields, replicas=replicas)[0])
        assert memory(free=free)[1].remedy
        yield lambda f=fields, r=replicas, b=free: memory(f, b, r)[1]
    # tests/doctor/test_resources.py: they halve what this backbone has not.
    for name in ("train.precision=mixed_bfloat16", "model.recompute=true"):
        fields = dict([name.split("=")])
        yield lambda taken=fields: plan.check(config_of(fields=taken), 1)


def required(preset, **fields):
    """What a start says where 12 GB are free."""
    config = config_of(preset, **fields)
    with mock.patch.object(resources, "free_on_host", lambda: 12 * GB):
        resources.require(config, tf.distribute.get_strategy())


@ROWS.followed("doctor/resources.py:require", "Pass --config.train.micro")
def a_step_that_fits_in_parts():
    text = yield lambda: required("moco_v2_imagenet")
    parts = int(re.search(r"micro_batches=(\d+):", text)[1])
    yield lambda: required("moco_v2_imagenet", train__micro_batches=parts)


@ROWS.followed("doctor/resources.py:require", "Lower train.batch_size, and")
def a_step_that_fits_in_no_parts():
    yield lambda: required("memory_bank_imagenet")
    yield lambda: required("memory_bank_imagenet", train__batch_size=16)


# Devices.


def gathered(way, wrong=True, workers=1):
    """The row about the collectives of two replicas that are not there."""
    strategy = types.SimpleNamespace(num_replicas_in_sync=2)
    load = exchange.Load(2, 8, 3, 4, 10)
    with (
        mock.patch.object(exchange, "_compiled", lambda *_: lambda *_: None),
        mock.patch.object(exchange, "_scatter"),
        mock.patch.object(
            exchange, "_compare", lambda *_: {"images"} if wrong else set()
        ),
        mock.patch.object(
            distribution, "worker_count", lambda strategy: workers
        ),
    ):
        return exchange.check_gather(strategy, load, way)


@ROWS.followed("doctor/exchange.py:remedy", "Try --cross_device_ops=")
def wrong_gather():
    text = yield lambda: gathered("cross_device_ops=auto")
    name = text.partition("Try --cross_device_ops=")[2].split()[0]
    yield lambda: distribution.CROSS_DEVICE_OPS[name]()
    yield lambda: gathered(f"cross_device_ops={name}", wrong=False)


@ROWS.followed("doctor/exchange.py:remedy", "Try --communication=")
def wrong_gather_between_workers():
    text = yield lambda: gathered("communication=auto", workers=2)
    name = text.partition("Try --communication=")[2].split()[0]
    yield lambda: distribution.communication_options(name, "gpu")
    yield lambda: gathered(f"communication={name}", wrong=False, workers=2)


@ROWS.followed("doctor/exchange.py:remedy", "Do not train on these devices")
def wrong_gather_in_every_way():
    yield lambda: gathered("cross_device_ops=one_device")
    assert "together" in gathered("communication=ring", workers=2).remedy
    # On one of them.
    alone = types.SimpleNamespace(num_replicas_in_sync=1)
    load = exchange.Load(2, 8, 3, 4, 10)
    yield lambda: exchange.check_gather(alone, load)


@ROWS.followed("doctor/devices.py:numbers_row", "Do not train so. See which")
def numbers_of_another_kind():
    plain = devices.Figures([1.0], [np.ones(3)])

    def row(loss):
        figures = devices.Figures([loss], [np.ones(3)])
        return devices.numbers_row(figures, plain, [np.zeros(3)], "float32")

    text = yield lambda: row(1.1)
    fields = dict(re.findall(r"(train\.\w+)=(\w+)", text))
    assert len(fields) == 2
    yield lambda: config_of(fields=fields)
    words = text.partition("--devices=")[2].split()[0]
    yield lambda: distribution.parse_devices(words)
    yield lambda: row(1.0)


@ROWS.followed("doctor/devices.py:resume_row", "Do not trust resumed runs")
def wrong_resume():
    yield lambda: devices.resume_row(0.5, unordered=False)
    yield lambda: devices.resume_row(0.0, unordered=False)  # on sound memory


def proved(*, workers=1, failed=0, seconds=1.0, patient=False):
    """The rows of proofs that take so long each, on fakes."""
    request = examination.Request(config_of(), patient=patient)
    strategy = types.SimpleNamespace(num_replicas_in_sync=1)
    cluster = membership.Cluster(("a:1", "b:1"), 0, "a test")
    guard = mock.Mock(cluster=cluster if workers > 1 else None)
    good = table.Row("numbers", "")
    with (
        mock.patch.object(examination, "_watchdog"),
        mock.patch.object(distribution, "sum_of_workers", lambda *_: failed),
        mock.patch.object(reference, "check_reference", lambda: good),
        mock.patch.object(exchange, "load_of"),
        mock.patch.object(exchange, "check_gather", lambda *_: good),
        mock.patch.object(devices, "check_small_run", lambda *_: [good]),
        mock.patch.object(
            distribution, "worker_count", lambda strategy: workers
        ),
    ):
        clock = itertools.count(0.0, seconds).__next__
        return examination._prove(request, strategy, guard, clock)


@ROWS.followed("doctor/examination.py:_prove", "Run it again: what was")
def proofs_that_come_too_late():
    def late(seconds, patient=False):
        rows = proved(seconds=seconds, patient=patient)
        return next((r.remedy for r in rows if r.verdict == table.OPEN), "")

    text = yield lambda: late(100.0)
    yield lambda: late(1.0)  # what was compiled is there
    assert "--prove=always" in text
    yield lambda: late(100.0, patient=True)


ROWS.states(
    following.NO_MESSAGE,
    ("doctor/examination.py:_Visit.measure", "read it before you send it"),
)


@ROWS.followed("doctor/examination.py:_workers", "Read what each worker")
def proof_that_fails_elsewhere():
    yield lambda: proved(workers=2, failed=1)[-1]
    yield lambda: proved(workers=2)[-1]  # after it was mended there


@ROWS.followed("doctor/reference.py:check_reference", "check the driver")
def wrong_steps(monkeypatch):
    def row(deviation):
        limits = dict.fromkeys(reference.LIMITS, deviation)
        monkeypatch.setattr(reference, "replay", lambda case: limits)
        return reference.check_reference()

    yield lambda: row(1.0)
    yield lambda: row(0.0)  # on a sound device


def trial(loss=5.0, wait=0.0, **fields):
    parts = devices.Trial(0.1, wait, loss, 20, None)
    return devices.trial_row(config_of(**fields), 10**6, parts)


@ROWS.followed("doctor/devices.py:trial_row", "Lower optimizer.learning_rate")
def trial_that_diverges():
    yield lambda: trial(loss=float("nan"))
    yield lambda: trial(loss=5.0)
    # The field is one that may be lowered.
    yield lambda: config_of(optimizer__learning_rate=0.003)


@ROWS.followed("doctor/devices.py:trial_row", "The devices wait for images")
def trial_that_waits():
    text = yield lambda: trial(wait=0.5)
    assert "moco-tf prepare" in text
    yield lambda: trial(wait=0.1)
    yield lambda: config_of(data__threads=0)


@ROWS.followed("doctor/devices.py:trial_row", "The devices wait for views")
def trial_that_waits_for_a_cache():
    fields = {"data__source": "prepared:x", "data__threads": 2}
    text = yield lambda: trial(wait=0.5, **fields)
    assert "prepare" not in text
    yield lambda: trial(wait=0.1, **fields | {"data__threads": 0})


# The examination.


def stepped(monkeypatch, error=None):
    """The row about some steps of the run itself."""
    request = examination.Request(config_of())

    def run(*_, **__):
        if error:
            raise error(None, None, "out of it")
        return devices.Trial(0.1, 0.0, 5.0, 20, None)

    monkeypatch.setattr(devices, "run_trial", run)
    source = range(10**6)
    return examination._try(request, source, None, None)[1]


@ROWS.followed("doctor/examination.py:_try", "Lower train.batch_size, and")
def steps_out_of_memory(monkeypatch):
    yield lambda: stepped(monkeypatch, tf.errors.ResourceExhaustedError)
    half = {"train.batch_size": 128, "optimizer.learning_rate": 0.015}
    yield lambda: plan.check(config_of(fields=half), 1)
    yield lambda: stepped(monkeypatch)


@ROWS.followed("doctor/examination.py:_try", "Run with --verbose")
def steps_that_fail(monkeypatch):
    from moco_tf.cli import flags, main

    yield lambda: stepped(monkeypatch, tf.errors.InternalError)
    words = ["doctor", "--config=quickstart", "--verbose"]
    yield lambda: flags.parse(words, main.COMMANDS)


@ROWS.followed("doctor/examination.py:_examine_images", "Pass --path=FILE.csv")
def images_that_are_not_named(tmp_path, capsys):
    photographs.write(tmp_path / "images", 2)
    (tmp_path / "images" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")

    def find(path=""):
        spec = f"folder:{tmp_path / 'images'}"
        config = config_of(fields={"data.source": spec, "data.threads": 1})
        source = plan.open_source(config, spec)
        request = examination.Request(config, path=path)
        figures = scan.scan_source(source, 1)
        examination._examine_images(source, figures, request)
        return capsys.readouterr().out

    yield find
    yield lambda: find(str(tmp_path / "FILE.csv"))


@ROWS.followed("doctor/examination.py:_count_classes", "Prepare the data set")
def labels_that_are_damaged():
    def count(damaged):
        source = sources.ArraySource(
            np.zeros([4, 8, 8, 3], np.uint8), np.array([0, 0, 1, 1]), None, "x"
        )
        if damaged:
            source = Damaged()
        config = configs.load("quickstart")
        return examination._count_classes(source, config)

    yield lambda: count(True)
    yield lambda: count(False)


class Damaged:
    """A source of records whose labels cannot be read."""

    @property
    def labels(self):
        raise ValueError("All records must be readable to have their labels.")


# Images.


@functools.cache
def pictures():
    """Findings about a folder with every fault, and about it without them.

    Returns:
      two dicts, name of the check -> its remedy.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        photographs.write(folder, 3)
        similar = sorted(folder.iterdir())[0]
        noise(folder / "whole.jpg", "jpeg")
        whole = (folder / "whole.jpg").read_bytes()
        (folder / "broken.png").write_bytes(b"")
        cut = whole[: len(whole) // 2] + bytes(20) + whole[-2:]
        (folder / "whole.jpg").write_bytes(cut)
        noise(folder / "misnamed.jpg", seed=1)
        noise(folder / "tiny.png", size=20, seed=2)
        plain = np.full([80, 80, 3], 77, np.uint8)
        (folder / "plain.png").write_bytes(tf.io.encode_png(plain).numpy())
        for copy in ("a.png", "b.png"):
            noise(folder / copy, seed=3)
        pixels = tf.io.decode_image(similar.read_bytes()).numpy()
        again = tf.io.encode_jpeg(pixels, quality=70).numpy()
        (folder / "similar.jpg").write_bytes(again)
        before = look(folder)
        # What each remedy says.
        noise(folder / "broken.png", seed=4)
        (folder / "whole.jpg").write_bytes(whole)
        (folder / "misnamed.jpg").rename(folder / "misnamed.png")
        for copy in ("tiny.png", "plain.png", "b.png", "similar.jpg"):
            (folder / copy).unlink()
        return before, look(folder)


def look(folder, size=64):
    """The remedies of a folder of images, by check."""
    source = sources.open_source(f"folder:{folder}", 3)
    figures = scan.scan_source(source, 1)
    faults = images.find_faults(source, figures, size)
    rows = images.fault_rows(source, faults, 1.0)
    return {row.check: row.remedy for row in rows}


def noise(path, kind="png", size=80, seed=0):
    """Writes an image that looks like no other."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, [size, size, 3], np.uint8)
    encode = tf.io.encode_jpeg if kind == "jpeg" else tf.io.encode_png
    path.write_bytes(encode(pixels).numpy())


def _images(check, words):
    @ROWS.followed("doctor/images.py:", words)
    def row():
        yield lambda: pictures()[0][check]
        yield lambda: pictures()[1].get(check, "")


for _check, _words in (
    ("unreadable", "Mend or remove them. Training"),
    ("damaged", "Look at them; copy them anew"),
    ("misnamed", "Rename them. They are read by"),
    ("tiny", "Remove them, or lower data.image_size"),
    ("plain", "Remove them: two of them cannot"),
    ("copy", "Remove the copies: each is"),
    ("near copy", "Look at them; remove those that"),
):
    _images(_check, _words)


def classes(counts, names=()):
    labels = np.repeat(np.arange(len(counts)), counts)
    source = sources.ArraySource(
        np.zeros([len(labels), 8, 8, 3], np.uint8),
        labels,
        list(names or (f"c{n}" for n in range(len(counts)))),
        "set",
    )
    return images.class_rows(source, "shapes")


@ROWS.followed("doctor/images.py:class_rows", "write it in one way")
def classes_that_look_alike():
    yield lambda: classes([2, 2], ["cat", "Cat "])
    yield lambda: classes([4, 2], ["cat", "dog"])


@ROWS.followed("doctor/images.py:class_rows", "kNN and `linear` need two")
def single_class():
    yield lambda: classes([4])
    yield lambda: classes([2, 2])


@ROWS.followed("doctor/images.py:fault_rows", "A run stops above")
def more_unreadable_images_than_a_run_allows():
    source = sources.ArraySource(
        np.zeros([100, 8, 8, 3], np.uint8), None, None, "set"
    )
    faults = [images.Fault(n, "unreadable", "empty") for n in range(7)]

    def row(fraction):
        (row,) = images.fault_rows(source, faults, fraction)
        return row

    text = yield lambda: row(0.01)
    fraction = float(text.rpartition("pass ")[2].split()[0])
    yield lambda: row(fraction)


@ROWS.followed("doctor/images.py:class_rows", "Read accuracies by class")
def rare_classes():
    yield lambda: classes([22, 2])
    # linear and finetune write them: tests/evaluation reads per_class.csv.
    yield lambda: classes([22, 20])


@ROWS.followed("doctor/images.py:_empty_row", "Fill or remove each such")
def empty_classes(tmp_path):
    for name in "abc":
        photographs.write(tmp_path / name, 1)
    for path in (tmp_path / "b").iterdir():
        path.unlink()

    def look():
        spec = f"folder:{tmp_path}"
        return images.class_rows(sources.open_source(spec, 3), spec)

    yield look
    photographs.write(tmp_path / "b", 1)
    yield look
    for path in (tmp_path / "b").iterdir():
        path.unlink()
    (tmp_path / "b").rmdir()
    yield look


# The benchmark.


def rates(input_rate, step_rate, kind=(8, 0), fields=(), pause=0.0):
    """The verdict on a GPU of some kind; `pause` of a report, in steps."""
    known = {"step": step_rate, "reported": step_rate / (1 + pause)}
    if input_rate is not None:
        known |= {"input": input_rate, "both": min(input_rate, step_rate)}
    machine = benchmark.Machine(kind, cores=8, bfloat16=True)
    cache = input_cost.Cache("moco-tf prepare --format=jpeg", 1.4)
    config = config_of(fields=fields)
    return benchmark.verdict(config, known, machine, cache)


@ROWS.followed("benchmark.py:verdict", "give a source by")
def step_alone():
    yield lambda: rates(None, 100.0)
    fields = {"data.source": "shapes:train"}
    yield lambda: rates(100.0, 100.0, fields=fields)


@ROWS.followed("benchmark.py:verdict", "_for_input")
def slow_input():
    fields = {"data.threads": 2, "data.source": "folder:x"}
    text = yield lambda: rates(10.0, 100.0, fields=fields)
    assert "moco-tf prepare" in text
    advised = following.advised(text)
    assert len(advised) == 2
    for remedy in advised:
        yield lambda taken=fields | remedy: plan.check(
            config_of(fields=taken), 1
        )
    # What is done is not advised again.
    done = {"data.source": "prepared:x"} | advised[0] | advised[1]
    yield lambda: rates(100.0, 100.0, fields=done)


@ROWS.followed("benchmark.py:verdict", "_for_step")
def slow_step():
    fields = {"model.recompute": "true", "train.micro_batches": 2}
    text = yield lambda: rates(100.0, 10.0, fields=fields)
    advised = [*following.advised(text), {"train.micro_batches": 1}]
    advised += following.advised(rates(100.0, 10.0, (7, 0)))[:1]
    advised += following.advised(
        rates(100.0, 10.0, None, {"train.jit_compile": "true"})
    )[1:]
    assert len(advised) == 7
    for remedy in advised:
        yield lambda taken=fields | remedy: plan.check(
            config_of(fields=taken), 1
        )


@ROWS.followed("benchmark.py:_more", "holds up the GPU less")
def slow_host():
    text = yield lambda: rates(10.0, 10.0, pause=0.9)
    (remedy,) = following.advised(text)
    yield lambda: rates(10.0, 10.0, fields=remedy, pause=0.9)


ROWS.within(
    ("benchmark.py:verdict", "_for_input"),
    ("benchmark.py:_for_input", "--config.data.augment_on=device"),
    ("benchmark.py:_for_input", "--config.data.threads=0"),
)
ROWS.within(
    ("benchmark.py:verdict", "_for_step"),
    ("benchmark.py:_for_step", "--config.train.precision=mixed_bfloat16"),
    ("benchmark.py:_for_step", "--config.train.precision=mixed_float16"),
    ("benchmark.py:_for_step", "--config.train.tf32=true"),
    ("benchmark.py:_for_step", "--config.train.jit_compile=true"),
    ("benchmark.py:_for_step", "--config.train.jit_compile=false"),
    ("benchmark.py:_for_step", "--config.model.recompute=false"),
)
ROWS.within(
    ("benchmark.py:_more", "holds up the GPU less"),
    ("benchmark.py:_for_host", "--config.log.every_steps="),
)
ROWS.states(
    following.OF_A_CALLER,
    ("benchmark.py:_known", "Operations can be counted"),
)
ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("benchmark.py:measure", "steps and rounds must be"),
)
