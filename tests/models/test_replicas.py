"""BatchNorm under MirroredStrategy, in a process with two logical devices."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import encoder, heads, resnet
from tests import forked, shallow

# Replica r sees rows r * 4 to r * 4 + 3; then the statistics of each replica
# and a checkpoint.
SCRIPT = """
import sys
import numpy as np
import tensorflow as tf
from moco_tf.models import encoder, heads, resnet
from tests import shallow
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with shallow.network(shallow.ONE_BLOCK), strategy.scope():
    query = encoder.Encoder(
        resnet.resnet(18, 0.125, "cifar", image_size=8),
        heads.projection_head("fc", 8, 4))
    key = query.clone()
images = np.load(sys.argv[1])
rows = strategy.experimental_distribute_values_from_function(
    lambda c: tf.constant(np.split(images, 2)[c.replica_id_in_sync_group]))
run = tf.function(lambda x: strategy.run(
    lambda v: key(v, training=True), args=(x,)))
outputs = strategy.experimental_local_results(run(rows))
bn = key.backbone.get_layer("bn1")
np.savez(sys.argv[2], outputs=np.concatenate(outputs),
         features=key.features(images)[1],
         **{f"mean{r}": v.numpy() for r, v in enumerate(
             strategy.experimental_local_results(bn.moving_mean))})
tf.train.Checkpoint(encoder=key).write(sys.argv[3])
"""


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory):
    """What the script computes: its arrays, its checkpoint and its images."""
    folder = tmp_path_factory.mktemp("replicas")
    rng = np.random.default_rng(0)
    images = rng.standard_normal([8, 8, 8, 3]).astype(np.float32)
    np.save(folder / "images.npy", images)
    paths = [folder / name for name in ("images.npy", "out.npz", "checkpoint")]
    done = forked.run([sys.executable, "-c", SCRIPT, *paths])
    assert done.returncode == 0, done.stderr
    return np.load(paths[1]), str(paths[2]), images


def restored(checkpoint):
    """An encoder of this process, one replica, with the checkpoint's values."""
    with shallow.network(shallow.ONE_BLOCK):
        model = encoder.Encoder(
            resnet.resnet(18, 0.125, "cifar", image_size=8),
            heads.projection_head("fc", 8, 4),
        )
    status = tf.train.Checkpoint(encoder=model).read(checkpoint)
    status.assert_consumed().assert_existing_objects_matched()
    return model


def test_a_checkpoint_of_two_replicas_is_read_by_one(two_replicas):
    arrays, checkpoint, images = two_replicas
    model = restored(checkpoint)
    np.testing.assert_allclose(
        model.features(images)[1], arrays["features"], atol=1e-5
    )
    np.testing.assert_array_equal(
        model.backbone.get_layer("bn1").moving_mean, arrays["mean0"]
    )
