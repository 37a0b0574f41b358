"""Rows of models/: layers, backbones and their copies."""

import functools
import sys
from importlib import metadata

import numpy as np
import tensorflow as tf

from moco_tf.models import (
    batch_norm,
    cloning,
    heads,
    keras_cv_backbones,
    keras_files,
    saved_models,
)
from moco_tf.models import encoder as encoders
from tests.remedies import following

ROWS = following.Rows("models/*.py")

KERAS_NORM = tf.keras.layers.BatchNormalization
OURS = batch_norm.BatchNorm


def normalise(shape, **options):
    """Trains a BatchNorm on values of a shape once."""
    layer = OURS(**options)
    values = np.random.default_rng(0).standard_normal(shape)
    return layer(values.astype(np.float32), training=True)


class Subclassed(tf.keras.Model):
    """A network that is no graph of layers."""

    def __init__(self, norm=OURS):
        super().__init__(name="subclassed")
        self.norm = norm()

    def call(self, images, training=False):
        return tf.reduce_mean(self.norm(images, training=training), [1, 2])

    def get_config(self):
        return {}


class Scaled(tf.keras.layers.Layer):
    """A layer whose config forgets its units, unless it is told to."""

    def __init__(self, units=2, says=False, **options):
        super().__init__(**options)
        self.units, self.says = units, says

    def build(self, input_shape):
        self.kernel = self.add_weight("kernel", [self.units])

    def call(self, inputs):
        return inputs * tf.reduce_sum(self.kernel)

    def get_config(self):
        config = {"name": self.name}
        if self.says:
            config |= {"units": self.units, "says": True}
        return config


class Required(Scaled):
    """As Scaled, of units that must be given."""

    def __init__(self, units, says=False, **options):
        super().__init__(units, says, **options)


def after(layer, shape=(8, 8, 3)):
    """A model of one layer, flattened to features."""
    images = tf.keras.Input(shape)
    features = tf.keras.layers.Flatten()(layer(images))
    return tf.keras.Model(images, features, name="net")


@ROWS.followed("models/batch_norm.py:BatchNorm.__init__", "Pass splits=1")
def synchronised_groups():
    yield lambda: OURS(splits=2, synchronized=True)
    yield lambda: OURS(splits=1, synchronized=True)


@ROWS.followed(
    "models/batch_norm.py:BatchNorm._check_batch", "must be a multiple"
)
def groups_of_a_batch():
    yield lambda: normalise([6, 4], splits=4)
    yield lambda: normalise([8, 4], splits=4)  # the batch
    yield lambda: normalise([6, 4], splits=3)  # the number of groups


@ROWS.followed(
    "models/batch_norm.py:BatchNorm._check_batch", "more than one value"
)
def groups_of_one_value():
    yield lambda: normalise([2, 1, 1, 4], splits=2)
    yield lambda: normalise([2, 2, 2, 4], splits=2)  # larger images
    yield lambda: normalise([4, 1, 1, 4], splits=2)  # a larger batch
    yield lambda: normalise([2, 1, 1, 4], splits=1)  # fewer groups


@ROWS.followed("models/batch_norm.py:replica_moments", "strategy.run")
def statistics_outside_of_a_replica():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    rows = tf.ones([4, 2])

    def in_scope(function, **options):
        with strategy.scope():
            return function(rows, **options)

    yield lambda: in_scope(batch_norm.replica_moments)
    yield lambda: strategy.run(batch_norm.replica_moments, [rows])
    yield lambda: in_scope(OURS(synchronized=True), training=False)


@ROWS.followed("models/cloning.py:swap_batch_norm", "functional keras.Model")
def swap_in_a_subclassed_model():
    yield lambda: cloning.swap_batch_norm(Subclassed(KERAS_NORM))
    # Its definition has the layer itself: nothing is to be swapped.
    yield lambda: normal_layers(Subclassed(OURS))


@ROWS.followed("models/cloning.py:swap_batch_norm", "cannot be")
def swap_out_of_reach():
    class Block(tf.keras.layers.Layer):
        def __init__(self, norm=KERAS_NORM, **options):
            super().__init__(**options)
            self.parts = [norm(name="hidden")]

        def call(self, inputs):
            return self.parts[0](inputs)

        def get_config(self):
            return {"name": self.name}

    class Ours(Block):
        def __init__(self, norm=OURS, **options):
            super().__init__(norm, **options)

    yield lambda: cloning.swap_batch_norm(after(Block()))
    yield lambda: normal_layers(cloning.swap_batch_norm(after(Ours())))


def normal_layers(model):
    """Refuses a model with Keras' own layer left in it."""
    left = [x for x in cloning.sublayers(model) if type(x) is KERAS_NORM]
    assert not left


@ROWS.followed("models/cloning.py:_batch_norm_like", "channels-last")
def swap_of_another_axis():
    yield lambda: cloning.swap_batch_norm(after(KERAS_NORM(axis=1)))
    yield lambda: cloning.swap_batch_norm(after(KERAS_NORM(axis=-1)))


@ROWS.followed("models/cloning.py:copy_weights", "get_config()")
def copy_with_other_variables():
    yield lambda: cloning.clone(after(Scaled(5)))
    yield lambda: cloning.clone(after(Scaled(5, says=True)))


@ROWS.followed("models/encoder.py:build_backbone", "Leave them")
def options_of_resnets(monkeypatch):
    # What keras-cv makes of them takes ten seconds, and is no part of it.
    monkeypatch.setattr(keras_cv_backbones, "build", lambda *_, **__: "built")
    build = functools.partial(encoders.build_backbone, "keras_cv:resnet50")
    yield lambda: build(width=0.5, stem="cifar")
    yield lambda: build(width=1.0, stem="imagenet", channels=3)


@ROWS.followed("models/encoder.py:check_stages", "to train all of it")
def stages_of_another_network():
    name = "keras_cv:densenet121"
    text = yield lambda: encoders.check_stages(name, ["stem"])
    assert following.advised(text) == [{"model.freeze": ""}]
    yield lambda: encoders.check_stages(name, [])


@ROWS.followed("models/encoder.py:check_stages", "must name stages")
def stage_that_there_is_not():
    text = yield lambda: encoders.check_stages("resnet18", ["stage"])
    name = following.suggested(text)
    yield lambda: encoders.check_stages("resnet18", [name])


@ROWS.followed("models/encoder.py:feature_size", "Wrap it")
def backbone_that_is_subclassed():
    backbone = Subclassed()
    yield lambda: encoders.feature_size(backbone)
    inputs = tf.keras.Input([8, 8, 3])
    wrapped = tf.keras.Model(inputs, backbone(inputs))
    yield lambda: encoders.Encoder(
        wrapped, heads.projection_head("fc", 3, 4)
    ).clone()


@ROWS.followed("models/encoder.py:feature_size", "Make a keras.Model")
def backbone_of_two_outputs():
    model = after(tf.keras.layers.ReLU())
    both = tf.keras.Model(model.input, [model.output, model.output])
    yield lambda: encoders.feature_size(both)
    yield lambda: encoders.feature_size(
        tf.keras.Model(both.input, both.outputs[0])
    )


@ROWS.followed("models/encoder.py:feature_size", "For a feature map add")
def backbone_of_a_feature_map():
    images = tf.keras.Input([8, 8, 3])
    layers = tf.keras.layers
    x = layers.Conv2D(5, 3)(images)
    yield lambda: encoders.feature_size(tf.keras.Model(images, x))
    for end in (layers.GlobalAveragePooling2D(), layers.Flatten()):
        yield lambda end=end: encoders.feature_size(
            tf.keras.Model(images, end(x))
        )


@ROWS.followed("models/encoder.py:Encoder.__init__", "Make it by projection")
def head_of_other_features():
    backbone = after(tf.keras.layers.ReLU(), [2])
    head = heads.projection_head("fc", 3, 4)
    text = yield lambda: encoders.Encoder(backbone, head)
    assert "projection_head(kind, 2, dim)" in text
    head = heads.projection_head("fc", 2, 4)
    yield lambda: encoders.Encoder(backbone, head)


@ROWS.followed("models/encoder.py:_clone", "Give the layer a get_config")
def layer_that_cannot_be_made_again():
    def clone(layer):
        backbone = after(layer, [2])
        head = heads.projection_head("fc", 2, 4)
        return encoders.Encoder(backbone, head).clone()

    yield lambda: clone(Required(5))
    yield lambda: clone(Required(5, says=True))


@ROWS.followed("models/encoder.py:recomputing", "model.recompute=false")
def recompute_of_others():
    backbone = after(tf.keras.layers.ReLU(), [2])
    head = heads.projection_head("fc", 2, 4)
    yield lambda: encoders.Encoder(backbone, head, recompute=True)
    yield lambda: encoders.Encoder(backbone, head, recompute=False)


@ROWS.followed("models/keras_cv_backbones.py:_keras_cv", "keras-cv==0.9.0")
def keras_cv_is_missing(monkeypatch):
    def build(name):
        return encoders.build_backbone(name, image_size=32, width=1.0)

    monkeypatch.setitem(sys.modules, "keras_cv", None)
    text = yield lambda: build("keras_cv:mobilenetv3_small")
    (remedy,) = following.advised(text)
    assert remedy["model.backbone"] in encoders.RESNETS
    yield lambda: build("resnet18")  # a smaller one of those
    # What is installed, from the locks, is that version.
    yield lambda: text.index(f"keras-cv=={metadata.version('keras-cv')}")


# Models that others, or `export`, have written.


class Elsewhere(tf.keras.layers.Layer):
    """A layer that another program knows."""

    __module__ = "elsewhere"


def saved(folder, layer=None):
    """A small network as a .keras file and as a SavedModel."""
    folder.mkdir()
    model = after(layer or tf.keras.layers.ReLU(), [2])
    model.save(folder / "model.keras")
    tf.saved_model.save(model, str(folder / "model"))
    return folder


@ROWS.followed("models/keras_files.py:_not_stock", "Save it as a SavedModel")
def keras_file_of_another_program(tmp_path):
    folder = saved(tmp_path / "a", Elsewhere())
    yield lambda: keras_files.load(folder / "model.keras")
    yield lambda: saved_models.load(folder / "model")


@ROWS.followed("models/keras_files.py:", "Save it again, or use the SavedModel")
def keras_file_that_is_cut(tmp_path):
    folder = saved(tmp_path / "a")
    path = folder / "model.keras"
    path.write_bytes(path.read_bytes()[:99])
    yield lambda: keras_files.load(path)
    yield lambda: saved_models.load(folder / "model")
    again = saved(tmp_path / "b")
    yield lambda: keras_files.load(again / "model.keras")


@ROWS.followed(
    "models/saved_models.py:_refuse_reaching_out", "Save the model without"
)
def saved_model_that_writes_a_file(tmp_path):
    def save(name, effect):
        def run():
            effect()  # whose operation is no result

        module = tf.Module()
        module.run = tf.function(run, input_signature=[])
        tf.saved_model.save(module, str(tmp_path / name))
        return tmp_path / name

    folder = save("a", lambda: tf.io.write_file("x", "y"))
    yield lambda: saved_models.load(folder)
    yield lambda: saved_models.load(save("b", lambda: None))


@ROWS.followed("models/saved_models.py:", "Export it again into a new version")
def saved_model_that_is_cut(tmp_path):
    folder = saved(tmp_path / "a")
    path = folder / "model" / "saved_model.pb"
    whole = path.read_bytes()
    path.write_bytes(b"")
    yield lambda: saved_models.load(folder / "model")
    path.write_bytes(whole)  # a copy is brought back
    yield lambda: saved_models.load(folder / "model")
    again = saved(tmp_path / "b")
    yield lambda: saved_models.load(again / "model")


ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("models/batch_norm.py:BatchNorm.__init__", "splits must be a whole"),
    ("models/batch_norm.py:BatchNorm.__init__", "momentum must lie in"),
    ("models/encoder.py:build_backbone", "backbone must be one of"),
    ("models/heads.py:projection_head", "head must be one of"),
    ("models/heads.py:projection_head", "at least one input"),
    ("models/keras_cv_backbones.py:build", "backbone must be one of"),
    ("models/resnet.py:_check", "depth must be one of"),
    ("models/resnet.py:_check", "width must be above"),
    ("models/resnet.py:_check", "stem must be one of"),
    ("models/resnet.py:_check", "norm must make a layer"),
    ("models/resnet.py:check_precision", "precision must be one of"),
)
ROWS.states(
    following.OF_A_CALLER,
    ("models/batch_norm.py:BatchNorm.build", "needs a batch axis"),
)
ROWS.states(
    following.PART_OF_ANOTHER,
    # In the message of _not_stock, or of NotStock in the card of an export.
    ("models/keras_files.py:_accepted", "beside or in place of weights"),
    ("models/keras_files.py:_accepted", "is compressed beyond reason"),
    ("models/keras_files.py:_accepted", "are nested beyond reason"),
    ("models/keras_files.py:_accepted", "{_CONFIG}: {error}"),
    ("models/keras_files.py:_accepted", "it is no model of layers"),
    ("models/keras_files.py:accept_config", "a registered name without"),
    ("models/keras_files.py:_accept_part", "as the name of a class"),
    ("models/keras_files.py:_accept_part", "{name} of a module"),
    ("models/keras_files.py:_accept_part", "{name} of no module"),
    ("models/keras_files.py:_accept_part", "is not one of them"),
    ("models/keras_files.py:check_weights", "cannot be read"),
    ("models/keras_files.py:_check_groups", "is a link"),
    ("models/keras_files.py:_check_groups", "is there twice"),
    ("models/keras_files.py:_check_array", "is no array of numbers"),
    ("models/keras_files.py:_check_array", "is of another file"),
    ("models/keras_files.py:_check_array", "needs a plug-in of HDF5"),
    ("models/keras_files.py:_check_array", "is larger than what is stored"),
)
