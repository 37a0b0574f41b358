import json

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import views
from moco_tf.evaluation import frozen
from tests import shallow
from tests.evaluation import small_encoder

_network = shallow.fixture()


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    return small_encoder.write(tmp_path_factory.mktemp("run"), steps=(5, 9))


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


def _model(side=16, units=3):
    images = tf.keras.Input([side, side, 3])
    rows = tf.keras.layers.GlobalAveragePooling2D()(images)
    rows = tf.keras.layers.BatchNormalization()(rows)
    return tf.keras.Model(images, tf.keras.layers.Dense(units)(rows))


def test_a_run_is_opened_with_its_checkpoint_and_its_own_images(workdir):
    encoder = frozen.open_frozen(workdir, "5")
    assert encoder.title.endswith("step-000000005")
    assert encoder.image_size == 16
    assert encoder.recipe == views.RECIPES[encoder.config.data.views]
    result = encoder.encode(IMAGES)
    images = views.normalize(
        tf.constant(IMAGES), encoder.recipe.mean, encoder.recipe.std
    )
    expected = encoder.encoder(images, training=False)
    np.testing.assert_allclose(result["projection"], expected, rtol=1e-5)
    assert result["backbone"].shape == [2, 8]
    assert encoder.layers == ("backbone", "projection")


def test_the_identity_is_that_of_the_weights(workdir):
    encoder = frozen.open_frozen(workdir, "5")
    assert frozen.open_frozen(workdir, "5").identity == encoder.identity
    assert frozen.digest(encoder) == encoder.identity
    weight = encoder.weights[-1]
    bits = weight.numpy()
    flat = bits.reshape(-1)
    flat[-1] = np.nextafter(flat[-1], np.float32(np.inf))
    weight.assign(bits)
    assert frozen.digest(encoder) != encoder.identity


@pytest.mark.parametrize("form", ["folder", "file"])
def test_models_of_the_same_weights_are_two_where_they_compute_two(
    tmp_path, form
):
    layers = tf.keras.layers
    opened = []
    for name in ("Average", "Max"):
        images = tf.keras.Input([16, 16, 3])
        pool = getattr(layers, f"Global{name}Pooling2D")
        rows = layers.Dense(2, kernel_initializer="ones")(pool()(images))
        path = tmp_path / (name if form == "folder" else f"{name}.keras")
        tf.keras.Model(images, rows).save(path)
        opened += [
            frozen.open_frozen(saved_model=path, recipe="v1") for _ in range(2)
        ]
    average, again, most, _ = (each.identity for each in opened)
    assert average == again != most
    assert frozen.digest(opened[0]) == average


def test_a_keras_file_is_the_same_model_under_another_version(
    tmp_path, monkeypatch
):
    _model().save(tmp_path / "model.keras")

    def identity():
        path = tmp_path / "model.keras"
        return frozen.open_frozen(saved_model=path, recipe="v1").identity

    here = identity()
    package = tf.keras.Model.__module__.partition(".")[0]  # of either lane
    monkeypatch.setattr(f"{package}.src.__version__", "2.99.0")
    text = _model().to_json()
    assert json.loads(text)["keras_version"] == "2.99.0"
    assert identity() == here


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_keras_model_is_frozen_in_inference_mode(tmp_path, form):
    model = _model()
    path = tmp_path / ("model" if form == "folder" else "model.keras")
    if form == "folder":
        model.export(path)
    else:
        model.save(path)
    encoder = frozen.open_frozen(
        saved_model=str(path), recipe="cifar", image_size=0
    )
    recipe = views.RECIPES["cifar"]
    images = views.normalize(tf.constant(IMAGES), recipe.mean, recipe.std)
    np.testing.assert_allclose(
        encoder.encode(IMAGES)["backbone"],
        model(images, training=False),
        rtol=1e-5,
        atol=1e-6,
    )
    assert encoder.layers == ("backbone",)
    assert encoder.image_size == 16


def test_of_a_saved_models_signatures_the_raw_features_are_taken(tmp_path):
    module = tf.Module()
    module.factor = tf.Variable(2.0)
    spec = tf.TensorSpec([None, None, None, 3], tf.float32)

    @tf.function(input_signature=[spec])
    def raw(images):
        rows = module.factor * tf.reduce_mean(images, [1, 2])
        return {"features": rows, "normalised": tf.math.l2_normalize(rows, 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def of_bytes(image_bytes):
        return {"features": tf.strings.length(image_bytes)}

    tf.saved_model.save(
        module,
        str(tmp_path / "model"),
        {"serving_default": of_bytes, "embed_tensors": raw},
    )
    encoder = frozen.open_frozen(
        saved_model=str(tmp_path / "model"), recipe="v1", image_size=16
    )
    recipe = views.RECIPES["v1"]
    images = (IMAGES / 255.0 - recipe.mean) / recipe.std
    np.testing.assert_allclose(
        encoder.encode(IMAGES)["backbone"],
        2 * images.mean(axis=(1, 2)),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "by --workdir or by --saved_model"),
        ({"workdir": "a", "saved_model": "b"}, "workdir='a'"),
        ({"saved_model": "nowhere"}, "with saved_model.pb or a .keras"),
    ],
)
def test_exactly_one_encoder_must_be_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        frozen.open_frozen(**arguments)


@pytest.mark.parametrize(
    "size, arguments, message",
    [
        (
            16,
            {"image_size": 0},
            "swav, dino, cmc, cpc. Received views=''",
        ),
        (None, {"recipe": "v1"}, "image_size=0 for a model of any size"),
        (16, {"recipe": "v1", "image_size": 32}, "=32 for a model of 16"),
    ],
)
def test_a_model_that_lacks_views_or_size_is_refused(
    tmp_path, size, arguments, message
):
    _model(side=size).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=message):
        frozen.open_frozen(
            saved_model=str(tmp_path / "model.keras"), **arguments
        )


def test_a_model_card_beside_it_fills_in_views_and_size(tmp_path):
    _model(side=None).save(tmp_path / "model.keras")
    card = {"preprocessing": {"views": "v2", "image_size": 24}}
    (tmp_path / "model_card.json").write_text(json.dumps(card))
    path = str(tmp_path / "model.keras")
    encoder = frozen.open_frozen(saved_model=path)
    assert encoder.recipe == views.RECIPES["v2"]
    assert encoder.image_size == 24
    encoder = frozen.open_frozen(
        saved_model=path, recipe="cifar", image_size=16
    )
    assert encoder.recipe == views.RECIPES["cifar"]
    assert encoder.image_size == 16


def test_a_model_that_returns_maps_is_refused(tmp_path):
    images = tf.keras.Input([16, 16, 3])
    maps = tf.keras.layers.Conv2D(2, 3)(images)
    tf.keras.Model(images, maps).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"shape \(1, 14, 14, 2\)"):
        frozen.open_frozen(
            saved_model=str(tmp_path / "model.keras"), recipe="v1"
        )


class _Elsewhere(tf.keras.layers.Layer):
    """A layer that another program knows."""

    __module__ = "elsewhere"


def _foreign(kind):
    images = tf.keras.Input([16, 16, 3])
    rows = tf.keras.layers.GlobalAveragePooling2D()(images)
    if kind == "rows":
        return tf.keras.Sequential([tf.keras.layers.Dense(2, input_dim=784)])
    if kind == "two":
        return tf.keras.Model([images, tf.keras.Input([2])], rows)
    return tf.keras.Model(images, _Elsewhere()(rows))


@pytest.mark.parametrize(
    "kind, message",
    [
        ("rows", r"one input \[n, S, S, 3\]. Received .*\(None, 784\)"),
        ("two", r"one input \[n, S, S, 3\]. Received .*\(None, 2\)"),
        ("layer", "of Keras' own layers. Received .*model.keras"),
    ],
)
def test_models_of_another_form_are_refused(tmp_path, kind, message):
    path = tmp_path / "model.keras"
    _foreign(kind).save(path)
    with pytest.raises(ValueError, match=message):
        frozen.open_frozen(saved_model=path, recipe="v1", image_size=16)


@pytest.mark.parametrize("card", [[], {}, {"preprocessing": "none"}])
def test_a_card_of_another_program_is_ignored(tmp_path, card):
    _model(side=16).save(tmp_path / "model.keras")
    (tmp_path / "model_card.json").write_text(json.dumps(card))
    encoder = frozen.open_frozen(
        saved_model=tmp_path / "model.keras", recipe="v1"
    )
    assert encoder.image_size == 16


def test_a_saved_model_of_bytes_alone_is_refused(tmp_path):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def of_bytes(image_bytes):
        return {"features": tf.strings.length(image_bytes)}

    tf.saved_model.save(module, str(tmp_path), {"serving_default": of_bytes})
    with pytest.raises(ValueError, match="with the signatures serving_default"):
        frozen.open_frozen(saved_model=str(tmp_path), recipe="v1", image_size=8)
