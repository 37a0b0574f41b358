import functools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import batch_norm, cloning, resnet


def random(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape, dtype=np.float32)


def parameters(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


@pytest.fixture(scope="module")
def resnet18():
    return resnet.resnet(18)


# torchvision's published counts (11,689,512 ... 60,192,808) without the
# classifier's 512,000 + 1,000 or 2,048,000 + 1,000 parameters.
@pytest.mark.parametrize(
    "depth, count, features",
    [
        (18, 11_176_512, 512),
        (34, 21_284_672, 512),
        (50, 23_508_032, 2048),
        (101, 42_500_160, 2048),
        (152, 58_143_808, 2048),
    ],
)
def test_parameters_are_torchvisions(depth, count, features):
    with tf.Graph().as_default():  # no weight is drawn, shapes are enough
        model = resnet.resnet(depth)
    assert parameters(model) == count
    assert model.output_shape == (None, features)


def test_layers_carry_torchvisions_names(resnet18):
    expected = {"conv1", "bn1"}
    for stage in range(1, 5):
        for block in range(2):
            prefix = f"layer{stage}.{block}."
            expected |= {
                prefix + part for part in ("conv1", "bn1", "conv2", "bn2")
            }
        if stage > 1:
            prefix = f"layer{stage}.0.downsample."
            expected |= {prefix + "0", prefix + "1"}
    names = {layer.name for layer in resnet18.layers if layer.weights}
    assert names == expected
    assert resnet18.get_layer("bn1").gamma.name == "bn1/gamma:0"


def test_the_stride_of_a_bottleneck_is_on_its_3x3():
    model = resnet.resnet(50, width=0.125)
    strides = {
        name: model.get_layer(f"layer2.0.{name}").strides
        for name in ("conv1", "conv2", "conv3", "downsample.0")
    }
    assert strides == {
        "conv1": (1, 1),
        "conv2": (2, 2),
        "conv3": (1, 1),
        "downsample.0": (2, 2),
    }
    assert "layer1.0.downsample.0" in {layer.name for layer in model.layers}


@pytest.mark.parametrize("size, last", [(64, 2), (65, 3), (33, 2), (31, 1)])
def test_any_size_is_halved_rounding_up(resnet18, size, last):
    """As torch: a stride-2 3x3 with padding 1 gives (size - 1) // 2 + 1."""
    model = tf.keras.Model(
        resnet18.input, resnet18.get_layer("layer4.1.relu").output
    )
    shape = model.compute_output_shape([1, size, size, 3])
    assert tuple(shape) == (1, last, last, 512)
    assert resnet18(random([1, size, size + 1, 3])).shape == [1, 512]


def test_strided_padding_is_symmetric(resnet18):
    """The value at (0, 0) of each strided layer, by hand."""
    image = random([1, 8, 8, 3])
    kernel = resnet18.get_layer("conv1").kernel.numpy()
    padded = np.pad(image[0], [(3, 3), (3, 3), (0, 0)])
    first = tf.keras.Model(resnet18.input, resnet18.get_layer("conv1").output)
    np.testing.assert_allclose(
        first(image)[0, 0, 0],
        np.einsum("hwi,hwio->o", padded[:7, :7], kernel),
        atol=1e-4,
    )
    np.testing.assert_allclose(
        first(image)[0, 3, 3],
        np.einsum("hwi,hwio->o", padded[6:13, 6:13], kernel),
        atol=1e-4,
    )
    relu, pool = (
        tf.keras.Model(resnet18.input, resnet18.get_layer(name).output)(image)
        for name in ("relu", "maxpool")
    )
    assert pool.shape == [1, 2, 2, 64]
    relu = relu.numpy()
    np.testing.assert_array_equal(
        pool[0, 0, 0], relu[0, :2, :2].max(axis=(0, 1))
    )
    np.testing.assert_array_equal(
        pool[0, 1, 1], relu[0, 1:4, 1:4].max(axis=(0, 1))
    )


def test_a_basic_block_by_hand():
    """Two 3x3 convolutions with BatchNorm, a ReLU between, plus the input."""
    model = resnet.resnet(18, width=0.125, stem="cifar", image_size=8)
    names = ("relu", "layer1.0.conv1", "layer1.0.relu")
    start, inner, end = (
        tf.keras.Model(model.input, model.get_layer(name).output)(
            random([2, 8, 8, 3])
        ).numpy()
        for name in names
    )
    scale = 1 / np.sqrt(1 + 1e-5)  # BatchNorm at its start, in inference
    kernel = model.get_layer("layer1.0.conv2").kernel
    hidden = np.maximum(inner * scale, 0.0)
    second = tf.nn.conv2d(hidden, kernel, 1, "SAME").numpy() * scale
    np.testing.assert_allclose(end, np.maximum(second + start, 0.0), atol=1e-4)


def test_the_cifar_stem_keeps_the_size():
    model = resnet.resnet(18, stem="cifar", image_size=32)
    assert model.get_layer("layer1.1.relu").output_shape == (None, 32, 32, 64)
    assert model.get_layer("layer4.1.relu").output_shape == (None, 4, 4, 512)
    assert "maxpool" not in {layer.name for layer in model.layers}
    # 7x7 to 3x3 on 3 channels: (49 - 9) * 3 * 64 = 7,680 fewer.
    assert parameters(model) == 11_176_512 - 7_680


@pytest.mark.parametrize("width, features", [(0.25, 128), (2.0, 1024)])
def test_width_scales_the_channels(width, features):
    with tf.Graph().as_default():
        model = resnet.resnet(18, width=width)
    assert model.output_shape == (None, features)
    assert model.get_layer("conv1").filters == int(64 * width)


def test_channels_are_multiples_of_8():
    model = resnet.resnet(18, width=0.01)
    assert model.output_shape == (None, 8)
    # 64 * 0.3 = 19.2 is nearest to 16.
    assert resnet.resnet(18, width=0.3).get_layer("conv1").filters == 16


def test_convolutions_start_normal_by_fan_out():
    tf.keras.utils.set_random_seed(0)
    model = resnet.resnet(18)
    for name, fan_out in (("layer4.1.conv2", 512 * 9), ("conv1", 64 * 49)):
        kernel = model.get_layer(name).kernel.numpy()
        ratio = kernel.std() / np.sqrt(2 / fan_out)
        assert abs(ratio - 1) < 4 / np.sqrt(2 * kernel.size)
        # A truncated normal would end at 2 (scaled: 2.3) deviations.
        assert np.abs(kernel).max() > 3 * kernel.std()
    other = model.get_layer("layer4.1.conv1").kernel.numpy()
    same = model.get_layer("layer4.1.conv2").kernel.numpy()
    assert np.abs(other - same).max() > 0


def test_the_cifar_stem_starts_uniform_by_fan_in():
    model = resnet.resnet(18, stem="cifar")
    kernel = model.get_layer("conv1").kernel.numpy()
    limit = 1 / np.sqrt(27)
    assert 0.98 * limit < np.abs(kernel).max() <= limit
    assert abs(kernel.std() * np.sqrt(3) / limit - 1) < 0.05


def test_batch_norm_starts_neutral_with_torchs_settings(resnet18):
    layers = [
        layer
        for layer in resnet18.layers
        if isinstance(layer, batch_norm.BatchNorm)
    ]
    assert len(layers) == 20
    for layer in layers:
        assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
        assert np.all(layer.gamma.numpy() == 1)
        assert np.all(layer.beta.numpy() == 0)


def test_the_seed_makes_the_weights():
    def weights(seed):
        tf.keras.utils.set_random_seed(seed)
        return resnet.resnet(18, width=0.125).get_weights()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.abs(first[0] - other[0]).max() > 0


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_float32_variables_and_output(precision):
    two_groups = functools.partial(batch_norm.BatchNorm, splits=2)
    model = resnet.resnet(
        18, 0.125, "cifar", norm=two_groups, image_size=16, precision=precision
    )
    features = model(random([4, 16, 16, 3]), training=True)
    assert features.dtype == tf.float32
    assert {w.dtype for w in model.weights} == {tf.float32}
    computed = {layer.compute_dtype for layer in model.layers[1:-1]}
    assert computed == {precision.removeprefix("mixed_")}
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_bfloat16_features_are_near_the_float32_ones():
    exact = resnet.resnet(18, 0.25, "cifar", image_size=16)
    rough = resnet.resnet(
        18, 0.25, "cifar", image_size=16, precision="mixed_bfloat16"
    )
    rough.set_weights(exact.get_weights())
    images = random([8, 16, 16, 3])
    expected = exact(images, training=True).numpy()
    error = np.linalg.norm(rough(images, training=True) - expected)
    assert error < 0.05 * np.linalg.norm(expected)


def test_precision_is_the_models_under_any_global_policy():
    with cloning.global_policy("mixed_bfloat16"):
        model = resnet.resnet(18, width=0.125)
    assert {layer.compute_dtype for layer in model.layers[1:]} == {"float32"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"depth": 20}, "depth=20"),
        ({"depth": 18, "width": 0}, "width=0"),
        ({"depth": 18, "stem": "mnist"}, "'mnist'"),
        ({"depth": 18, "precision": "bfloat16"}, "'bfloat16'"),
        (
            {
                "depth": 18,
                "norm": functools.partial(batch_norm.BatchNorm, splits=0),
            },
            "splits=0",
        ),
        ({"depth": 18, "norm": "layer"}, "norm must make a layer.*'layer'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet.resnet(**arguments)
