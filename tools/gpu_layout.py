"""The order of the axes that a GPU is given images in, asked on any machine.

The product's images are [N, H, W, C]. Where a graph is for a GPU, TensorFlow's
layout pass may turn its images to [N, C, H, W], as that kind of GPU convolves
them faster, and transposes them where an operation wants the other order. The
pass reads a description of the GPU; so one that is described suffices.

What is assumed: every operation is on the GPU, and the pass alone goes over the
graph. What XLA compiles has an order of XLA's choice.
"""

import collections
from typing import NamedTuple

import tensorflow as tf
from tensorflow.core.protobuf import (
    config_pb2,
    device_properties_pb2,
    rewriter_config_pb2,
)
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.grappler import cluster, tf_optimizer
from tensorflow.python.training import saver

from moco_tf.models import batch_norm

_HOST = "/job:localhost/replica:0/task:0/device:"
_OF_SHAPES = ("DataFormatVecPermute", "DataFormatDimMap")


class Layouts(NamedTuple):
    """What the layout pass has made of a graph.

    Attributes:
      counts: Counter of (operation, "NHWC" or "NCHW"), of those that have one.
      transposed: Counter of (what made an image, what it is transposed for).
      read_back: int, shapes and axes that the pass has a GPU turn, which the
        host then waits for.
    """

    counts: collections.Counter
    transposed: collections.Counter
    read_back: int

    def orders(self, *operations):
        """The orders that operations have, a set of str."""
        return {
            order
            for (name, order), _ in self.counts.items()
            if not operations or name in operations
        }


def of_passes(method, images):
    """The Layouts' graph: the query encoder's passes on a batch.

    Args:
      method: Method of one replica. images: TensorSpec, uint8 [N, H, W, 3].

    Returns:
      ConcreteFunction: gradients of the weights, which are constants.
    """
    encoder = method.query_encoder

    @tf.function(autograph=False)
    def passes(images):
        # Variables are constants below: nothing may change them.
        with batch_norm.frozen_statistics(), tf.GradientTape() as tape:
            vectors = method.vectors(encoder, method.normalize(images))
            loss = tf.reduce_sum(vectors * vectors[::-1])
            return tape.gradient(loss, encoder.trainable_variables)

    return convert_to_constants.convert_variables_to_constants_v2(
        passes.get_concrete_function(images)
    )


def choose(function, capability):
    """What the layout pass does on a GPU.

    Args:
      function: ConcreteFunction without variables.
      capability: str, the GPU's compute capability, as "8.0".

    Returns:
      Layouts.
    """
    nodes = _optimized(function, capability).node
    counts = collections.Counter(
        (node.op, node.attr["data_format"].s.decode())
        for node in nodes
        if node.attr["data_format"].s
    )
    turned = {node.name: node for node in nodes if node.op == "Transpose"}
    transposed: collections.Counter = collections.Counter()
    for node in nodes:
        for name in node.input:
            if name in turned and _is_image(function.graph, turned[name]):
                source = _source(function.graph, turned[name])
                transposed[source.type, node.op] += 1
    read_back = sum(
        node.op in _OF_SHAPES and node.attr["_kernel"].s != b"host"
        for node in nodes
    )
    return Layouts(counts, transposed, read_back)


def _source(graph, node):
    """The operation whose result a node transposes."""
    name = node.input[0].partition(":")[0]
    # That of a transposition that was there before is the one before it.
    return graph.get_operation_by_name(name)


def _is_image(graph, node):
    """Whether a node transposes more than a row of channels."""
    sizes = _source(graph, node).outputs[0].shape.as_list()
    return sum(size != 1 for size in sizes) > 1


def _optimized(function, capability):
    """The GraphDef of a function after the layout pass, on a described GPU."""
    graph_def = function.graph.as_graph_def()
    for node in graph_def.node:
        node.device = _HOST + "GPU:0"
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        meta = saver.export_meta_graph(
            graph=graph, graph_def=graph.as_graph_def(add_shapes=True)
        )
    results = meta.collection_def["train_op"].node_list.value
    results.extend(tensor.name for tensor in function.outputs)
    config = config_pb2.ConfigProto()
    rewriter = config.graph_options.rewrite_options
    rewriter.optimizers.append("layout")
    rewriter.layout_optimizer = rewriter_config_pb2.RewriterConfig.ON
    rewriter.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    rewriter.min_graph_nodes = -1
    rewriter.fail_on_optimizer_errors = True
    devices = [
        device_properties_pb2.NamedDevice(
            name=f"{_HOST}{kind}:0",
            properties=device_properties_pb2.DeviceProperties(
                type=kind,
                environment={"architecture": capability},
                frequency=1000,
                num_cores=1,
                memory_size=2**34,
            ),
        )
        for kind in ("GPU", "CPU")
    ]
    described = cluster.Cluster(devices=devices)
    return tf_optimizer.OptimizeGraph(config, meta, cluster=described)
