import functools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import batch_norm, keras_files, resnet
from moco_tf.serving import export

WITHOUT_MOCO_TF = """
import sys
sys.modules["moco_tf"] = None  # importing it fails from here on
import numpy as np
import tensorflow as tf

model = tf.keras.models.load_model(sys.argv[1], compile=False, safe_mode=True)
np.save(sys.argv[3], model(np.load(sys.argv[2]), training=False))
for layer in model.layers:
    assert type(layer).__module__.split(".")[0] in ("keras", "tf_keras"), layer
"""


def _trained(depth, stem):
    """A small ResNet whose BatchNorms are not those of a new one."""
    two_groups = functools.partial(batch_norm.BatchNorm, splits=2)
    backbone = resnet.resnet(
        depth, 0.0625, stem, norm=two_groups, image_size=32
    )
    random = np.random.default_rng(depth)
    for weight in backbone.weights:
        low = 0.01 if "variance" in weight.name else -0.5
        weight.assign(random.uniform(low, 0.5, weight.shape))
    return backbone


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (50, "imagenet")])
def test_stock_layers_give_the_same_features(depth, stem):
    backbone = _trained(depth, stem)
    model = export.stock_model(backbone)
    images = tf.random.stateless_normal([3, 32, 32, 3], [0, depth])
    expected = backbone(images, training=False).numpy()
    np.testing.assert_allclose(
        model(images, training=False),
        expected,
        rtol=1e-5,
        atol=1e-5 * np.abs(expected).max(),
    )
    assert [x.name for x in model.layers] == [x.name for x in backbone.layers]


def test_batch_norm_keeps_its_settings():
    model = export.stock_model(_trained(18, "cifar"))
    layer = model.get_layer("bn1")
    assert type(layer) is tf.keras.layers.BatchNormalization
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


def test_the_file_loads_where_this_package_is_not(tmp_path):
    backbone = _trained(18, "cifar")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    images = images.astype(np.float32)
    keras_files.save(export.stock_model(backbone), tmp_path / "encoder.keras")
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MOCO_TF]
        + ["encoder.keras", "images.npy", "features.npy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = backbone(images, training=False).numpy()
    np.testing.assert_allclose(
        np.load(tmp_path / "features.npy"),
        expected,
        rtol=1e-5,
        atol=1e-5 * np.abs(expected).max(),
    )


def test_a_model_with_layers_of_others_is_refused():
    class Doubled(tf.keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    inputs = tf.keras.Input([3])
    model = tf.keras.Model(inputs, Doubled()(inputs), name="mine")
    with pytest.raises(ValueError, match="'mine' with .*Doubled"):
        export.stock_model(model)
