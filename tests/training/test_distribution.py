import subprocess
import sys

import pytest
import tensorflow as tf

from moco_tf.training import distribution


@pytest.mark.parametrize(
    "devices, expected",
    [
        ("auto", ("auto", None)),
        ("cpu", ("cpu", None)),
        ("cpu:4", ("cpu", 4)),
        ("gpu", ("gpu", None)),
        ("gpu:12", ("gpu", 12)),
    ],
)
def test_forms_of_devices(devices, expected):
    assert distribution.parse_devices(devices) == expected


@pytest.mark.parametrize(
    "devices", ["", "cpus", "cpu:", "cpu:0", "cpu:-1", "auto:2", "tpu", "gpu:a"]
)
def test_another_form_is_refused(devices):
    with pytest.raises(ValueError, match="auto, cpu, cpu:N, gpu or gpu:N"):
        distribution.make_strategy(devices)


def test_gpus_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"asks for 99 GPU\(s\)"):
        distribution.make_strategy("gpu:99")


def test_one_cpu_is_the_default_strategy():
    strategy = distribution.make_strategy("cpu")
    assert strategy.num_replicas_in_sync == 1
    assert not tf.distribute.has_strategy()


def _python(code):
    """Runs code in a process of its own, as devices are set once a process."""
    code = (
        "import tensorflow as tf\n"
        "from moco_tf.training import distribution\n" + code
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_logical_cpus_are_mirrored():
    """Two replicas, numbered 0 and 1; a late change is refused clearly."""
    lines = _python("""
strategy = distribution.make_strategy("cpu:2")
ids = strategy.run(
    lambda: tf.distribute.get_replica_context().replica_id_in_sync_group)
print(type(strategy).__name__, [int(i) for i in ids.values])
try:
    distribution.make_strategy("cpu:3")
except ValueError as error:
    print(error)
distribution.set_precision(True)
print(tf.config.experimental.tensor_float_32_execution_enabled())
distribution.set_precision(False)
print(tf.config.experimental.tensor_float_32_execution_enabled())
""")
    assert lines[0] == "MirroredStrategy [0, 1]"
    assert "only before TensorFlow's first operation" in lines[1]
    assert lines[2:] == ["True", "False"]
