"""What TensorFlow's layout pass makes of an encoder's passes on a GPU."""

import tensorflow as tf

from moco_tf import plan
from moco_tf.models import batch_norm
from moco_tf.training import distribution
from tests import shallow
from tests.methods import every_method
from tools import gpu_layout

IMAGES = tf.TensorSpec([8, 32, 32, 3], tf.uint8)
SENSITIVE = (
    *("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"),
    *("MaxPool", "MaxPoolGrad"),
)
FUSED = ("FusedBatchNormV3", "FusedBatchNormGradV3")
# Images are turned where they come, for the first convolution and its
# gradient, and where the pooled gradient is spread.
ENDS = {
    ("Pad", "Conv2D"): 1,
    ("Pad", "Conv2DBackpropFilter"): 1,
    ("RealDiv", "ReluGrad"): 1,
}


def passes(precision):
    """An encoder's passes, with BatchNorm in four groups."""
    with shallow.network():
        config = every_method.make_config(
            "moco",
            train__precision=precision,
            model__stem="imagenet",
            model__bn_groups=4,
            data__image_size=IMAGES.shape[1],
        )
        strategy = tf.distribute.get_strategy()
        method = plan.make_method(config, strategy, every_method.IMAGES)
    return gpu_layout.of_passes(method, IMAGES)


def test_float32_is_turned_once_and_all_of_it():
    function = passes("float32")
    for capability in ("7.0", "8.0"):
        layouts = gpu_layout.choose(function, capability)
        assert layouts.orders(*SENSITIVE, *FUSED) == {"NCHW"}
        assert layouts.transposed == ENDS
        assert not layouts.read_back


def test_sixteen_bits_stay_as_tensor_cores_take_them():
    for precision, capability in (
        ("mixed_float16", "7.0"),
        ("mixed_bfloat16", "8.0"),
    ):
        layouts = gpu_layout.choose(passes(precision), capability)
        assert layouts.orders() == {"NHWC"}
        assert not layouts.transposed


def test_statistics_of_all_replicas_turn_no_image(monkeypatch):
    monkeypatch.setattr(
        batch_norm.BatchNorm,
        "_normalize",
        lambda self, images, training: self._normalize_globally(images),
    )
    layouts = gpu_layout.choose(passes("float32"), "8.0")
    assert layouts.orders(*SENSITIVE) == {"NCHW"}
    assert layouts.transposed == ENDS


def layouts_between(operation):
    """The Layouts of an operation between two convolutions of float32."""

    @tf.function(autograph=False)
    def convolve_twice(images, numbers):
        kernel = tf.ones([3, 3, 3, 3])
        images = tf.nn.conv2d(tf.cast(images, tf.float32), kernel, 1, "SAME")
        return tf.nn.conv2d(operation(images, numbers), kernel, 1, "SAME")

    distribution.set_precision(False)
    numbers = tf.TensorSpec([4], tf.float32)
    function = convolve_twice.get_concrete_function(IMAGES, numbers)
    layouts = gpu_layout.choose(function, "8.0")
    assert layouts.orders() == {"NCHW"}
    return layouts


def in_rows(images, numbers):
    rows = tf.reshape(images, [2, -1, 3]) * numbers[0]
    return tf.reshape(tf.math.l2_normalize(rows, axis=1), IMAGES.shape)


def from_a_row_on(images, numbers):
    return tf.slice(images, tf.cast(numbers, tf.int32), [8, 16, 16, 3])


def test_an_operation_that_the_pass_does_not_cross_is_named():
    transposed = layouts_between(in_rows).transposed
    assert transposed["Conv2D", "Reshape"] == 1
    assert transposed["Reshape", "Conv2D"] == 1
    plain = layouts_between(lambda images, _: tf.nn.relu(images)).transposed
    assert set(plain) == {("Cast", "Conv2D"), ("Conv2D", "Identity")}


def test_a_place_that_lies_on_the_gpu_is_turned_there():
    assert layouts_between(from_a_row_on).read_back == 1
    assert layouts_between(lambda images, _: images[:, 4:20]).read_back == 0
