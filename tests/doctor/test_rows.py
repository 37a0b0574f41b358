import json
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf import config as configs
from moco_tf import cores
from moco_tf.data import sources
from moco_tf.doctor import devices, examination, images, recipe, scan, table
from moco_tf.methods import table as methods
from tests.doctor import photographs


def config_of(name="moco_v2_imagenet", **fields):
    config = configs.load(name).copy_and_resolve_references()
    values = {key.replace("__", "."): value for key, value in fields.items()}
    config.update_from_flattened_dict(values)
    return config


def source_of(count=4, labels=None, names=None):
    pixels = np.zeros([count, 8, 8, 3], np.uint8)
    return sources.ArraySource(pixels, labels, names, "set")


def row_of(rows, check):
    (row,) = [row for row in rows if row.check == check]
    return row


@pytest.mark.parametrize("kind", ["CPU", "GPU"])
def test_a_precision_without_kernels_is_named(monkeypatch, kind):
    monkeypatch.setattr(cores, "lack_kernels_for", lambda name: "16" in name)
    assert not recipe.precision_rows(config_of(), kind)
    config = config_of(train__precision="mixed_bfloat16")
    rows = recipe.precision_rows(config, kind)
    if kind == "GPU":
        assert not rows
    else:
        assert rows[0].verdict == table.WARN
        assert rows[0].overrides == {"train.precision": "float32"}


def test_kinds_become_rows_that_name_the_first_images():
    faults = [images.Fault(n, "tiny", "3 x 3 px") for n in range(4)]
    (row,) = images.fault_rows(source_of(40), faults, 0.01)
    assert row.verdict == table.WARN
    assert row.finding.startswith("4 (10 %) have a side of less than half")
    assert row.finding.endswith("view: set[0], set[1], set[2], ...")


@pytest.mark.parametrize(
    "allowed, verdict", [(0.25, table.WARN), (0.24, table.FAIL)]
)
def test_more_unreadable_images_than_a_run_allows_fail(allowed, verdict):
    faults = [images.Fault(1, "unreadable", "empty")]
    (row,) = images.fault_rows(source_of(4), faults, allowed)
    assert row.verdict == verdict


def test_grey_images_are_named_but_no_fault():
    rows = images.fault_rows(source_of(), [images.Fault(0, "grey", "")], 0.01)
    assert [row.verdict for row in rows] == [table.OK, table.OK]
    assert [row.check for row in rows] == ["images", "grey"]


@pytest.mark.parametrize(
    "bank, words",
    [
        ("", "pre-training needs none"),
        (
            "folder:b",
            "pre-training needs none, and kNN takes those of folder:b",
        ),
    ],
)
def test_a_bank_has_the_labels_that_the_images_lack(bank, words):
    (row,) = images.class_rows(source_of(), "list:photos", bank)
    assert row.finding == f"no labels; {words}"


@pytest.mark.parametrize(
    ("bank", "is_said"),
    [
        ("", False),
        ("folder:flat", False),
        ("folder:./flat", False),  # the same images
        ("folder:other", False),  # no labels either
        ("folder:gone", False),
        ("folder:classes", True),
    ],
)
def test_only_labels_that_are_there_are_promised(
    tmp_path, monkeypatch, bank, is_said
):
    pixels = np.random.default_rng(0).integers(0, 256, [9, 9, 3], np.uint8)
    for folder in ("flat", "other", "classes/a", "classes/b"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("0.png", "1.png"):
            Image.fromarray(pixels).save(tmp_path / folder / name)
    monkeypatch.chdir(tmp_path)
    config = configs.load("quickstart", {"data.source": "folder:flat"})
    config.knn.bank = bank
    source = sources.open_source("folder:flat")
    (row,) = examination._count_classes(source, config)
    assert (f"kNN takes those of {bank}" in row.finding) == is_said
    assert ("kNN and `linear` do" in row.finding) != is_said


@pytest.mark.parametrize(
    "labels, verdict, words",
    [
        (None, table.OK, "no labels"),
        ([0, 1, 1, 0], table.OK, "2 classes of 2 images each"),
        ([0] * 22 + [1] * 2, table.WARN, "2 classes of 2 (b) to 22 (a)"),
        ([1, 1, 1, 1], table.WARN, "all 4 images are of one class, b"),
    ],
)
def test_classes_are_counted(labels, verdict, words):
    labels = None if labels is None else np.array(labels)
    count = 4 if labels is None else len(labels)
    source = source_of(count, labels, ["a", "b"])
    row = row_of(images.class_rows(source, "shapes"), "classes")
    assert row.verdict == verdict
    assert row.finding.startswith(words)


def test_empty_classes_and_folders_are_named(tmp_path):
    source = source_of(4, np.array([0, 2, 2, 0]), ["a", "b", "c"])
    row = row_of(images.class_rows(source, "tfds:x/y"), "empty classes")
    assert (row.verdict, row.finding) == (
        table.WARN,
        "1 without an image: b",
    )
    source = source_of(4, np.array([0, 1, 1, 0]), ["a", "b"])
    photographs.write(tmp_path / "cat" / "inner", 1)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("later")
    row = row_of(
        images.class_rows(source, f"folder:{tmp_path}"), "empty classes"
    )
    assert row.finding == "1 without an image: dog"


def scan_of(height, width):
    columns = {
        "height": np.array(height, np.int32),
        "width": np.array(width, np.int32),
        "pixel_hash": np.zeros(len(height)),
    }
    return scan.Scan(columns, {}, {})


@pytest.mark.parametrize(
    "height, width, verdict, change",
    [
        ([300, 400, 500], [500] * 3, table.OK, {}),
        # Of 32: 100 -> 96.
        ([100] * 3, [500] * 3, table.WARN, {"data.image_size": 96}),
        ([20] * 3, [20] * 3, table.WARN, {"data.image_size": 32}),
        ([3000] * 3, [4000] * 3, table.WARN, {}),
    ],
)
def test_image_size_against_the_images(height, width, verdict, change):
    (row,) = recipe.size_rows(config_of(), scan_of(height, width))
    assert (row.verdict, row.overrides) == (verdict, change)


@pytest.mark.parametrize(
    "count, verdict, change",
    [
        (655_360, table.OK, {}),
        # A tenth of 50,000 is 5000, 4096 the power of two below.
        (50_000, table.WARN, {"moco.queue_size": 4096}),
        # 256 keys come in a step: more than a tenth.
        (
            1000,
            table.WARN,
            {"moco.queue_size": 256, "moco.mask_same_image": True},
        ),
    ],
)
def test_queue_against_the_number_of_images(count, verdict, change):
    row = row_of(recipe.training_rows(config_of(), count), "queue")
    assert (row.verdict, row.overrides) == (verdict, change)


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_the_recipe_of_any_method_is_looked_at(name):
    config = config_of(methods.METHODS[name].configs[0])
    checks = {row.check for row in recipe.training_rows(config, 10**6)}
    assert ("queue" in checks) == (name == "moco")
    assert {"learning rate", "batch norm", "length"} <= checks


def test_a_batch_larger_than_the_data_fails():
    (row,) = recipe.training_rows(config_of(), 200)
    assert row.verdict == table.FAIL
    # A tenth is 20, 16 the power of two below: two groups of 8 images;
    # 0.03 * 16 / 256.
    assert row.overrides == {
        "train.batch_size": 16,
        "model.bn_groups": 2,
        "optimizer.learning_rate": 0.001875,
    }


@pytest.mark.parametrize(
    "batch, rate, rate_per_image, verdict, change",
    [
        (256, 0.03, None, table.OK, None),
        (512, 0.03, None, table.WARN, 0.06),
        (64, 0.03, None, table.WARN, 0.0075),
        # A file of another pair, 0.06 for 128: as it stands, and unscaled.
        (128, 0.06, 0.06 / 128, table.OK, None),
        (512, 0.24, 0.06 / 128, table.OK, None),
        (32, 0.06, 0.06 / 128, table.WARN, 0.015),
    ],
)
def test_rate_against_the_batch(batch, rate, rate_per_image, verdict, change):
    config = config_of(train__batch_size=batch, optimizer__learning_rate=rate)
    row = row_of(
        recipe.training_rows(config, 10**6, rate_per_image), "learning rate"
    )
    assert row.verdict == verdict
    assert row.overrides.get("optimizer.learning_rate") == change


@pytest.mark.parametrize(
    "batch, groups, verdict, change",
    [
        (256, 8, table.OK, None),
        (256, 1, table.WARN, 8),
        (32, 8, table.WARN, 4),  # four groups of 8
    ],
)
def test_batch_norm_groups(batch, groups, verdict, change):
    config = config_of(train__batch_size=batch, model__bn_groups=groups)
    row = row_of(recipe.training_rows(config, 10**6), "batch norm")
    assert row.verdict == verdict
    assert row.overrides.get("model.bn_groups") == change


@pytest.mark.parametrize(
    "name, words",
    [
        ("cpc_imagenet", "none: the encoder has layer norm"),
        ("memory_bank_imagenet", "1 BatchNorm groups of 256 images"),
    ],
)
def test_one_group_is_well_where_no_key_is_shuffled(name, words):
    config = config_of(name, model__bn_groups=1)
    row = row_of(recipe.training_rows(config, 10**6), "batch norm")
    assert (row.verdict, row.finding) == (table.OK, words)


@pytest.mark.parametrize(
    "momentum, verdict, change",
    [
        (0.999, table.WARN, 0.997),  # 1000 steps; 1 - 3 / 1000
        (0.99, table.OK, None),
        (1.0, table.WARN, 0.99),
    ],
)
def test_length_against_the_memory_of_the_key_encoder(
    momentum, verdict, change
):
    config = config_of(train__epochs=10, moco__momentum=momentum)
    row = row_of(recipe.training_rows(config, 25_600), "length")
    assert row.finding.startswith("1000 steps in 10 epochs")
    assert row.verdict == verdict
    assert row.overrides.get("moco.momentum") == change


def test_sources_of_knn_must_open_and_have_labels(tmp_path):
    photographs.write(tmp_path, 1)
    spec = f"folder:{tmp_path}"
    config = config_of(knn__bank=spec, knn__query=spec, knn__k=1)
    row = recipe.knn_row(config)
    assert row.verdict == table.FAIL
    assert "labels" in row.finding
    row = recipe.knn_row(config_of(knn__bank=spec, knn__query="folder:none"))
    assert row.verdict == table.FAIL
    assert "'none'" in row.finding


ROWS = [
    table.Row("source", "4 images"),
    table.Row("queue", "too long", table.WARN, "shorten", {"moco.x": 4}),
    table.Row("disk", "full", table.FAIL, "", {"a.b": 0.5, "moco.x": 2}),
]


def test_one_folder_as_bank_and_query_set_is_warned_of(tmp_path):
    for name, count in {"one/a": 2, "one/b": 2, "two/a": 2, "two/b": 3}.items():
        photographs.write(tmp_path / name, count)
    one, two = (f"folder:{tmp_path / name}" for name in ("one", "two"))
    same, other = (
        recipe.knn_row(config_of(knn__bank=one, knn__query=x, knn__k=2))
        for x in (f"{one}/", two)
    )
    assert same.verdict == table.WARN
    assert same.finding.startswith("4 and 4 labelled images; bank and query")
    assert same.remedy == "Name different images for one of them."
    assert other == table.Row("kNN", "4 and 5 labelled images")


def test_a_step_of_more_keys_than_images_is_made_smaller():
    """Batch and images of a preset that keeps both views' keys of a step."""
    config = configs.load("quickstart", {"data.source": "folder:x"})
    row = row_of(recipe.training_rows(config, 164), "queue")
    assert row.finding == "256 keys from 164 images"
    assert row.overrides["train.batch_size"] == 16


def test_knn_lets_no_more_vote_than_there_are(tmp_path):
    for kind in "ab":
        photographs.write(tmp_path / "few" / kind, 3)
    spec = f"folder:{tmp_path / 'few'}"
    config = config_of(knn__bank=spec, knn__query=spec, knn__k=200)
    row = recipe.knn_row(config)
    assert row.verdict == table.FAIL
    assert (
        row.finding == "200 neighbours vote, of 6 labelled images in knn.bank"
    )
    assert row.overrides == {"knn.k": 1}


def test_a_rate_that_the_run_scales_is_left_alone():
    config = config_of("dino_imagenet", train__batch_size=1024)
    row = row_of(
        recipe.training_rows(config, 10**6, 0.03 / 512), "learning rate"
    )
    assert (row.verdict, row.overrides) == (table.OK, {})
    assert recipe.rate_for(config, 128, None) == {}
    config = config_of(train__batch_size=256, optimizer__learning_rate=0.03)
    halved = {"optimizer.learning_rate": 0.015}
    assert recipe.rate_for(config, 128, None) == halved


def test_a_table_aligns_verdicts_and_puts_remedies_below():
    assert table.format_rows(ROWS, 60).splitlines() == [
        "source  ok    4 images",
        "queue   warn  too long",
        "              -> shorten",
        "disk    fail  full",
    ]


def test_suggestions_become_flags_and_the_last_one_counts():
    words = table.flags(table.overrides(ROWS))
    assert words == ["--config.moco.x=2", "--config.a.b=0.5"]


def test_the_json_file_holds_the_worst_verdict(tmp_path):
    table.write_json(tmp_path / "a.json", ROWS, {"tiny": 3}, {"a.b": 0.5})
    saved = json.loads((tmp_path / "a.json").read_text())
    assert saved["verdict"] == "fail"
    assert saved["checks"][1] == {
        "check": "queue",
        "finding": "too long",
        "verdict": "warn",
        "remedy": "shorten",
    }
    assert saved["images"] == {"tiny": 3}
    assert saved["overrides"] == {"a.b": 0.5}
    assert table.failures(ROWS) == ["disk"]


def test_names_that_a_terminal_cannot_write_are_spelled_out():
    written = []
    stream = types.SimpleNamespace(
        encoding="ascii", write=written.append, flush=lambda: None
    )
    table.print_text("a \udcff ö", stream)
    assert "".join(written) == "a \\udcff \\xf6\n"


def test_unreadable_images_are_grouped_by_their_reasons():
    reasons = ["a pointer.", "/x/1.jpg; No such file", "/x/2.jpg; No such file"]
    faults = [
        images.Fault(number, "unreadable", reason)
        for number, reason in enumerate(reasons)
    ]
    (row,) = images.fault_rows(source_of(4), faults, 1.0)
    assert row.finding.endswith(". Why: No such file (2); a pointer (1)")


def test_classes_that_look_alike_are_named():
    names = ["Cat", "cat ", "dog"]
    source = source_of(3, np.arange(3), names)
    first, second = images.class_rows(source, "shapes")
    assert first.verdict == table.WARN
    assert first.finding == "'Cat' and 'cat ' look alike"
    assert second.finding == "3 classes of 1 images each"


def test_gpus_that_are_not_used_fail_with_the_remedy():
    strategy = tf.distribute.get_strategy()
    row = devices.devices_row(strategy, "Install CUDA.")
    assert (row.verdict, row.remedy) == (table.FAIL, "Install CUDA.")
    assert devices.devices_row(strategy, "").verdict == table.OK
