"""What a configuration is refused for, and that what is advised is taken."""

import os
import shlex
import sys
import types

from moco_tf import config as configs
from moco_tf import lane, naming, plan
from moco_tf.methods import table
from tests.remedies import following, messages

ROWS = following.Rows(
    "config_schema.py", "lane.py", "naming.py", "plan.py", "methods/*.py"
)

GROUPS = "config_schema.py:_larger_groups"
BATCH = ("train.batch_size", "model.bn_groups")


def check(preset, fields, replicas=1):
    """Loads a configuration as the command line does, and checks it."""
    given = {"data.source": "shapes:train"} | fields
    config = configs.load(preset, {k: str(v) for k, v in given.items()})
    plan.check(config, replicas)


def small(batch, groups, **more):
    """Fields of a batch in so many groups, with __ for the dot."""
    more = {key.replace("__", "."): value for key, value in more.items()}
    return {"train.batch_size": batch, "model.bn_groups": groups} | more


# place, words, preset, fields that are refused, replicas, and the remedies:
# fields that the message has in words; those that it writes out follow.
CASES = [
    (
        "config_schema.py:check_source",
        "Pass --config.data.source=folder:DIR",
        ("moco_cifar10", {"data.source": ""}, 1),
        [{"data.source": "shapes:train"}],
    ),
    (
        "config_schema.py:check_relations",
        "Each group of model.bn_groups must hold",
        ("moco_cifar10", small(512, 512), 1),
        [],
    ),
    (
        "config_schema.py:check_relations",
        "knn.bank and knn.query must both",
        ("moco_cifar10", {"knn.bank": "shapes:train", "knn.query": ""}, 1),
        [],
    ),
    (
        GROUPS,
        "--config.model.bn_groups={fewer}",
        # One of 4 groups would not divide among 2 replicas of 2 parts.
        ("moco_cifar10", small(12, 12, train__micro_batches=2), 2),
        [],
    ),
    (
        GROUPS,
        "--config.train.batch_size={batch}",
        ("moco_cifar10", small(1, 1), 1),
        [],
    ),
    (
        "config_schema.py:_check_small_views",
        "two rising shares",
        ("swav_imagenet", {"data.small_scale": "0.3,0.1"}, 1),
        [],
    ),
    (
        "config_schema.py:_check_small_views",
        "data.small_size must be below",
        ("swav_imagenet", {"data.small_size": 224}, 1),
        [],
    ),
    (
        "config_schema.py:_check_patches",
        "model.patch must be an even number",
        ("cpc_imagenet", {"model.patch": 63}, 1),
        [],
    ),
    (
        "config_schema.py:_check_patches",
        "Change data.image_size",
        (
            "cpc_imagenet",
            {"data.image_size": 11, "model.patch": 4, "cpc.rows": 1},
            1,
        ),
        [{"data.image_size": 12}],
    ),
    (
        "config_schema.py:_check_patches",
        "Pass --config.model.patch={near}",
        ("cpc_imagenet", {"data.image_size": 300, "model.patch": 7}, 1),
        [],
    ),
    (
        "config_schema.py:_check_synchronized",
        "must be 1 where model.sync_bn",
        (
            "moco_cifar10",
            small(64, 4, model__sync_bn="true", train__micro_batches=2),
            2,
        ),
        [],
    ),
    (
        "config_schema.py:_check_synchronized",
        "train.jit_compile must be false",
        (
            "moco_cifar10",
            small(64, 1, model__sync_bn="true", train__jit_compile="true"),
            2,
        ),
        [],
    ),
    (
        "config_schema.py:_check_divisors",
        "must divide",
        ("moco_cifar10", small(100, 8), 1),
        [{"train.batch_size": 104}, {"model.bn_groups": 10}],
    ),
    (
        "config_schema.py:check_schedule",
        "schedule.warmup_epochs must be below",
        ("moco_cifar10", {"schedule.warmup_epochs": 1, "train.epochs": 1}, 1),
        [],
    ),
    (
        "config_schema.py:check_schedule",
        "schedule.milestones must rise",
        ("moco_v1_imagenet", {"train.epochs": 100}, 1),
        [],
    ),
    (
        "methods/moco.py:MoCo.check",
        "--config.moco.queue_size={keys} or more",
        ("moco_cifar10", {"moco.queue_size": 100}, 1),
        [{"moco.queue_size": 512}, {"train.batch_size": 96}],
    ),
    (
        "methods/swav.py:SwAV.check",
        "Raise config.swav.queue_size to",
        ("swav_small_batch", {"swav.queue_size": 100}, 1),
        [{"swav.queue_size": 256}],
    ),
    (
        "methods/cpc.py:CPC.check",
        "Pass --config.model.norm=layer",
        ("cpc_imagenet", {"model.norm": "batch"}, 1),
        [],
    ),
    (
        "methods/cpc.py:CPC.check",
        "Pass --config.model.head=fc",
        ("cpc_imagenet", {"model.head": "dino_bn"}, 1),
        [{"model.head": "mlp"}],
    ),
    (
        "methods/cpc.py:CPC.check",
        "Pass --config.cpc.rows=",
        ("cpc_imagenet", {"cpc.rows": 7}, 1),
        [{"model.patch": 32}],
    ),
    (
        "methods/dictionaries.py:check_loss",
        "needs train.micro_batches=1",
        (
            "memory_bank_imagenet",
            {"memory_bank.loss": "nce", "train.micro_batches": 2},
            1,
        ),
        [],
    ),
    (
        "methods/two_views.py:TwoViews.check",
        "Pass --config.model.input=",
        ("cmc_imagenet", {"model.input": "rgb"}, 1),
        [],
    ),
    (
        "methods/two_views.py:TwoViews.check",
        "Pass --config.data.small_views=0",
        ("memory_bank_imagenet", {"data.small_views": 2}, 1),
        [],
    ),
    (
        "methods/two_views.py:TwoViews.refuse_micro_batches",
        "needs train.micro_batches=1",
        ("simclr_cifar10", {"train.micro_batches": 2}, 1),
        [{"train.micro_batches": 1, "model.recompute": "true"}],
    ),
]


def _add(place, words, refused, more):
    preset, fields, replicas = refused

    @ROWS.followed(place, words)
    def row():
        text = yield lambda: check(preset, fields, replicas)
        written = following.advised(text[text.find("Received") :])
        written = [
            {k: "shapes:test" if v == "SOURCE" else v for k, v in x.items()}
            for x in written
            if "folder:DIR" not in x.values()
            and x != {"model.recompute": "true"}
        ]
        assert written or more, text
        for remedy in (*written, *more):
            yield lambda taken=fields | remedy: check(preset, taken, replicas)


for _case in CASES:
    _add(*_case)


@ROWS.followed("config_schema.py:_field", "There is no field")
def unknown_field():
    text = yield lambda: configs.load("moco_cifar10", {"moco.queue": "1024"})
    name = following.suggested(text).removeprefix("config.")
    yield lambda: configs.load("moco_cifar10", {name: "1024"})


@ROWS.followed("naming.py:suggestion", "Did you mean")
def misspelt_name():
    text = yield lambda: naming.suggestion("quickstrat", configs.names())
    name = following.suggested(text)
    yield lambda: naming.nearest(name, [name])


@ROWS.followed("config_schema.py:check_field", "must be one of")
def unknown_name():
    text = yield lambda: check("moco_cifar10", {"schedule.name": "cosin"})
    name = following.suggested(text)
    yield lambda: check("moco_cifar10", {"schedule.name": name})


@ROWS.followed("plan.py:check", "keeps stages of weights that are there")
def frozen_stage_of_random_weights():
    fields = {"model.freeze": "stem, stage1"}
    text = yield lambda: check("moco_v2_imagenet", fields)
    path, freeze = following.advised(text)
    assert freeze == {"model.freeze": ""}
    # tests/test_branching.py starts from weights that are there.
    yield lambda: check("moco_v2_imagenet", fields | path)
    yield lambda: check("moco_v2_imagenet", fields | freeze)


@ROWS.followed("plan.py:check", "must name a known backbone")
def unknown_backbone():
    text = yield lambda: check("moco_cifar10", {"model.backbone": "resnet_50"})
    name = following.suggested(text)
    yield lambda: check("moco_cifar10", {"model.backbone": name})


@ROWS.followed("methods/table.py:fields", "config.method must name a method")
def unknown_method():
    text = yield lambda: table.fields("mocov2")
    yield lambda: table.fields(following.suggested(text))


@ROWS.followed(
    "methods/dictionaries.py:KeyQueue.enqueue", "Use a larger queue or a"
)
def queue_of_less_than_a_step():
    import numpy as np

    from moco_tf.methods import dictionaries

    def enqueue(size, count):
        queue = dictionaries.KeyQueue(size, 2)
        keys = np.ones([count, 2], np.float32)
        queue.enqueue(keys, np.arange(count), np.int64(0))

    yield lambda: enqueue(4, 6)
    yield lambda: enqueue(6, 6)
    yield lambda: enqueue(4, 4)


@ROWS.followed(
    "methods/two_views.py:_refuse_shared_statistics", "swap_batch_norm"
)
def statistics_of_replicas():
    import tensorflow as tf

    from moco_tf.methods import two_views
    from moco_tf.models import cloning

    inputs = tf.keras.Input([4, 4, 3])
    x = tf.keras.layers.BatchNormalization()(inputs)
    backbone = tf.keras.Model(inputs, tf.keras.layers.Flatten()(x))
    refuse = two_views._refuse_shared_statistics
    yield lambda: refuse(backbone)
    yield lambda: refuse(cloning.swap_batch_norm(backbone))


def start_with_probe(labels, fields=None):
    """Makes the plan of a run with a probe, over 16 images."""
    import numpy as np
    import tensorflow as tf

    from moco_tf.data import sources

    pixels = np.zeros([16, 32, 32, 3], np.uint8)
    source = sources.ArraySource(pixels, labels, None, "images")
    given = {"data.source": "shapes:train", "probe.online": "true"}
    given |= small(8, 2) | (fields or {})
    config = configs.load("moco_cifar10", {k: str(v) for k, v in given.items()})
    plan.make(config, tf.distribute.get_strategy(), source)


@ROWS.followed("plan.py:_probe_labels", "Or train without the probe")
def probe_of_images_without_labels():
    text = yield lambda: start_with_probe(None)
    (remedy,) = following.advised(text)
    yield lambda: start_with_probe(None, remedy)


@ROWS.followed("plan.py:_probe_labels", "needs two classes or more")
def probe_of_one_class():
    import numpy as np

    one, two = np.zeros(16, np.int64), np.arange(16) % 2
    text = yield lambda: start_with_probe(one)
    source, without = following.advised(text)
    assert source == {"data.source": "SOURCE"}
    yield lambda: start_with_probe(two)
    yield lambda: start_with_probe(one, without)


@ROWS.followed("methods/online_probe.py:_refusal", "needs a method that calls")
def probe_of_a_method_that_shows_no_features():
    import numpy as np
    import tensorflow as tf

    from moco_tf.methods import online_probe

    def step(batch):
        return {"loss": tf.reduce_sum(batch["index"])}

    batch = {"index": tf.constant([0, 1], tf.int64)}
    labels = online_probe.Labels(np.array([0, 1]), 2)
    probe = online_probe.OnlineProbe(3, labels, 1.0)
    text = yield lambda: probe.follow(step, batch)
    assert following.advised(text) == [{"probe.online": "false"}]
    yield lambda: step(batch)  # what is done then


ROWS.within(
    ("config_schema.py:_check_divisors", "must divide"),
    *(
        ("config_schema.py:_divisible", words)
        for words in (
            "--config.model.bn_groups=1 --config.train.micro_batches=1",
            "--config.train.batch_size={batch}",
            "--config.model.bn_groups={near}",
        )
    ),
)
ROWS.within(
    (
        "methods/two_views.py:TwoViews.refuse_micro_batches",
        "needs train.micro_batches=1",
    ),
    (
        "methods/two_views.py:TwoViews.refuse_micro_batches",
        "--config.model.recompute=true",
    ),
)
ROWS.within(
    ("config_schema.py:_check_small_views", "data.small_size must be below"),
    ("config_schema.py:_check_small_views", "data.small_size={size}"),
    ("config_schema.py:_check_small_views", "--config.data.small_views=0"),
)
ROWS.within(
    (
        "config_schema.py:_check_synchronized",
        "must be 1 where model.sync_bn",
    ),
    ("config_schema.py:_check_synchronized", "train.micro_batches=1"),
    ("config_schema.py:_check_synchronized", "model.sync_bn=false"),
)
ROWS.within(
    ("config_schema.py:check_schedule", "schedule.milestones must rise"),
    ("config_schema.py:check_schedule", "milestones={epochs * 3"),
)
# test_configuration.py follows these where the others do not fit.
ROWS.tested(
    "tests/remedies/test_configuration.py::"
    "test_schedules_that_are_advised_are_taken",
    ("config_schema.py:check_schedule", "name=cosine"),
)
ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("config_schema.py:parse", "must be"),
    ("config_schema.py:coerce", "must be"),
    ("config_schema.py:check_field", "{_bounds(field)}"),
    # Its field, or CPC.check, refuses the same before.
    ("methods/cpc.py:CPC.__init__", "rows must lie in"),
    ("methods/cpc.py:CPC.__init__", "patch_jitter must lie in"),
    ("methods/dictionaries.py:check_loss", "loss must be one of"),
    ("methods/dino.py:DINO.__init__", "Temperatures must be above 0"),
    ("methods/momentum.py:check_momentum", "momentum must lie in"),
    ("methods/swav.py:SwAV.__init__", "temperature and epsilon"),
    ("methods/two_views.py:TwoViews.__init__", "shuffle_keys must be"),
    ("methods/two_views.py:Contrastive.__init__", "temperature must be"),
)
ROWS.states(
    following.OF_A_CALLER,
    ("methods/byol.py:BYOL.__init__", "total_steps must be"),
    ("methods/cmc.py:CMC.__init__", "those of two sensors"),
    ("methods/two_views.py:TwoViews.first_pass", "has no first pass"),
    ("methods/method.py:Method.backbone", "names no backbone"),
    ("methods/method.py:Method.trained_variables", "names no variables"),
    ("methods/method.py:StepLog.read", "The step log holds"),
)


def on_later_tensorflow(monkeypatch, value, keras="tf_keras"):
    """Stands in for TensorFlow 2.21, which is loaded, with Keras of a package.

    Args:
      value: of TF_USE_LEGACY_KERAS; None: unset.
    """
    monkeypatch.setattr(lane, "NAME", "current")
    monkeypatch.setattr(lane, "TENSORFLOW", "2.21.0")
    monkeypatch.setattr(lane, "is_installed", lambda module: True)
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    if value is not None:
        monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    monkeypatch.setattr(lane, "KERAS", "tf_keras")
    model = type("Model", (), {"__module__": f"{keras}.src.models"})
    loaded = types.SimpleNamespace(keras=types.SimpleNamespace(Model=model))
    monkeypatch.setitem(sys.modules, "tensorflow", loaded)


@ROWS.followed("lane.py:choose_keras", "Install it: pip install tf-keras")
def tf_keras_is_missing(monkeypatch):
    on_later_tensorflow(monkeypatch, None)
    monkeypatch.setattr(lane, "is_installed", lambda module: False)
    text = yield lane.choose_keras
    # The lock of that lane has a version that fits what is advised.
    advised = shlex.split(text.rpartition("pip install ")[2])[0]
    name, _, release = advised.partition("~=")
    assert (
        f"\n{name}=={release}"
        in (messages.ROOT / "requirements-current.txt").read_text()
    )
    monkeypatch.setattr(lane, "is_installed", lambda module: True)
    yield lane.choose_keras


@ROWS.followed("lane.py:choose_keras", "Remove it: unset")
def keras_3_is_chosen_by_the_environment(monkeypatch):
    on_later_tensorflow(monkeypatch, "0")
    text = yield lane.choose_keras
    monkeypatch.delenv(text.rpartition("unset ")[2].strip())
    yield lane.choose_keras
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


@ROWS.followed("lane.py:choose_keras", "before tensorflow, or start with")
def tensorflow_has_keras_3_already(monkeypatch):
    on_later_tensorflow(monkeypatch, None, "keras")
    yield lane.choose_keras
    on_later_tensorflow(monkeypatch, "1")  # as it says
    yield lane.choose_keras
    monkeypatch.delitem(sys.modules, "tensorflow")
    yield lane.choose_keras
