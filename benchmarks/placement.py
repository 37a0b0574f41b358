"""Whether a step would stay on the GPU: of every method, in every mode.

python -m benchmarks.placement
python -m benchmarks.placement --replicas=2 --only=moco

Traces the train steps on logical CPU devices, one replica and two, and looks
each operation up in TensorFlow's registry of kernels (tools/gpu_placement.py).
No step runs, and no GPU is needed. Exits 1 where a step has an operation that
the GPU has no kernel for, or the host needs something that lies on the GPU,
but for what `gpu_placement.ALLOWED` has.
"""

import argparse
import functools
import itertools
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from moco_tf import plan
from moco_tf.data import photometric
from moco_tf.evaluation import frozen, label_augment, linear
from moco_tf.methods import online_probe, table
from moco_tf.training import distribution, optimizers
from tests import reference_check, shallow
from tests.evaluation import finetune_worker
from tests.methods import every_method
from tools import gpu_placement

# Fields that change the graph of any method's step, "__" for the dot.
MODES = {
    "float32": {},
    "bfloat16": {"train__precision": "mixed_bfloat16"},
    "float16": {"train__precision": "mixed_float16"},
    "XLA": {
        "model__sync_bn": False,  # XLA compiles no exchange
        "model__bn_groups": 2,
        "train__jit_compile": True,
        "train__precision": "mixed_bfloat16",
    },
    "micro-batches": {
        "train__micro_batches": 2,
        "model__bn_groups": 4,
        "model__sync_bn": False,
    },
    "recompute": {"model__recompute": True},
    "recompute, XLA": {
        "model__recompute": True,
        "model__sync_bn": False,
        "model__bn_groups": 2,
        "train__jit_compile": True,
    },
    "device": {"data__augment_on": "device"},
    "sync_bn": {"model__sync_bn": True, "model__bn_groups": 1},
    "large views alone": {"data__small_views": 0},
    "lars": {"optimizer__name": "lars"},
    "clipped, with a probe": {
        "optimizer__clip_norm": 1.0,
        "probe__online": True,
    },
}
# Those of a method's own section, and what needs tracing once alone.
OWN_MODES = {
    "moco": {
        "gather": {"moco__shuffle": "gather"},
        "address": {"moco__shuffle": "address"},
        "gather, float16": {
            "moco__shuffle": "gather",
            "train__precision": "mixed_float16",
        },
        "symmetric": {"moco__symmetric": True, "moco__shuffle": "gather"},
        "symmetric, micro-batches": {
            "moco__symmetric": True,
            "train__micro_batches": 2,
            "model__bn_groups": 4,
        },
        "batch negatives": {"moco__batch_negatives": True},
        "same image": {"moco__mask_same_image": True},
        "both": {
            "moco__batch_negatives": True,
            "moco__mask_same_image": True,
            "moco__symmetric": True,
        },
        "lamb": {"optimizer__name": "lamb"},
        "sgdw": {"optimizer__name": "sgdw"},
        "adam": {"optimizer__name": "adam"},
        "steps": {
            "schedule__name": "step",
            "schedule__milestones": (18,),
            "schedule__warmup_epochs": 2,
        },
        "momentum from 0": {"moco__momentum_warmup_epochs": 1},
        "frozen stage": {"model__freeze": "stage2", "model__init": "weights"},
        "layers normalised": {"model__norm": "layer"},
        "one layer as head": {"model__head": "fc"},
    },
    "memory_bank": {
        "info_nce": {"memory_bank__loss": "info_nce"},
        "info_nce, micro-batches": {
            "memory_bank__loss": "info_nce",
            "train__micro_batches": 2,
            "model__bn_groups": 4,
        },
        "nce": {"memory_bank__loss": "nce"},
    },
    "cmc": {
        "info_nce": {"cmc__loss": "info_nce"},
        "info_nce, micro-batches": {
            "cmc__loss": "info_nce",
            "train__micro_batches": 2,
            "model__bn_groups": 4,
        },
        "nce": {"cmc__loss": "nce"},
    },
    "swav": {
        "no queue": {"swav__queue_size": 0},
        "frozen prototypes": {
            "swav__queue_from_epoch": 1,
            "swav__frozen_epochs": 1,
        },
    },
    "dino": {
        "frozen last layer": {
            "dino__frozen_epochs": 1,
            "dino__warmup_epochs": 1,
        },
    },
    "cpc": {"patch jitter": {"cpc__patch_jitter": 0.4}},
    "end_to_end": {
        "gather": {"end_to_end__shuffle": "gather"},
        "one encoder": {"end_to_end__shared_encoder": True},
    },
}


class Refused(Exception):
    """A mode that the product does not allow for a method."""


def traced(name, strategy, **fields):
    """The graph of a method's step.

    Args:
      name: str, of the method. strategy: tf.distribute.Strategy.
      **fields: of the configuration, "__" for the dot.

    Returns:
      FuncGraph.

    Raises:
      Refused: for fields that the method does not take.
    """
    config = every_method.make_config(name, **fields)
    images, labels = every_method.IMAGES, None
    if config.probe.online:
        labels = online_probe.Labels(np.arange(images) % 3, 3)
    try:
        plan.check(config, strategy.num_replicas_in_sync)
        if config.model.recompute or config.model.freeze:  # of a ResNet
            with shallow.network():
                method = plan.make_method(config, strategy, images, labels)
        else:
            method = every_method.make_method(name, strategy, labels, **fields)
    except ValueError as error:
        raise Refused(error) from error
    (batch,) = every_method.batches(method, 1)
    if not config.data.small_views:
        del batch["small"]
    if fields.get("data__augment_on") == "device":
        for view in {"query", "key", "small"} & set(batch):
            shape = [*batch[view].shape[:-3], photometric.ROW]
            batch[f"{view}_distortion"] = np.zeros(shape, np.float32)
    layout = {
        "batch": every_method.BATCH,
        "world": strategy.num_replicas_in_sync,
    }
    batches = reference_check.iterator(layout, strategy, [batch])
    return method.make_train_function().get_concrete_function(batches).graph


def traced_fine_tuning(strategy, mixup=0.0, cutmix=0.0):
    """The graph of fine-tuning's step."""
    mixing = None
    if mixup or cutmix:
        mixing = label_augment.Mixing(mixup, cutmix, seed=0)
    method = finetune_worker.make_method(strategy, mixing)
    batches = iter(finetune_worker.batches(strategy))
    return method.make_train_function().get_concrete_function(batches).graph


def traced_probe(strategy):
    """The graph of the linear probe's step, of the published way."""
    config = every_method.make_config("moco")
    with strategy.scope():
        encoder = frozen.freeze(frozen.build_encoder(config), config, "")
        labels = np.arange(every_method.IMAGES) % 3
        method = linear.LinearProbe(encoder, "backbone", 3, labels, 0)
        method.compile(optimizers.MomentumSGD(0.1))
    method.build_optimizer()
    shape = [every_method.BATCH, 16, 16, 3]
    batch = {
        "query": np.zeros(shape, np.uint8),
        "index": np.arange(every_method.BATCH),
        "valid": np.ones(every_method.BATCH, bool),
    }
    share = every_method.BATCH // strategy.num_replicas_in_sync
    dataset = tf.data.Dataset.from_tensor_slices(batch)
    dataset = dataset.batch(share, drop_remainder=True)
    batches = iter(
        strategy.distribute_datasets_from_function(lambda _: dataset)
    )
    return method.make_train_function().get_concrete_function(batches).graph


def cases():
    """(name, function of a strategy -> graph) of all steps."""
    for name in table.METHODS:
        for mode, fields in (MODES | OWN_MODES.get(name, {})).items():
            yield (
                f"{name}, {mode}",
                functools.partial(traced, name, **fields),
            )
    for alphas in itertools.product((0.0, 0.5), repeat=2):
        yield (
            "finetune, mixup {} and cutmix {}".format(*alphas),
            functools.partial(
                traced_fine_tuning, mixup=alphas[0], cutmix=alphas[1]
            ),
        )
    yield "linear", traced_probe


def examine(only, replicas):
    """Prints a line for each step on so many replicas, and its faults.

    Returns:
      int, the number of steps with a fault.
    """
    strategy = distribution.make_strategy(f"cpu:{replicas}")
    faulty = refused = steps = 0
    for name, trace in cases():
        if only not in name:
            continue
        start = time.perf_counter()
        try:
            graph = trace(strategy)
        except Refused as refusal:
            words = str(refusal).split(". ")[0].splitlines()[0]
            print(f"{name}: refused: {words}.", flush=True)
            refused += 1
            continue
        except Exception as error:  # the others are looked at all the same
            words = str(error).splitlines()[0]
            print(f"{name}: {type(error).__name__}: {words}", flush=True)
            faulty += 1
            continue
        steps += 1
        faults = gpu_placement.unexpected(graph)
        faulty += bool(faults)
        print(
            f"{name}, {replicas} replica(s): "
            f"{len(graph.get_operations())} operations, {len(faults)} faults "
            f"({time.perf_counter() - start:.0f} s)",
            flush=True,
        )
        for fault in faults:
            print(f"  {fault}", flush=True)
    print(
        f"{replicas} replica(s): {steps} steps traced, {refused} refused, "
        f"{faulty} with a fault",
        flush=True,
    )
    return faulty


def main():
    parser = argparse.ArgumentParser(
        description="Placement of a step on GPUs.", allow_abbrev=False
    )
    parser.add_argument("--only", default="", help="part of the steps' names")
    parser.add_argument(
        "--replicas", type=int, default=0, help="0: one, then two"
    )
    options = parser.parse_args()
    if options.replicas:
        sys.exit(min(1, examine(options.only, options.replicas)))
    # Strategies of one process collide.
    command = [
        sys.executable,
        "-m",
        "benchmarks.placement",
        f"--only={options.only}",
    ]
    status = [
        subprocess.run([*command, f"--replicas={count}"]).returncode
        for count in (1, 2)
    ]
    sys.exit(max(status))


if __name__ == "__main__":
    main()
