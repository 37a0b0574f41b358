"""On a GPU a step runs there, from the first operation to the last.

The steps of every method on one replica and two are looked at where they are
traced, in methods/test_every_method.py, those with either shuffle in
methods/test_shuffle.py. Here are faults that must be named, and modes of a
step.
"""

import fnmatch

import pytest
import tensorflow as tf

from benchmarks import placement
from moco_tf.methods import memory_bank, table
from tools import gpu_placement

FLOATS = tf.TensorSpec([8, 4], tf.float32)
BYTES = tf.TensorSpec([8, 4, 4, 3], tf.uint8)
NUMBERS = tf.TensorSpec([8], tf.int64)


def faults_of(function, *specs):
    """(kind, operation) of the faults of a function, in the graph's order."""
    traced = tf.function(function, autograph=False)
    graph = traced.get_concrete_function(*specs).graph
    return [fault[:2] for fault in gpu_placement.faults(graph)]


def compare_integers(x):
    return tf.cast(tf.cast(x, tf.int32) < 3, tf.float32)


def gather_bytes(images, order):
    return tf.gather(images, order)


def read_shape(x):
    count = tf.cast(tf.reduce_sum(x), tf.int32)
    return x[:count]


def branch(x):
    return tf.cond(tf.reduce_any(x > 0.0), lambda: x, lambda: -x)


def without_kernel(x):
    images = x[tf.newaxis, ..., tf.newaxis]
    return tf.image.resize(images, [2, 2], antialias=True)


PLANTED = {
    "an int32 comparison": (
        (compare_integers, FLOATS),
        {(gpu_placement.READ_BACK, "Less")},
    ),
    "a uint8 gather": (
        (gather_bytes, BYTES, NUMBERS),
        {
            (gpu_placement.NO_KERNEL, "GatherV2"),
            (gpu_placement.READ_BACK, "GatherV2"),
        },
    ),
    "a shape that is read back": (
        (read_shape, FLOATS),
        {(gpu_placement.READ_BACK, "Pack")},
    ),
    "a condition on the GPU's value": (
        (branch, FLOATS),
        {(gpu_placement.READ_BACK, "StatelessIf")},
    ),
    "an operation without a GPU kernel": (
        (without_kernel, FLOATS),
        {
            (gpu_placement.NO_KERNEL, "ScaleAndTranslate"),
            (gpu_placement.READ_BACK, "ScaleAndTranslate"),
        },
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_is_named(name):
    function, expected = PLANTED[name]
    assert expected <= set(faults_of(*function))


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_inside_a_loop_in_a_function_is_named(name):
    (function, *specs), expected = PLANTED[name]
    inner = tf.function(
        lambda *x: tf.reduce_sum(tf.cast(function(*x), tf.float32)),
        autograph=False,
    )

    def outer(*values):
        def body(number, total):
            return number + 1, total + inner(*values)

        return tf.while_loop(lambda number, _: number < 3, body, (0, 0.0))

    assert expected <= set(faults_of(outer, *specs))


def test_the_same_in_floats_has_no_fault():
    def step(x, images, order):
        small = tf.cast(x < 3.0, tf.float32)
        words = tf.bitcast(tf.reshape(images, [8, 6, 8]), tf.int64)
        images = tf.bitcast(tf.gather(words, order), tf.uint8)
        chosen = tf.where(tf.reduce_any(x > 0.0), x, -x)
        return small, images, chosen[: x.shape[0] // 2]

    assert faults_of(step, FLOATS, BYTES, NUMBERS) == []


def test_the_host_that_waits_for_the_gpu_is_named():
    def step(x):
        with tf.control_dependencies([tf.exp(x)]):
            return tf.timestamp()

    assert faults_of(step, FLOATS) == [
        (gpu_placement.NO_KERNEL, "Timestamp"),
        (gpu_placement.WAIT, "Timestamp"),
    ]


def test_integers_that_a_step_is_given_are_read_back():
    assert faults_of(lambda x: x + 1, tf.TensorSpec([8], tf.int32)) == [
        (gpu_placement.READ_BACK, "Placeholder")
    ]
    assert faults_of(lambda x: x + 1, NUMBERS) == []


def test_a_matrix_of_integers_is_computed_on_the_host():
    def step(x):
        rows = tf.range(x.shape[0])
        return tf.where(rows[:, tf.newaxis] == rows, x @ tf.transpose(x), 0.0)

    assert faults_of(step, FLOATS) == [(gpu_placement.HOST_MATRIX, "SelectV2")]


def test_what_xla_compiles_is_asked_of_xla():
    @tf.function(jit_compile=True, autograph=False)
    def compiled(x):
        return compare_integers(x)  # there integers stay on the GPU

    @tf.function(jit_compile=True, autograph=False)
    def refused(x):
        return branch(compiled(x)), tf.timestamp()

    assert faults_of(lambda x: compiled(x), FLOATS) == []
    assert faults_of(lambda x: refused(x), FLOATS) == [
        (gpu_placement.READ_BACK, "StatelessIf"),
        (gpu_placement.NO_XLA, "Timestamp"),
    ]


# Of these modes every method has the same operations.
MODES = {
    "micro-batches in float16": (
        "moco",
        {
            "moco__symmetric": True,
            "moco__batch_negatives": True,
            "moco__mask_same_image": True,
            "moco__shuffle": "gather",
            "train__micro_batches": 2,
            "train__precision": "mixed_float16",
            "model__bn_groups": 4,
        },
    ),
    "recomputed by XLA": ("moco", placement.MODES["recompute, XLA"]),
    "views that the device finishes, LARS": (
        "byol",
        placement.MODES["device"] | placement.MODES["lars"],
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_step_stays_on_the_gpu(mode):
    name, fields = MODES[mode]
    graph = placement.traced(name, tf.distribute.get_strategy(), **fields)
    assert gpu_placement.unexpected(graph) == []


# Fields that a step's operations do not depend on: they are numbers and sizes
# in them, or of what happens beside the steps.
BESIDE = (
    *(
        "method",
        "seed",
        "log.*",
        "checkpoint.*",
        "knn.*",
        "probe.learning_rate",
    ),
    *("data.source", "data.views", "data.strength", "data.image_size"),
    *("data.threads", "data.max_corrupt_fraction", "data.small_s*"),
    *("model.backbone", "model.width", "model.stem", "model.dim"),
    *("model.hidden", "model.patch", "model.init_head"),
    "model.input",  # a method's own
    *("optimizer.learning_rate", "optimizer.momentum"),
    *("optimizer.weight_decay", "optimizer.scaling"),
    *("schedule.factor", "schedule.unit", "schedule.first_epoch"),
    *("train.batch_size", "train.epochs", "train.max_steps", "train.tf32"),
    *("*.temperature", "*.momentum", "*.negatives", "*.teacher_temperature"),
    *("moco.queue_size", "moco.fill_queue", "swav.prototypes"),
    *("swav.epsilon", "swav.iterations", "dino.outputs"),
    *("dino.first_teacher_temperature", "dino.center_momentum"),
    *("cpc.rows", "cpc.blocks"),
)


@pytest.mark.parametrize("method", table.METHODS)
def test_a_field_that_changes_a_step_is_in_a_mode(method):
    modes = [placement.MODES, placement.OWN_MODES.get(method, {})]
    modes.append(placement.OWN_MODES["moco"])  # what all methods share
    traced = {
        field.replace("__", ".")
        for fields in modes
        for mode in fields.values()
        for field in mode
    }
    for field in table.fields(method):
        beside = any(fnmatch.fnmatch(field, name) for name in BESIDE)
        assert beside != (field in traced), field


def test_the_probes_step_stays_on_the_gpu():
    graph = placement.traced_probe(tf.distribute.get_strategy())
    assert gpu_placement.unexpected(graph) == []


def test_faults_of_a_methods_step_are_unexpected(monkeypatch):
    step = memory_bank.MemoryBank.train_step

    def with_faults(self, batch):
        metrics = step(self, batch)
        images = gather_bytes(batch["query"], batch["index"] % 8)
        values = tf.cast(images, tf.float32)[:, 0, 0]
        for function in (compare_integers, read_shape, branch, without_kernel):
            values = tf.reshape(function(values)[:1], [1, -1])
        return metrics | {"loss": metrics["loss"] + tf.reduce_sum(values)}

    monkeypatch.setattr(memory_bank.MemoryBank, "train_step", with_faults)
    strategy = tf.distribute.get_strategy()
    graph = placement.traced("memory_bank", strategy)
    lines = gpu_placement.unexpected(graph)
    for operation in (
        "GatherV2",
        "Less",
        "Pack",
        "StatelessIf",
        "ScaleAndTranslate",
    ):
        assert any(f": {operation}(" in line for line in lines), operation
