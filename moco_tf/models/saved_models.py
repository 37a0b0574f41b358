"""SavedModels, and what is wrong with files of variables.

Checkpoints and SavedModels have variables in PREFIX.index and PREFIX.data-*.
TensorFlow's errors seldom name the file that they are about.
"""

import hashlib
import os
import pathlib
import re

import tensorflow as tf
from absl import logging
from google.protobuf import message
from tensorflow.core.protobuf import saved_model_pb2

from moco_tf import paths, state_files

CARD = "model_card.json"  # beside a SavedModel that `export` has written
CHECKSUM = "saved_model_sha256"  # its entry for the file of the graph
_REMEDY = (
    "Export it again into a new version, with `moco-tf export` and the "
    "--workdir of its run, or bring back a copy of it."
)

# Operations that call Python, or read or write files, records, logs or sockets
# that the graph itself names. An encoder computes, and needs none of them.
_REACH_OUT = re.compile(
    "PyFunc|File|Reader|Record|Summary|Rpc|Grpc|Socket|Service|Vocab"
    "|RemapMatrix|Debug(Identity|Numeric)"
    "|(TextLine|CSV|Sql|LMDB|Snapshot|Save|Load|Cache)Dataset"
)
# Those that save and restore a SavedModel's own variables, which nothing but
# its saver may run.
_OF_VARIABLES = re.compile("^(Save|Restore|MergeV2|ShardedFile)")
_RESTORES = re.compile("^Restore")

# What TensorFlow raises for a file that is damaged or cut off.
DAMAGED = (IndexError, tf.errors.OpError)


def load(folder):
    """Loads a SavedModel.

    Args:
      folder: of it.

    Returns:
      what tf.saved_model.load returns.

    Raises:
      state_files.Damaged: naming the file, if it can be told which.
      ValueError: if its graph does more than to compute.
    """
    folder = pathlib.Path(folder)
    _check_sum(folder)
    _refuse_reaching_out(folder)
    verbosity = logging.get_verbosity()
    file = folder / "fingerprint.pb"
    damage = os.path.lexists(file) and state_files.look(file, may_be_empty=True)
    if os.path.lexists(file) and not damage:
        try:
            with paths.plain(folder) as plain:
                tf.saved_model.experimental.read_fingerprint(plain)
        except (OSError, RuntimeError, ValueError, *DAMAGED) as error:
            damage = f"is damaged: {first_line(error)}"
    if damage:
        state_files.warn(f"{file} {damage}; the model does not need it")
        logging.set_verbosity(logging.FATAL)  # TensorFlow shows a traceback
    try:
        with paths.plain(folder) as plain:
            return tf.saved_model.load(plain)
    except Exception as error:  # whatever the damage leads to
        graph, prefix = (
            folder / "saved_model.pb",
            folder / "variables/variables",
        )
        damages = [(graph, state_files.look(graph)), *damaged_files(prefix)]
        damages = [(file, damage) for file, damage in damages if damage]
        if not damages and isinstance(error, DAMAGED):
            damages = [culprit(prefix, first_line(error))]
        damages.append((graph, f"cannot be loaded: {first_line(error)}"))
        file, damage = damages[0]
        raise state_files.Damaged(file, damage, _REMEDY) from error
    finally:
        logging.set_verbosity(verbosity)


def _refuse_reaching_out(folder):
    """Refuses a SavedModel whose graph uses files, sockets or Python.

    A SavedModel is a program, which TensorFlow runs with the rights of its
    user. A file that cannot be read is reported by who loads it.
    """
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    except (OSError, message.DecodeError):
        return
    one = len(saved.meta_graphs) == 1
    strange = sorted(
        {n for meta in saved.meta_graphs for n in reaching_out(meta, one)}
    )
    if strange:
        raise ValueError(
            "A SavedModel must compute and do nothing else: its graph may not "
            "use files, sockets or Python, for it may come from anybody. "
            f"Received {str(folder)!r} with {', '.join(strange[:5])}. Save the "
            "model without them, where it was trained."
        )


def reaching_out(meta_graph, only_one=True):
    """The operations of a graph that do more than to compute.

    Args:
      meta_graph: MetaGraphDef of a SavedModel.
      only_one: whether it is the model's only one; where there are several,
        TensorFlow loads them as those of TensorFlow 1.

    Returns:
      set of str, names of operations.
    """
    graph, objects = meta_graph.graph_def, meta_graph.object_graph_def
    library = {f.signature.name: f.node_def for f in graph.library.function}
    strange = _strange(graph.node).union(*map(_strange, library.values()))
    savers = set()
    if objects.nodes and only_one:
        savers = _savers(meta_graph)
        strange |= _of_variables(graph.node)
    else:  # of TensorFlow 1: its signatures run the graph, its saver restores
        strange |= _misused(meta_graph)
    called = {name: set(_called(nodes)) for name, nodes in library.items()}
    for name in _reached(set(library) - savers, called):
        strange |= _of_variables(library.get(name, ()))
    return strange


def _savers(meta_graph):
    """The functions that the saver of a graph calls, and nothing else names.

    The loader restores the variables itself: it calls what the objects name,
    and the gradients of these.
    """
    graph, saver = meta_graph.graph_def, meta_graph.saver_def
    starts = {saver.save_tensor_name, saver.restore_op_name}
    starts = {_node_of(text) for text in starts}
    called = set(_called(n for n in graph.node if n.name in starts))
    library = graph.library
    naming = [
        meta_graph.object_graph_def,
        *library.gradient,
        *library.registered_gradients,
    ]
    named = b"\n".join(part.SerializeToString() for part in naming)
    return {name for name in called if name.encode() not in named}


def _misused(meta_graph):
    """Operations of variables that a graph of TensorFlow 1 runs amiss.

    Its saver may restore, from the file that it is given; nothing else may.
    """
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    before = {
        name: {_node_of(text) for text in node.input}
        for name, node in nodes.items()
    }
    saver = meta_graph.saver_def
    given = _node_of(saver.filename_tensor_name)
    restoring = _reached({_node_of(saver.restore_op_name)}, before)
    misused = {
        nodes[name].op
        for name in restoring & set(nodes)
        if _of_variables([nodes[name]])
        and not (
            _RESTORES.match(nodes[name].op)
            and _node_of(nodes[name].input[0]) == given
        )
    }
    for name in _reached(_run(meta_graph), before) & set(nodes):
        misused |= _of_variables([nodes[name]])
    return misused


def _run(meta_graph):
    """The names of the nodes that signatures and initialisation run."""
    tensors = [
        tensor
        for signature in meta_graph.signature_def.values()
        for tensor in (*signature.inputs.values(), *signature.outputs.values())
    ]
    names = [tensor.name for tensor in tensors]
    for tensor in tensors:
        sparse = tensor.coo_sparse
        names += [
            sparse.values_tensor_name,
            sparse.indices_tensor_name,
            sparse.dense_shape_tensor_name,
        ]
        names += [part.name for part in tensor.composite_tensor.components]
    for collection in meta_graph.collection_def.values():
        names += collection.node_list.value
    return {_node_of(name) for name in names if name}


def _node_of(text):
    """The node of an input or a tensor: "^a" and "a:1" are of "a"."""
    return text.removeprefix("^").partition(":")[0]


def _reached(starts, following):
    """All names that are reached from starts.

    Args:
      starts: set of str. following: dict name -> set of the next names.
    """
    reached, waiting = set(starts), list(starts)
    while waiting:
        for name in following.get(waiting.pop(), set()) - reached:
            reached.add(name)
            waiting.append(name)
    return reached


def _of_variables(nodes):
    """The operations among nodes that save or restore variables."""
    return {node.op for node in nodes if _OF_VARIABLES.match(node.op)}


def _strange(nodes):
    """The operations among nodes that reach out of a graph."""
    strange = set()
    for node in nodes:
        if _OF_VARIABLES.match(node.op):
            continue
        prints = node.op == "PrintV2" and "output_stream" in node.attr
        to_file = prints and node.attr["output_stream"].s.startswith(b"file:")
        if _REACH_OUT.search(node.op) or to_file:
            strange.add(node.op)
    return strange


def _called(nodes):
    """The names of the functions that nodes call."""
    for node in nodes:
        for value in node.attr.values():
            yield from [value.func.name] if value.func.name else []
            yield from (function.name for function in value.list.func)
        yield node.op  # a function may be called by its name


def _check_sum(folder):
    """Compares the graph's file with the checksum in the card of an export.

    Variables have checksums of their own, which TensorFlow compares.

    Raises:
      state_files.Damaged: if it is another.
    """
    try:
        expected = state_files.read_json(folder / CARD).get(CHECKSUM)
        actual = checksum(folder)
    except (ValueError, OSError):
        return  # of another program, or read and reported by who needs it
    if expected and actual != expected:
        words = "has changed since it was exported"
        raise state_files.Damaged(folder / "saved_model.pb", words, _REMEDY)


def checksum(folder):
    """Hex SHA-256 of the graph of the SavedModel in a folder."""
    with open(pathlib.Path(folder) / "saved_model.pb", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error):
    """The first line of an error of TensorFlow or Keras, without its stop."""
    text = getattr(error, "message", None) or str(error) or repr(error)
    text = paths.without_link(text.strip())
    return text.splitlines()[0][:200].rstrip(".")


def damaged_files(prefix):
    """The files of a bundle that cannot be opened.

    Args:
      prefix: pathlib.Path, without the endings.

    Returns:
      list of (path, damage in words), the index first.
    """
    files = [(file, state_files.look(file)) for file in _files(prefix)]
    return [(file, damage) for file, damage in files if damage]


def culprit(prefix, reason):
    """The file that an error of reading is about, with the damage in words.

    Args:
      prefix: pathlib.Path, of files that can be opened.
      reason: text of TensorFlow's error.
    """
    index, data, *_ = _files(prefix)
    words = f"is damaged: {reason.rstrip('.')}"
    try:
        with paths.plain(prefix.parent) as plain:
            # Reads the index alone.
            tf.train.load_checkpoint(f"{plain}/{prefix.name}")
    except (ValueError, RuntimeError, *DAMAGED):
        return index, words
    return data, words


def _files(prefix):
    """Paths of the index and of one or more files of data."""
    prefix = pathlib.Path(prefix)
    data = sorted(prefix.parent.glob(f"{prefix.name}.data-*"))
    data = data or [prefix.with_name(f"{prefix.name}.data-00000-of-00001")]
    return [prefix.with_name(f"{prefix.name}.index"), *data]
