"""The order of the axes in which GPUs get a step's images.

    python -m benchmarks.layouts

TensorFlow's layout pass goes over the passes of ResNet-50 at 224 px, batch 32,
forward and backward, for GPUs that are described to it (tools/gpu_layout.py):
which order its convolutions have, and how many images are transposed; then with
other forms of BatchNorm, of which benchmarks/norm_groups.py has two. No GPU is
needed, and nothing is run.
"""

from unittest import mock

import tensorflow as tf

from benchmarks import norm_groups
from moco_tf import config as configs
from moco_tf import plan
from moco_tf.models import batch_norm
from moco_tf.training import distribution
from tools import gpu_layout

BATCH, SIZE, GROUPS = 32, 224, 8
# Precision, TensorFloat-32, compute capabilities.
CASES = (
    ("float32", False, ("7.0", "8.0")),
    ("float32", True, ("8.0",)),
    ("mixed_float16", False, ("7.0", "8.0")),
    ("mixed_bfloat16", False, ("8.0", "9.0")),
)
_PLAIN = batch_norm.BatchNorm._normalize


def _globally(layer, images, training):
    return (
        layer._normalize_globally(images)
        if training
        else _PLAIN(layer, images, training)
    )


def _at_once(form):
    """A form of groups that wants to know the batch, as a step does."""

    def normalize(layer, images, training):
        known = training and images.shape.is_fully_defined()
        return (form if known else _PLAIN)(layer, images, training)

    return normalize


FORMS = {
    "an operation for each group": _PLAIN,
    "groups as channels": _at_once(norm_groups.Channels._normalize),
    "groups as an axis": _at_once(norm_groups.Moments._normalize),
    "statistics of all replicas": _globally,
}


def passes(precision, tf32):
    """A ConcreteFunction: the encoder's passes with such numbers."""
    config = configs.load("moco_v2_imagenet").copy_and_resolve_references()
    config.data.source = "shapes:train"  # checked, not read
    config.train.precision, config.train.tf32 = precision, tf32
    config.train.batch_size, config.moco.queue_size = BATCH, 64
    config.model.bn_groups = GROUPS
    method = plan.make_method(config, tf.distribute.get_strategy(), BATCH)
    images = tf.TensorSpec([BATCH, SIZE, SIZE, 3], tf.uint8)
    return gpu_layout.of_passes(method, images)


def show(name, function, capability):
    layouts = gpu_layout.choose(function, capability)
    orders = ", ".join(layouts.orders("Conv2D", "Conv2DBackpropFilter"))
    print(
        f"{name}, capability {capability}: {orders}, "
        f"{sum(layouts.transposed.values())} images transposed, "
        f"{layouts.read_back} shapes read back",
        flush=True,
    )


def main():
    distribution.make_strategy("cpu")
    for precision, tf32, capabilities in CASES:
        function = passes(precision, tf32)
        for capability in capabilities:
            name = "tf32" if tf32 else precision
            show(name, function, capability)
    for name, form in FORMS.items():
        with mock.patch.object(batch_norm.BatchNorm, "_normalize", form):
            for precision in ("float32", "mixed_bfloat16"):
                function = passes(precision, False)
                show(f"{name}, {precision}", function, "8.0")


if __name__ == "__main__":
    main()
