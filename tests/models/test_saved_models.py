"""SavedModels of anybody: only those that compute are loaded."""

import re
import sys

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from moco_tf.models import saved_models

RAW = tf.raw_ops


def write(folder, reach_out=None):
    """Writes a SavedModel with a variable, which doubles its input.

    Args:
      folder: pathlib.Path. reach_out: function of what it does besides.
    """
    module = tf.Module()
    module.factor = tf.Variable(2.0)

    @tf.function
    def inner():
        if reach_out:
            reach_out()

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    def double(x):
        inner()
        return {"y": tf.cond(x[0, 0] > 0, lambda: x * module.factor, lambda: x)}

    tf.saved_model.save(module, str(folder), signatures={"double": double})
    return folder


REACHING_OUT = {
    "ReadFile": lambda: tf.io.read_file("/etc/passwd"),
    "WriteFile": lambda: tf.io.write_file("/tmp/planted", "x"),
    "MatchingFiles": lambda: tf.io.matching_files("/home/*"),
    "EagerPyFunc": lambda: tf.py_function(print, [], []),
    "PyFunc": lambda: tf.numpy_function(print, [], []),
    "PrintV2": lambda: tf.print("x", output_stream="file:///tmp/planted"),
    "SaveV2": lambda: RAW.SaveV2(
        prefix="/tmp/planted",
        tensor_names=["x"],
        shape_and_slices=[""],
        tensors=[tf.constant(1.0)],
    ),
    "RestoreV2": lambda: RAW.RestoreV2(
        prefix="/tmp/x",
        tensor_names=["x"],
        shape_and_slices=[""],
        dtypes=[tf.float32],
    ),
    "TextLineDataset": lambda: RAW.TextLineDataset(
        filenames="/etc/passwd", compression_type="", buffer_size=0
    ),
}


@pytest.mark.parametrize("operation", REACHING_OUT)
def test_a_graph_that_reaches_out_is_refused(tmp_path, operation):
    write(tmp_path, REACHING_OUT[operation])
    with pytest.raises(ValueError, match=f"with .*{operation}.* Save"):
        saved_models.load(tmp_path)


def test_a_graph_that_computes_is_loaded(tmp_path):
    write(tmp_path, lambda: tf.print("x", output_stream=sys.stderr))
    double = saved_models.load(tmp_path).signatures["double"]
    assert double(x=tf.ones([1, 3]))["y"].numpy().tolist() == [[2, 2, 2]]


def test_a_saver_under_another_name_or_called_is_refused(tmp_path):
    path = write(tmp_path) / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (meta,) = saved.meta_graphs
    assert saved_models.reaching_out(meta) == set()
    library = {f.signature.name: f for f in meta.graph_def.library.function}
    (saver,) = (name for name in library if "traced_save" in name)
    (wrapper,) = (name for name in library if "signature_wrapper" in name)
    node = library[wrapper].node_def.add(op="StatefulPartitionedCall")
    node.attr["f"].func.name = saver
    assert "SaveV2" in saved_models.reaching_out(meta)
    del library[wrapper].node_def[-1]
    library[wrapper].node_def.add(op=saver)
    assert "SaveV2" in saved_models.reaching_out(meta)
    del library[wrapper].node_def[-1]
    library[saver].signature.name = "saves"
    assert "SaveV2" in saved_models.reaching_out(meta)


@pytest.mark.parametrize("graphs", [1, 2])
def test_a_saver_that_the_model_calls_is_refused(tmp_path, graphs):
    path = write(tmp_path, REACHING_OUT["SaveV2"]) / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    text = text_format.MessageToString(saved)
    (meta,) = saved.meta_graphs
    for number, function in enumerate(meta.graph_def.library.function):
        name = function.signature.name
        if "_traced_" not in name:
            text = text.replace(name, f"__inference__traced_save_9{number}")
    saved = text_format.Parse(text, saved_model_pb2.SavedModel())
    saved.meta_graphs.extend(saved.meta_graphs[:1] * (graphs - 1))
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(ValueError, match="with .*SaveV2"):
        saved_models.load(tmp_path)


def test_a_saver_that_a_resource_or_a_gradient_runs_is_refused(tmp_path):
    class Resource(tf.saved_model.experimental.TrackableResource):
        """Saves when it is made."""

        def _create_resource(self):
            return RAW.VarHandleOp(dtype=tf.float32, shape=[])

        def _initialize(self):
            REACHING_OUT["SaveV2"]()

    module = tf.Module()
    module.resource, module.factor = Resource(), tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path))
    path = tmp_path / "saved_model.pb"
    text = str(saved_model_pb2.SavedModel.FromString(path.read_bytes()))
    (name,) = set(re.findall(r"__inference__initializer_\d+", text))
    text = text.replace(name, "__inference__traced_save_99")
    saved = text_format.Parse(text, saved_model_pb2.SavedModel())
    (meta,) = saved.meta_graphs
    del meta.object_graph_def.concrete_functions["__inference__traced_save_99"]
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(ValueError, match="with SaveV2"):
        saved_models.load(tmp_path)
    # What nothing names but a gradient, and that is called by a saver's node.
    saved = saved_model_pb2.SavedModel.FromString(
        (write(tmp_path / "other") / "saved_model.pb").read_bytes()
    )
    (meta,) = saved.meta_graphs
    library = meta.graph_def.library
    names = [f.signature.name for f in library.function]
    (saver,) = (name for name in names if "traced_save" in name)
    assert saved_models.reaching_out(meta) == set()
    library.registered_gradients.add(
        gradient_func=saver, registered_op_type="CustomGradient-1"
    )
    assert "SaveV2" in saved_models.reaching_out(meta)


def write_first(folder, prefix=""):
    """Writes a model of TensorFlow 1 that doubles, and saves to a prefix."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3])
        factor = v1.get_variable("factor", initializer=2.0, use_resource=True)
        y = x * factor
        if prefix:
            with tf.control_dependencies(
                [RAW.SaveV2(prefix=prefix, tensor_names=["x"],
                            shape_and_slices=[""], tensors=[x])]
            ):  # fmt: skip
                y = tf.identity(y)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": y})
    return folder


def test_a_graph_of_tensorflow_1_is_loaded_where_it_computes(tmp_path):
    loaded = saved_models.load(write_first(tmp_path / "first"))
    double = loaded.signatures["serving_default"]
    assert double(x=tf.ones([1, 3]))["y"].numpy().tolist() == [[2, 2, 2]]


def test_a_graph_of_tensorflow_1_that_saves_or_restores_is_refused(tmp_path):
    folder = write_first(tmp_path / "first", str(tmp_path / "planted"))
    with pytest.raises(ValueError, match="with SaveV2"):
        saved_models.load(folder)
    assert not list(tmp_path.glob("planted*"))
    # A saver that restores from a file of its own choice, or saves.
    path = write_first(tmp_path / "second") / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (meta,) = saved.meta_graphs
    assert saved_models.reaching_out(meta) == set()
    restore = next(n for n in meta.graph_def.node if n.op == "RestoreV2")
    own = restore.input[0]
    other = meta.graph_def.node.add(name="other", op="Const")
    restore.input[0] = other.name
    assert saved_models.reaching_out(meta) == {"RestoreV2"}
    restore.input[0] = own
    (save,) = (n for n in meta.graph_def.node if n.op == "SaveV2")
    restore.input.append(f"^{save.name}")
    assert "SaveV2" in saved_models.reaching_out(meta)


def test_a_table_that_is_read_from_a_file_is_refused(tmp_path):
    (tmp_path / "words").write_text("a\nb\n")
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(tmp_path / "words"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )
    module.find = tf.function(
        module.table.lookup, input_signature=[tf.TensorSpec([], tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path / "model"))
    with pytest.raises(ValueError, match="with InitializeTableFromTextFileV2"):
        saved_models.load(tmp_path / "model")
