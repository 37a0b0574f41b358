import contextlib
import functools
import inspect
import io
import json
import os
import pathlib
import sys
import tempfile
import zipfile

import h5py
import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from moco_tf.models import keras_files
from tests import properties

REFERENCE = pathlib.Path(__file__).parents[1] / "reference" / "keras_files"
layers = tf.keras.layers


def plant(folder, monkeypatch):
    """A module that leaves a file when it is imported or called.

    Returns:
      pathlib.Path of that file.
    """
    left = folder / "left"
    (folder / "planted.py").write_text(
        f"import os\nos.system('touch {left}')\n"
        f"def run(*_, **__):\n    os.system('touch {left}')\n"
        "class Layer:\n    from_config = classmethod(run)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    return left


def function(module, name):
    return {
        **{"module": module, "class_name": "function", "config": name},
        "registered_name": name,
    }


def part(module, name, **config):
    return {
        **{"module": module, "class_name": name, "config": config},
        "registered_name": None,
    }


OPERATION = "keras.src.layers.core.tf_op_layer"
HOSTILE = {
    "a function of a module": function("planted", "run"),
    "a class of a module": part("planted", "Layer"),
    "a class of tf_keras's own insides": part("tf_keras.src.planted", "Layer"),
    "os.system": function("os", "system"),
    "a builtin": function("builtins", "exec"),
    "a hidden name of activations": function("builtins", "deserialize"),
    "a downloader": function("keras.utils", "get_file"),
    "a module with a stock name": part("keras.layers.planted", "Dense"),
    "a lambda": {"class_name": "__lambda__", "config": {"value": "4wAA"}},
    "a Lambda layer": part("keras.layers", "Lambda", function="4wAA"),
    "a type": {
        **{"class_name": "__typespec__", "spec_name": "Layer", "config": []},
        **{"module": "planted", "registered_name": None},
    },
    "an operation": part(OPERATION, "TFOpLambda", function="io.write_file"),
    "an operation without a name": part(OPERATION, "TFOpLambda"),
    "an operation of two": part(OPERATION, "TFOpLambda", function=["cast"]),
    "an operation of a program": {
        **part(OPERATION, "TFOpLambda", function="cast"),
        "registered_name": "planted>Layer",
    },
    "a graph": part(OPERATION, "TensorFlowOpLayer", node_def="op: 'PyFunc'"),
    "a SavedModel": part("keras.layers", "TFSMLayer", filepath="/tmp/model"),
    "a vocabulary": part("keras.layers", "StringLookup", vocabulary="/etc/x"),
    "a text": part("keras.layers", "TextVectorization", vocabulary="/etc/x"),
    "no layer": part("keras.layers", "deserialize"),
    "a name of Python": part("keras.layers", "__loader__"),
    "a name that is a list": part("keras.layers", ["Dense"]),
    "a module that is a list": part(["planted"], "Layer"),
    "a value of a module": part("planted", "__numpy__", value=[1]),
    "the old form": {"class_name": "Lambda", "config": {"function": "4wAA"}},
    "a registered name": {
        **part("keras.layers", "Dense", units=1),
        "registered_name": "planted>Layer",
    },
    "a registered name alone": {"registered_name": "planted>Layer"},
}
PLAIN = strategies.none() | strategies.integers() | strategies.text(max_size=4)


def nested(leaf):
    """JSON values with a leaf somewhere in them."""
    around = strategies.sampled_from(["config", "layers", "x", "build_config"])
    lists = strategies.lists(PLAIN, max_size=2)
    return strategies.recursive(
        leaf,
        lambda inner: (
            strategies.builds(
                lambda name, value: {"a": 1, name: value}, around, inner
            )
            | strategies.builds(
                lambda a, v, b: [*a, v, *b], lists, inner, lists
            )
            | strategies.builds(
                lambda value: part("keras.layers", "Dense", activation=value),
                inner,
            )
        ),
        max_leaves=6,
    )


def network(*middle, side=8):
    images = x = tf.keras.Input([side, side, 3])
    for layer in middle or (layers.Conv2D(2, 3),):
        x = layer(x)
    return tf.keras.Model(images, layers.GlobalAveragePooling2D()(x))


@functools.cache
def small():
    """The bytes of a .keras file of a small network."""
    with tempfile.TemporaryDirectory() as folder:
        network().save(f"{folder}/model.keras")
        return pathlib.Path(folder, "model.keras").read_bytes()


def saved(path):
    path.write_bytes(small())
    return path


def read(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def edit(path, change):
    """Changes the configuration in a .keras file."""
    members = read(path)
    config = json.loads(members["config.json"])
    change(config)
    write(path, members | {"config.json": json.dumps(config)})


def _as_layer(config, entry):
    config["config"]["layers"][1] = entry | {"name": "x", "inbound_nodes": []}


def _as_initializer(config, entry):
    config["config"]["layers"][1]["config"]["kernel_initializer"] = entry


def _as_whole(config, entry):
    config.clear()
    config.update(entry)


@pytest.mark.parametrize("put", [_as_layer, _as_initializer, _as_whole])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_names_other_code_is_refused_and_not_run(
    tmp_path, monkeypatch, kind, put
):
    left = plant(tmp_path, monkeypatch)
    path = saved(tmp_path / "model.keras")
    edit(path, lambda config: put(config, HOSTILE[kind]))
    with pytest.raises(ValueError, match="of Keras' own layers. Rec"):
        keras_files.load(path)
    assert not left.exists() and "planted" not in sys.modules


def test_keras_itself_would_have_run_it(tmp_path, monkeypatch):
    left = plant(tmp_path, monkeypatch)
    path = saved(tmp_path / "model.keras")
    edit(path, lambda config: _as_whole(config, HOSTILE["a class of a module"]))
    with contextlib.suppress(Exception):  # of what comes after it
        tf.keras.models.load_model(path, compile=False, safe_mode=True)
    assert left.exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_refused_wherever_it_stands(kind):
    @properties.few
    @hypothesis.given(nested(strategies.just(HOSTILE[kind])))
    def check(config):
        with pytest.raises(keras_files.Refused):
            keras_files.accept_config(config)

    check()


@properties.few
@hypothesis.given(nested(strategies.just(part("keras.layers", "ReLU"))))
def test_what_is_stock_is_as_it_was(config):
    assert keras_files.accept_config(config) == config


def test_layers_nested_beyond_reason_are_refused(tmp_path):
    path = saved(tmp_path / "model.keras")
    members = read(path)
    for text in (b"[" * 100_000, b'{"a":' * 5_000 + b"1" + b"}" * 5_000):
        write(path, members | {"config.json": text})
        with pytest.raises(ValueError, match="of Keras' own layers. Received"):
            keras_files.load(path)


def test_no_accepted_layer_takes_a_path_or_a_function():
    words = ("vocab", "path", "file", "func", "fn", "module", "code")
    names = [n for n in dir(layers) if keras_files.is_stock("keras.layers", n)]
    assert len(names) > 100
    for name in names:
        parameters = inspect.signature(getattr(layers, name)).parameters
        assert not [p for p in parameters if any(w in p for w in words)], name


STOCK = {
    "regularised": lambda: [
        layers.Conv2D(
            2,
            3,
            activation="gelu",
            kernel_regularizer="l2",
            kernel_constraint=tf.keras.constraints.MaxNorm(2),
            bias_initializer=tf.keras.initializers.Constant(0.5),
        )
    ],
    "an activation": lambda: [
        layers.Activation(tf.nn.silu),
        layers.PReLU(),
        layers.Dropout(0.5),
    ],
    "sixteen bits": lambda: [
        layers.Conv2D(2, 3, dtype="mixed_bfloat16"),
        layers.BatchNormalization(),
        layers.experimental.SyncBatchNormalization(),
        layers.Activation("linear", dtype="float32"),
    ],
    "preprocessing": lambda: [
        layers.Rescaling(1 / 255),
        layers.Resizing(4, 4),
        layers.Normalization(mean=0.5, variance=2.0),
    ],
    "hard swish": lambda: [
        layers.Conv2D(2, 3),
        lambda x: layers.ReLU(6.0)(x + 3.0) * (1 / 6),
        lambda x: tf.nn.silu(x) / 2 - 1,
    ],
    "wrapped": lambda: [
        layers.TimeDistributed(layers.Dense(2)),
        layers.Reshape([-1, 2]),
        layers.Bidirectional(layers.GRU(2, return_sequences=True)),
        layers.RNN(layers.LSTMCell(2), return_sequences=True),
        layers.Reshape([8, 8, 2]),
    ],
    "nested": lambda: [
        tf.keras.Sequential([layers.Conv2D(3, 1), layers.LayerNormalization()]),
        tf.keras.Model(i := tf.keras.Input([8, 8, 3]), layers.Conv2D(2, 3)(i)),
    ],
}


@pytest.mark.parametrize("form", ["of Keras", "of this package"])
@pytest.mark.parametrize("kind", STOCK)
def test_stock_layers_come_back(tmp_path, kind, form):
    model = network(*STOCK[kind]())
    model.compile("adam", "mse")  # an optimizer, which is left out
    path = tmp_path / "model.keras"
    if form == "of Keras":
        model.save(path)
    else:
        keras_files.save(model, path)
    images = np.random.default_rng(0).normal(size=[2, 8, 8, 3])
    images = images.astype(np.float32)
    again = keras_files.load(path)
    np.testing.assert_array_equal(
        again(images, training=False), model(images, training=False)
    )
    assert again.optimizer is None


def test_a_model_that_could_not_be_opened_is_not_saved(tmp_path):
    model = network(layers.Lambda(lambda x: x))
    with pytest.raises(keras_files.NotStock, match="Lambda is not one of them"):
        keras_files.save(model, tmp_path / "model.keras")
    assert list(tmp_path.iterdir()) == []


def change_weights(path, change):
    """Changes the HDF5 file in a .keras file, by change(root, a name)."""
    members = read(path)
    file = io.BytesIO(members["model.weights.h5"])
    with h5py.File(file, "r+") as root:
        arrays = []
        root.visititems(
            lambda name, entry: (
                arrays.append(name) if isinstance(entry, h5py.Dataset) else None
            )
        )
        change(root, arrays[0])
    write(path, members | {"model.weights.h5": file.getvalue()})


def _replaced(make):
    """A change that removes an array and makes another in its place."""

    def change(root, name):
        shape, dtype = root[name].shape, root[name].dtype
        del root[name]
        make(root, name, shape, dtype)

    return change


def _stored_elsewhere(root, name, shape, dtype):
    size = int(np.prod(shape)) * dtype.itemsize
    root.create_dataset(name, shape, dtype, external=[("/etc/passwd", 0, size)])


def _virtual(root, name, shape, dtype):
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource("/tmp/other.h5", "x", shape)
    root.create_virtual_dataset(name, layout)


def _link(link):
    return _replaced(lambda root, name, *_: root.__setitem__(name, link))


def _enormous(root, name, shape, dtype):
    root.create_dataset(name, [10**12], dtype, chunks=(1024,))


def _with_plugin(root, name, shape, dtype):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk(shape)
    # Optional, so that it can be written without the filter (Blosc's number).
    settings.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)
    parent, _, last = name.rpartition("/")
    h5py.h5d.create(
        root[parent].id,
        last.encode(),
        h5py.h5t.py_create(dtype),
        h5py.h5s.create_simple(shape),
        settings,
    )


WEIGHTS = {
    "external storage": (_replaced(_stored_elsewhere), "is of another file"),
    "a virtual array": (_replaced(_virtual), "is of another file"),
    "an external link": (
        _link(h5py.ExternalLink("/tmp/other.h5", "/x")),
        "is a link",
    ),
    "a soft link": (_link(h5py.SoftLink("/x")), "is a link"),
    "a link of a group": (
        lambda root, _: root.__setitem__("y", h5py.ExternalLink("/z", "/")),
        "/y in model.weights.h5 is a link",
    ),
    "a circle": (
        lambda root, _: root.__setitem__("y", root["/"]),
        "/y in model.weights.h5 is there twice",
    ),
    "objects": (
        _replaced(
            lambda root, name, shape, _: root.create_dataset(
                name, shape, h5py.string_dtype()
            )
        ),
        "is no array of numbers",
    ),
    "a type": (
        lambda root, _: root.__setitem__("y", np.dtype("f4")),
        "is no array of numbers",
    ),
    "an enormous array": (_replaced(_enormous), "larger than what is stored"),
    "a plug-in": (_replaced(_with_plugin), "needs a plug-in"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_elsewhere_are_refused(tmp_path, kind):
    change, message = WEIGHTS[kind]
    path = saved(tmp_path / "model.keras")
    change_weights(path, change)
    with pytest.raises(keras_files.NotStock, match=message):
        keras_files.load(path)


def test_weights_that_are_packed_are_read(tmp_path):
    path = saved(tmp_path / "model.keras")
    expected = keras_files.load(path).get_weights()

    def pack(root, name):
        values = root[name][()]
        del root[name]
        root.create_dataset(name, data=values, compression="gzip", shuffle=True)

    change_weights(path, pack)
    write(path, read(path), zipfile.ZIP_DEFLATED)
    for weight, other in zip(
        keras_files.load(path).get_weights(), expected, strict=True
    ):
        np.testing.assert_array_equal(weight, other)


@pytest.mark.parametrize(
    "members, message",
    [
        ({"model.weights.npz": b"x"}, "holds 'model.weights.npz'"),
        ({"assets/x": b"x"}, "holds 'assets/x'"),
        ({"../x": b"x"}, "holds '../x'"),
        ({"config.json": b"{"}, "config.json: Expecting"),
        ({"config.json": b"\xff\xfe"}, "config.json: "),
        ({"config.json": bytes(2**25)}, "compressed beyond reason"),
        ({"config.json": b"{}"}, "it is no model"),
        ({"config.json": b"[]"}, "it is no model"),
    ],
)
def test_other_members_are_refused(tmp_path, members, message):
    path = saved(tmp_path / "model.keras")
    write(path, read(path) | members, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=message):
        keras_files.load(path)


def test_weights_alone_are_refused(tmp_path):
    path = tmp_path / "model.keras"
    network().save(tmp_path / "model.h5", save_format="h5")
    os.rename(tmp_path / "model.h5", path)  # the old form, which has no rules
    with pytest.raises(ValueError, match="is no complete .keras file"):
        keras_files.load(path)
    write(path, {"config.json": b"{}"})
    with pytest.raises(keras_files.NotStock, match="it holds too little"):
        keras_files.load(path)


def test_what_is_checked_is_what_is_loaded(tmp_path, monkeypatch):
    path = saved(tmp_path / "model.keras")
    check = keras_files.check_weights

    def replaced(file):
        check(file)
        path.write_bytes(b"")  # by another program, in the meantime

    monkeypatch.setattr(keras_files, "check_weights", replaced)
    assert len(keras_files.load(path).get_weights()) == 2


KERAS = layers.Layer.__module__.split(".")[0]


def features_of(model):
    """The features of the stored images, and those that were stored."""
    with np.load(REFERENCE / "features.npz") as file:
        return model(file["images"], training=False), file["features"]


@pytest.mark.parametrize("form", ["keras", "exported"])
@pytest.mark.parametrize("version", ["2.15", "2.21"])
def test_a_file_of_either_lane_is_read_here(version, form):
    model = keras_files.load(REFERENCE / f"{form}_{version}.keras")
    features, expected = features_of(model)
    np.testing.assert_allclose(features, expected, rtol=1e-5)


@pytest.mark.parametrize("version", ["2.15", "2.21"])
def test_keras_reads_what_either_lane_exports(version):
    model = tf.keras.models.load_model(REFERENCE / f"exported_{version}.keras")
    features, expected = features_of(model)
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    config = read(REFERENCE / f"exported_{version}.keras")["config.json"]
    assert b"tf_keras" not in config


@pytest.mark.skipif(KERAS == "tf_keras", reason="tf-keras reads its own")
def test_keras_2_15_does_not_read_what_tf_keras_saves_itself():
    with pytest.raises(TypeError, match="tf_keras"):
        tf.keras.models.load_model(REFERENCE / "keras_2.21.keras")
