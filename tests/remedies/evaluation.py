"""Rows of evaluation/: encoders, labelled sources, files of features."""

import errno
import functools
import os
import shutil
import types

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf import config as configs
from moco_tf import plan, workdirs
from moco_tf.data import sources
from moco_tf.evaluation import (
    accuracy,
    cached_probe,
    embeddings,
    features,
    finetune,
    frozen,
    in_memory,
    knn,
    linear,
    logistic,
    monitor,
    neighbours,
    paired,
    representation,
    side_by_side,
    supervised,
    verdict,
    voting,
)
from moco_tf.training import schedules
from tests.evaluation import plain_frozen
from tests.remedies import following

ROWS = following.Rows("evaluation/*.py")

GREYS = {f"{kind}/{n}.png": 20 * n for kind in "ab" for n in range(1, 4)}


def arrays(labels, names=None):
    """A source of images in memory."""
    pixels = np.zeros([0 if labels is None else len(labels), 8, 8, 3], np.uint8)
    if labels is None:
        pixels = np.zeros([4, 8, 8, 3], np.uint8)
    return sources.ArraySource(
        pixels, None if labels is None else np.asarray(labels), names, "set"
    )


def embedded(rows, encoder="ab" * 32, source="s1", layers=("backbone",)):
    """What `embed` has written, of one row an image."""
    rows = np.asarray(rows, np.float32)
    about = {
        "encoder": encoder,
        "title": encoder[:2],
        "source": f"folder:/{source}",
        "fingerprint": source,
        "layers": list(layers),
    }
    return embeddings.Embeddings(
        {layer: rows for layer in layers},
        np.arange(len(rows)),
        [f"{source}-{number}.png" for number in range(len(rows))],
        None,
        None,
        about,
    )


def flag(text, name):
    """The value that a message gives a flag."""
    return text.rpartition(f"--{name}=")[2].split()[0].rstrip(".,")


# Encoders.


def run_with(workdir, *steps):
    """A workdir with complete checkpoints of some steps, as far as listed."""
    workdirs.save(configs.load("quickstart"), workdir)
    for step in steps:
        folder = workdir / "checkpoints" / f"step-{step:09d}"
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(f'{{"step": {step}}}')
    return workdir


@ROWS.followed("evaluation/frozen.py:load_config", "Give the --workdir of")
def workdir_of_no_run(tmp_path):
    workdir = run_with(tmp_path / "run")
    yield lambda: frozen.load_config(tmp_path)
    yield lambda: frozen.load_config(workdir)


@ROWS.followed("evaluation/frozen.py:find_checkpoint", "checkpoint must be")
def checkpoint_that_is_not_there(tmp_path):
    workdir = run_with(tmp_path, 5, 7)
    text = yield lambda: frozen.find_checkpoint(workdir, "6")
    assert flag(text, "checkpoint") == "7"
    yield lambda: frozen.find_checkpoint(workdir, flag(text, "checkpoint"))


ROWS.within(
    ("evaluation/frozen.py:find_checkpoint", "checkpoint must be"),
    ("evaluation/frozen.py:find_checkpoint", "Pass --checkpoint="),
)
ROWS.within(
    ("evaluation/neighbours.py:_check", "k must be from 1"),
    ("evaluation/neighbours.py:_check", "Pass --k="),
)


@ROWS.followed(
    "evaluation/frozen.py:find_checkpoint", "Give the --workdir of a run that"
)
def run_without_checkpoints(tmp_path):
    workdir, other = run_with(tmp_path), run_with(tmp_path / "other", 5)
    yield lambda: frozen.find_checkpoint(workdir, "latest")
    yield lambda: frozen.find_checkpoint(other, "latest")


def saved(tmp_path, layer=None, side=16, pooled=True):
    """A .keras file of a small network."""
    layers = tf.keras.layers
    images = tf.keras.Input([side, side, 3])
    x = layers.Conv2D(2, 3)(images)
    if pooled:
        x = layers.GlobalAveragePooling2D()(x)
    model = tf.keras.Model(images, layer(x) if layer else x)
    path = tmp_path / "model.keras"
    model.save(path)
    return model, path


@ROWS.followed("evaluation/frozen.py:_open_saved_model", "by --views")
def views_of_a_saved_model(tmp_path):
    _, path = saved(tmp_path)
    text = yield lambda: frozen.open_frozen(saved_model=path)
    one_of = text.partition("one of ")[2].split(",")[0]
    yield lambda: frozen.open_frozen(saved_model=path, recipe=one_of)


@ROWS.followed("evaluation/frozen.py:_open_saved_model", "--image_size=")
def size_of_a_saved_model(tmp_path):
    _, path = saved(tmp_path)
    open_model = functools.partial(
        frozen.open_frozen, saved_model=path, recipe="v1"
    )
    text = yield lambda: open_model(image_size=32)
    yield lambda: open_model(image_size=int(flag(text, "image_size")))
    _, path = saved(tmp_path, side=None)
    yield lambda: open_model(image_size=24)


@ROWS.followed("evaluation/frozen.py:_open_saved_model", "pooling layer at")
def saved_model_of_maps(tmp_path):
    def open_model(pooled):
        _, path = saved(tmp_path, pooled=pooled)
        frozen.open_frozen(saved_model=path, recipe="v1")

    yield lambda: open_model(pooled=False)
    yield lambda: open_model(pooled=True)


ROWS.tested(
    "tests/test_damaged_state.py::"
    "test_a_model_whose_card_is_moved_away_takes_its_views_as_words",
    ("evaluation/frozen.py:read_preprocessing", "Copy the card from where"),
)


# Labels.


@ROWS.followed("evaluation/features.py:common_labels", "sources.labelled of")
def images_without_labels_among_others():
    some = arrays([0, 1, -1], ["a", "b"])
    yield lambda: features.common_labels(some, some)
    chosen = sources.labelled(some, "bank")
    yield lambda: features.common_labels(chosen, chosen)


@ROWS.followed("evaluation/knn.py:overlap_words", "Name different")
def the_same_images_twice(tmp_path):
    one = sources.open_source(plain_frozen.write_greys(tmp_path / "1", GREYS))
    # Of the same names and sizes, but other pixels.
    others = {name: grey + 1 for name, grey in GREYS.items()}
    two = sources.open_source(plain_frozen.write_greys(tmp_path / "2", others))
    yield lambda: knn.overlap_words(one, one)
    yield lambda: knn.overlap_words(one, two)


@ROWS.followed("evaluation/paired.py:difference", "Measure both on the same")
def outcomes_of_other_images():
    yield lambda: paired.difference([1, 0, 1], [1, 0])
    yield lambda: paired.difference([1, 0, 1], [1, 0, 0])


@ROWS.followed("evaluation/paired.py:difference", "Give an earlier checkpoint")
def outcomes_of_a_diverged_encoder():
    yield lambda: paired.difference([1.0, 0.0], [np.nan, 0.0])
    yield lambda: paired.difference([1.0, 0.0], [0.5, 0.0])


@ROWS.followed("evaluation/logistic.py:fit", "Give more images, or")
def a_probe_of_single_images():
    rows = np.eye(4, dtype=np.float32)
    labels = np.arange(4)

    def fit(labels):
        logistic.fit(rows, labels, np.ones(4, bool), 4)

    yield lambda: fit(labels)
    yield lambda: fit(labels // 2)


@ROWS.followed("evaluation/side_by_side.py:open_sets", "Give a larger --query")
def one_image_to_classify(tmp_path):
    bank = plain_frozen.write_greys(tmp_path / "bank", GREYS)
    one = plain_frozen.write_greys(tmp_path / "one", {"a/1.png": 9})
    two = plain_frozen.write_greys(tmp_path / "2", {"a/1.png": 9, "b/2.png": 8})
    yield lambda: side_by_side.open_sets(bank, one, 3, k=2)
    yield lambda: side_by_side.open_sets(bank, two, 3, k=2)


@ROWS.followed("evaluation/side_by_side.py:check", "Leave it out, or name an")
def an_encoder_that_has_diverged():
    good = plain_frozen.make_frozen()

    def encode(images):
        return {"backbone": good.encode(images)["backbone"] * np.nan}

    yield lambda: side_by_side.check(good._replace(encode=encode), "a")
    yield lambda: side_by_side.check(good, "a@1200")


@ROWS.followed("evaluation/features.py:_alike", "write them alike")
def classes_that_look_alike():
    def compare(*names):
        features.common_labels(
            arrays([0, 1], ["cat", "dog"]), arrays([0, 1], names)
        )

    yield lambda: compare("cat ", "dog")
    yield lambda: compare("cat", "dog")


@ROWS.followed("evaluation/monitor.py:", "Or train without kNN: --config")
def knn_of_a_run_without_labels(tmp_path):
    spec = plain_frozen.write_greys(tmp_path, {"1.png": 10, "2.png": 20})
    given = {"data.source": spec, "knn.bank": spec, "knn.query": spec}

    def start(fields):
        config = configs.load("moco_cifar10", given | {"knn.k": "1"} | fields)
        plan.check(config, 1)
        if config.knn.bank:  # as `pretrain` asks
            monitor.KnnMonitor(config)

    text = yield lambda: start({})
    (remedy,) = following.advised(text)
    assert remedy == {"knn.bank": "", "knn.query": ""}
    yield lambda: start(remedy)


@ROWS.followed("evaluation/features.py:common_labels", "missing in the")
def classes_by_name():
    two, three = arrays([0, 1], ["a", "b"]), arrays([0, 1, 2], ["a", "b", "c"])
    yield lambda: features.common_labels(two, three)
    yield lambda: features.common_labels(two, two)


@ROWS.followed("evaluation/features.py:common_labels", "and the label")
def classes_by_number():
    two, three = arrays([0, 1]), arrays([0, 1, 2])
    yield lambda: features.common_labels(two, three)
    yield lambda: features.common_labels(three, three)


@ROWS.followed(
    "evaluation/supervised.py:open_labelled", "Pass --config.data.{name}="
)
def source_that_is_not_named(tmp_path):
    spec = plain_frozen.write_greys(tmp_path / "train", GREYS)
    text = yield lambda: supervised.open_labelled(spec, "")
    (remedy,) = following.advised(text)
    assert remedy == {"data.test": "folder:DIR/test"}
    plain_frozen.write_greys(tmp_path / "test", GREYS)
    value = remedy["data.test"].replace("DIR", str(tmp_path))
    yield lambda: supervised.open_labelled(spec, value)


@ROWS.followed("evaluation/supervised.py:open_labelled", "two classes or more")
def source_of_one_class(tmp_path):
    two = plain_frozen.write_greys(tmp_path / "two", GREYS)
    (tmp_path / "list.txt").write_text("two/a/1.png\ta\ntwo/a/2.png\ta\n")
    one = f"list:{tmp_path / 'list.txt'}"
    yield lambda: supervised.open_labelled(one, one)
    yield lambda: supervised.open_labelled(two, one)


@ROWS.followed("evaluation/voting.py:check_labels", "kNN needs labels")
def bank_without_labels(tmp_path):
    spec = plain_frozen.write_greys(tmp_path, GREYS)
    source = sources.open_source(spec, 3)
    size = len(source)
    yield lambda: voting.check_labels(None, size, 2, "bank")
    yield lambda: voting.check_labels(source.labels, size, 2, "bank")


# Features.


@ROWS.followed("evaluation/features.py:_open_array", "Free space, then give")
def no_room_for_features(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    spec = plain_frozen.write_greys(tmp_path / "images", GREYS)
    extract = functools.partial(
        features.extract_to_disk,
        plain_frozen.make_frozen(),
        sources.open_source(spec, 3),
        tmp_path / "features",
    )
    monkeypatch.setattr(os, "posix_fallocate", full)
    yield extract
    monkeypatch.undo()
    yield extract


@ROWS.followed("evaluation/embeddings.py:choose_layers", "Pass --features=")
def features_that_an_encoder_lacks(tmp_path):
    spec = plain_frozen.write_greys(tmp_path / "images", GREYS)
    embed = functools.partial(
        embeddings.embed_source,
        plain_frozen.make_frozen(layers=("backbone",)),
        spec,
        tmp_path / "file.npz",
    )
    text = yield lambda: embed(layers=("projection",))
    yield lambda: embed(layers=(flag(text, "features"),))


@ROWS.followed("evaluation/embeddings.py:_check_same", "Give another --path")
def file_of_another_encoder(tmp_path):
    spec = plain_frozen.write_greys(tmp_path / "images", GREYS)
    path = tmp_path / "file.npz"

    def embed(identity, path):
        encoder = plain_frozen.make_frozen(identity=identity * 32)
        embeddings.embed_source(encoder, spec, path)

    embed("ab", path)
    yield lambda: embed("cd", path)
    yield lambda: embed("cd", tmp_path / "other.npz")
    path.rename(tmp_path / "moved.npz")
    yield lambda: embed("cd", path)


@ROWS.followed("evaluation/embeddings.py:load", "There is no file of")
def file_that_is_not_there(tmp_path):
    path = tmp_path / "file.npz"
    yield lambda: embeddings.load(path)
    spec = plain_frozen.write_greys(tmp_path / "images", GREYS)
    embeddings.embed_source(plain_frozen.make_frozen(), spec, path)
    yield lambda: embeddings.load(path)


@ROWS.followed("evaluation/embeddings.py:", "Move it away, and write it again")
def file_that_is_cut(tmp_path):
    path = tmp_path / "file.npz"
    spec = plain_frozen.write_greys(tmp_path / "images", GREYS)
    path.write_bytes(b"PK")
    yield lambda: embeddings.load(path)
    path.rename(tmp_path / "moved.npz")
    embeddings.embed_source(plain_frozen.make_frozen(), spec, path)
    yield lambda: embeddings.load(path)


# Neighbours.

FOUR = [[2.0, 0.0], [0.0, 1.0], [3.0, 3.0], [-1.0, 0.0]]


@ROWS.followed("evaluation/neighbours.py:_check", "--features={next")
def features_that_a_file_lacks():
    file = embedded(FOUR)
    text = yield lambda: neighbours.search(file, file, 1, "projection")
    layer = flag(text, "features")
    yield lambda: neighbours.search(file, file, 1, layer)


@ROWS.followed("evaluation/neighbours.py:_check", "same width")
def files_of_other_widths():
    wide = embedded(np.ones([3, 5]), "cd" * 32, "s2")
    yield lambda: neighbours.search(embedded(FOUR), wide, 1)
    again = embedded(FOUR[:3], source="s2")
    yield lambda: neighbours.search(embedded(FOUR), again, 1)


@ROWS.followed("evaluation/neighbours.py:_check", "same encoder")
def files_of_other_encoders():
    other = embedded(FOUR, "cd" * 32, "s2")
    yield lambda: neighbours.search(embedded(FOUR), other, 1)
    again = embedded(FOUR, "cd" * 32)
    yield lambda: neighbours.search(again, other, 1)


@ROWS.followed("evaluation/neighbours.py:_check", "k must be from 1")
def more_neighbours_than_images():
    file = embedded(FOUR)
    text = yield lambda: neighbours.search(file, file, 4)
    k = int(flag(text, "k"))
    yield lambda: neighbours.search(file, file, k)


@ROWS.followed("evaluation/neighbours.py:_check", "Embed more of them")
def single_image():
    file = embedded(FOUR[:1])
    yield lambda: neighbours.search(file, file, 1)
    yield lambda: neighbours.search(embedded(FOUR[:2]), file, 1)


def drawn(tmp_path):
    """A file of four images, and a search that draws them."""
    path = tmp_path / "file.npz"
    spec = plain_frozen.write_greys(tmp_path / "images", GREYS)
    encoder = plain_frozen.make_frozen()

    def embed():
        path.unlink(missing_ok=True)
        embeddings.embed_source(encoder, spec, path)

    embed()
    search = functools.partial(
        neighbours.search_files, path, path, 1, tmp_path / "out.csv"
    )
    return embed, search


@ROWS.followed("evaluation/neighbours.py:search_files", "larger --shown")
def grid_of_nothing(tmp_path):
    _, search = drawn(tmp_path)
    grid = tmp_path / "grid.png"
    yield lambda: search(grid_path=grid, shown=0)
    yield lambda: search(grid_path=grid, shown=1)
    yield lambda: search(shown=0)  # no grid


@ROWS.followed("evaluation/neighbours.py:_open_source", "Embed them again")
def grid_of_changed_images(tmp_path):
    embed, search = drawn(tmp_path)
    grid = tmp_path / "grid.png"
    (tmp_path / "images" / "a" / "3.png").unlink()
    yield lambda: search(grid_path=grid)
    yield search
    embed()
    yield lambda: search(grid_path=grid)


# kNN.


@ROWS.followed("evaluation/knn.py:_open", "Give one: --{name}=SOURCE")
def knn_without_a_source(tmp_path):
    spec = plain_frozen.write_greys(tmp_path / "images", GREYS)
    measure = functools.partial(
        knn.evaluate, plain_frozen.make_frozen(), tmp_path / "f", ks=(1,)
    )
    text = yield lambda: measure(bank=spec)
    assert "--query=SOURCE" in text
    yield lambda: measure(bank=spec, query=spec)


@ROWS.followed("evaluation/voting.py:check_k", "Lower k (config.knn.k")
def more_votes_than_images():
    yield lambda: voting.check_k(200, 50)
    yield lambda: voting.check_k(50, 50)
    yield lambda: voting.check_k(200, 200)


def finite(rows):
    """Rows of features, in the first of which there is a NaN."""
    broken = np.array(rows, np.float32)
    broken[0, 0] = np.nan
    return np.array(rows, np.float32), broken


@ROWS.followed("evaluation/voting.py:unit_rows", "an earlier --checkpoint")
def votes_of_a_diverged_encoder():
    earlier, rows = finite(FOUR)
    yield lambda: voting.nearest(rows, rows, 1)
    yield lambda: voting.nearest(earlier, earlier, 1)


@ROWS.followed(
    "evaluation/representation.py:_finite", "an earlier --checkpoint"
)
def figures_of_a_diverged_encoder():
    earlier, rows = finite(FOUR)
    yield lambda: representation.describe(rows)
    yield lambda: representation.describe(earlier)


# Linear probes and fine-tuning.


@ROWS.followed("evaluation/accuracy.py:summary", "Lower")
def diverged_classifier(tmp_path):
    rng = np.random.default_rng(0)
    rows = 1e3 * rng.standard_normal([40, 4]).astype(np.float32)
    labels = np.arange(40) % 2

    def constant(steps):
        return schedules.Step(1.0, (), steps)

    def probe(rate):
        recipe = cached_probe.Recipe((rate,), 4, constant, 0.9, 0.0, 8, 0)
        kept = np.ones(40, bool)
        weights = cached_probe.train_probe([rows], labels, kept, 2, recipe)
        accuracy.summary(cached_probe.scores(rows, weights)[0], labels)

    yield lambda: probe(1e38)
    yield lambda: probe(0.1)


def labelled(count, classes=2):
    """As much of LabelledSources as the checks look at."""
    source = arrays(np.arange(count) % classes)
    return types.SimpleNamespace(
        train=source,
        test=source,
        train_labels=source.labels,
        names=[str(n) for n in range(classes)],
    )


def task(command, fields, remedy=()):
    """The configuration of a command, with fields over fields."""
    texts = {k: str(v) for k, v in (fields | dict(remedy)).items()}
    return configs.load(command, texts, command)


def check_linear(fields, count=40, replicas=1):
    encoder = plain_frozen.make_frozen(layers=("backbone",))
    config = task("linear", fields)
    linear.check(config, encoder, labelled(count), replicas)


@ROWS.followed("evaluation/linear.py:check", "Pass --config.probe.features=")
def probe_of_features_that_are_missing():
    text = yield lambda: check_linear({"probe.features": "projection"}, 400)
    (remedy,) = following.advised(text)
    yield lambda: check_linear(remedy, 400)


@ROWS.followed("evaluation/linear.py:check", "train.batch_size must be")
def probe_of_few_images():
    text = yield lambda: check_linear({"train.batch_size": 64}, 40, 3)
    (remedy,) = following.advised(text)
    assert remedy == {"train.batch_size": "39"}
    yield lambda: check_linear(remedy, 40, 3)


def check_finetune(fields, count=40, replicas=1, classes=2):
    sets = labelled(count, classes)
    config = task("finetune", {"train.early_stopping": 0} | fields)
    parts = finetune.choose(config, sets)
    finetune.check(config, sets, *parts, replicas)


@ROWS.followed("evaluation/finetune.py:check", "train.batch_size must be")
def finetuning_of_few_images():
    fields = {"train.batch_size": 64, "data.holdout": 0}
    text = yield lambda: check_finetune(fields, 41, 2)
    (remedy,) = following.advised(text)
    assert remedy == {"train.batch_size": "40"}
    yield lambda: check_finetune(fields | remedy, 41, 2)


@ROWS.followed("evaluation/finetune.py:check", "need two images or more")
def finetuning_of_single_images():
    fields = {"train.batch_size": 2, "augment.mixup": 0.2, "data.holdout": 0}
    text = yield lambda: check_finetune(fields, 41, 2)
    (remedy,) = following.advised(text)
    yield lambda: check_finetune(fields | remedy, 41, 2)


@ROWS.followed("evaluation/finetune.py:check", "Early stopping needs")
def early_stopping_without_images():
    fields = {
        "train.batch_size": 8,
        "train.early_stopping": 3,
        "data.holdout": 0,
    }
    text = yield lambda: check_finetune(fields)
    for remedy in following.advised(text):
        yield lambda taken=fields | remedy: check_finetune(taken)


@ROWS.followed("evaluation/supervised.py:batch_remedy", "{fitting}")
def batch_that_fits():
    yield lambda: supervised.batch_remedy(64, 40, 2)
    yield lambda: supervised.batch_remedy(64, 1, 2)


@ROWS.followed("evaluation/supervised.py:batch_remedy", "Give {least} images")
def fewer_images_than_replicas():
    fields = {"train.batch_size": 8, "data.holdout": 0}
    text = yield lambda: check_finetune(fields, 3, 4)
    assert "Give 4 images" in text
    yield lambda: check_finetune(fields | {"train.batch_size": 4}, 4, 4)
    yield lambda: check_finetune(fields | {"train.batch_size": 2}, 3, 1)


@ROWS.followed("evaluation/linear.py:train_cached", "Give one rate, such as")
def rates_without_held_out_images(tmp_path):
    greys = {"a/1.png": 9, "b/1.png": 90}  # one image of each class
    spec = plain_frozen.write_greys(tmp_path / "images", greys)
    sets = supervised.open_labelled(spec, spec)
    fields = {
        "train.batch_size": 2,
        "train.epochs": 2,
        "schedule.milestones": "1",
    }

    def train(rates):
        config = task("linear", fields | rates)
        encoder = plain_frozen.make_frozen()
        linear.train_cached(config, encoder, sets, tmp_path / "features")

    text = yield lambda: train({"probe.rates": "1,30"})
    (remedy,) = following.advised(text)
    yield lambda: train(remedy)


@ROWS.followed("evaluation/linear.py:_cropped", "Remove {folder}")
def images_that_were_mended_between(tmp_path):
    plain_frozen.write_greys(tmp_path / "images", GREYS)
    mended = tmp_path / "images" / "a" / "1.png"
    whole = mended.read_bytes()
    source = sources.open_source(f"folder:{tmp_path / 'images'}", 3)
    encoder, folder = plain_frozen.make_frozen(), tmp_path / "features"

    def crops():
        plain = features.extract_to_disk(encoder, source, folder)
        config = task("linear", {"probe.views": 1})
        linear._cropped(config, encoder, source, plain, folder)

    # The plain features are of a time when an image could not be read.
    mended.write_bytes(whole[:20] + bytes(len(whole) - 20))
    features.extract_to_disk(encoder, source, folder)
    mended.write_bytes(whole)
    yield crops
    shutil.rmtree(folder)
    yield crops


ROWS.within(
    ("evaluation/finetune.py:check", "Early stopping needs"),
    ("evaluation/finetune.py:check", "--config.train.early_stopping=0"),
    ("evaluation/finetune.py:check", "--config.data.holdout=0.1"),
)
ROWS.tested(
    "tests/evaluation/test_finetune.py::"
    "test_a_run_that_diverges_says_what_to_lower_and_where",
    ("evaluation/supervised.py:_make_callback", "in another --output"),
)
ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("evaluation/embeddings.py:check_path", "must be named .npz"),
    ("evaluation/frozen.py:open_frozen", "One encoder must be named"),
    ("evaluation/frozen.py:_open_saved_model", "must be a folder with"),
    ("evaluation/frozen.py:_keras_model", "must have one input"),
    ("evaluation/frozen.py:_load_model", "must have a signature"),
    ("evaluation/knn.py:evaluate", "features must be both or one"),
    ("evaluation/neighbours.py:_rows_named", "names begin with"),
    ("evaluation/supervised.py:balanced", "A fraction of labels"),
    ("evaluation/supervised.py:split", "holdout must be"),
    ("evaluation/voting.py:check_temperature", "must be above 0"),
    ("evaluation/voting.py:check_scores", "or more. Received"),
)
ROWS.states(
    following.PART_OF_ANOTHER,
    # What is damaged is set aside here, and made again.
    ("evaluation/embeddings.py:load", "is not a complete file of"),
    ("evaluation/embeddings.py:_ParquetRows._group", "is damaged"),
    ("evaluation/features.py:_read_state", "does not say how many rows"),
    ("evaluation/features.py:_check_arrays", "has changed since"),
    ("evaluation/results.py:_read_result", "lacks"),
    ("evaluation/embeddings.py:_map_npz", "is compressed"),
    ("evaluation/embeddings.py:_map_npz", "must be float32"),
    ("evaluation/embeddings.py:_ParquetRows.__init__", "must be lists of"),
)
ROWS.states(
    following.OF_A_CALLER,
    ("evaluation/knn.py:check", "at least one query"),  # no source is empty
    ("evaluation/label_augment.py:SeededDraws._next", "inside use(seed)"),
    ("evaluation/linear.py:_measure", "weights have changed"),
    ("evaluation/representation.py:alignment", "two views of the same"),
    ("evaluation/representation.py:_check", "rows of features or more"),
    ("evaluation/supervised.py:_ranks", "needs labels [N]"),
    ("evaluation/voting.py:nearest", "of the same C"),
    ("evaluation/voting.py:check_labels", "one label per image"),
    ("evaluation/voting.py:check_labels", "from 0 to classes - 1"),
    ("evaluation/voting.py:hits", "at least one query, one k"),
)


def against_the_start(*gained):
    """The verdict on checkpoints that class so many more of 1,000 queries."""
    rows = [
        {
            "step": step,
            "knn_backbone": 0.5 + count / 1000,
            "gained_backbone": 100 + max(count, 0),
            "lost_backbone": 100 + max(-count, 0),
            "knn_queries": 1000,
        }
        for step, count in enumerate(gained, start=1)
    ]
    return verdict.of_rows(rows)


@ROWS.followed("evaluation/verdict.py:of_rows", "Pass --checkpoint=best")
def a_run_whose_best_is_not_its_last():
    from moco_tf.cli import flags, main

    text = yield lambda: against_the_start(10, 120, -50).words
    assert text.startswith("kept: step 2")
    words = ["export", "--workdir=x", "--checkpoint=best"]
    assert flags.parse(words, main.COMMANDS)[1].checkpoint == "best"
    yield lambda: against_the_start(10, 120).words


@ROWS.followed("evaluation/verdict.py:of_rows", "do not use this run")
def a_run_that_is_worse_than_its_start():
    yield lambda: against_the_start(10, -50, -120).words
    yield lambda: against_the_start(10, 50, 120).words


@ROWS.followed("evaluation/monitor.py:", "name labelled images")
def a_run_without_knn(tmp_path):
    images = plain_frozen.write_greys(tmp_path, GREYS)

    def lines(**votes):
        fields = {f"knn.{name}": text for name, text in votes.items()}
        config = configs.load("moco_cifar10", {"knn.sample": "0", **fields})
        return monitor.describe(monitor.of_run(config, 1, None))

    yield lines
    yield lambda: lines(bank=images, query=images, k="2")


@ROWS.followed("evaluation/in_memory.py:encode", "Give one or more")
def no_image():
    encoder = plain_frozen.make_frozen()
    pixels = np.zeros([1, 8, 8, 3], np.uint8)
    yield lambda: in_memory.encode(encoder, [], "backbone")
    yield lambda: in_memory.encode(encoder, pixels, "backbone")


@ROWS.followed("evaluation/in_memory.py:_of_pil", "Give a uint8 array of 0 to")
def image_of_32_bits():
    grey = np.full([4, 4], 0.5, np.float32)
    yield lambda: in_memory._pixels(Image.fromarray(grey), 3)
    pixels = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)
    yield lambda: in_memory._pixels(pixels, 3)


@ROWS.followed("evaluation/in_memory.py:_pixels", "Multiply fractions by 255")
def fractions_for_pixels():
    image = np.full([4, 4, 3], 0.5, np.float32)
    yield lambda: in_memory._pixels(image, 3)
    yield lambda: in_memory._pixels((image * 255).astype(np.uint8), 3)
