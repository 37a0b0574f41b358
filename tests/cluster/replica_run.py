"""Five steps of the product on some layout of workers and replicas.

    python -m tests.cluster.replica_run OUT.npz REPLICAS [ADDRESSES INDEX]

REPLICAS are those of this process; ADDRESSES are of all workers. One process
has one layout: strategies of one process collide.
"""

import sys

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.cluster import membership
from moco_tf.data import sources
from moco_tf.models import resnet
from moco_tf.training import distribution
from tests import small_run

STEPS = 5
BATCH = 32
GROUPS = 4  # of 8: as many as the largest number of replicas
QUEUE = 101  # no multiple of the batch


def make_config(shuffle):
    config = configs.load("moco_cifar10").copy_and_resolve_references()
    values = small_run.FIELDS | {
        "data.source": "shapes:test",
        "train.batch_size": BATCH,
        "model.bn_groups": GROUPS,
        "moco.queue_size": QUEUE,
        "moco.shuffle": shuffle,
    }
    config.update_from_flattened_dict(values)
    return config


def several_cpus_per_worker(count):
    """Lets a worker have several CPU replicas, which TensorFlow does not.

    It gives a worker all its GPUs but one CPU; the rest of its code takes any
    list of local devices.
    """
    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    original = extended._initialize_local_devices

    def initialize(self, cluster_resolver, worker_device):
        _, kind = original(self, cluster_resolver, worker_device)
        devices = [f"{worker_device}/device:CPU:{i}" for i in range(count)]
        return tuple(devices), kind

    extended._initialize_local_devices = initialize


def make_strategy(replicas, workers, index):
    if not workers:
        return distribution.make_strategy(f"cpu:{replicas}")
    if replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
        )
        several_cpus_per_worker(replicas)
    cluster = membership.find({}, workers, index)
    return distribution.make_strategy("cpu", cluster)


def train(strategy, shuffle):
    """Losses, as `fit` reports them too, queue and norms of the weights."""
    config = make_config(shuffle)
    source = sources.open_source(config.data.source)
    stream = plan.make_stream(config, source, strategy)
    method = plan.make_method(config, strategy, len(stream.source))
    reported = []
    method.fit(
        stream.distribute(strategy, 0),
        epochs=STEPS,
        steps_per_epoch=1,
        callbacks=[
            tf.keras.callbacks.LambdaCallback(
                on_epoch_end=lambda _, logs: reported.append(logs["loss"])
            )
        ],
        verbose=0,
    )
    norms = [
        np.linalg.norm(weight.numpy().astype(np.float64))
        for weight in [
            *method.query_encoder.trainable_variables,
            *method.key_encoder.trainable_variables,
        ]
    ]
    return {
        "losses": method.step_log.read(0, STEPS)["loss"],
        "top1": method.step_log.read(0, STEPS)["instance_top1"],
        "reported": reported,
        "queue": method.queue.keys.numpy(),
        "samples": method.queue.samples.numpy(),
        "pointer": method.queue.pointer.numpy(),
        "norms": norms,
    }


def main(out, replicas, workers="", index=""):
    # Two stages of one block: the rest of the network would only trace longer.
    resnet.DEPTHS[18] = ((1, 1), False)
    strategy = make_strategy(int(replicas), workers, index)
    results = {"replicas": strategy.num_replicas_in_sync}
    for shuffle in ("address", "gather"):
        for name, value in train(strategy, shuffle).items():
            results[f"{shuffle}_{name}"] = value
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
