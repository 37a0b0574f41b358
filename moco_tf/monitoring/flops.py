"""Floating-point operations of a traced function, from its shapes."""

import math

_CONVOLUTIONS = {
    # operation -> inputs or output that hold (what slides, the filter)
    "Conv2D": lambda op: (op.outputs[0], op.inputs[1]),
    "Conv2DBackpropInput": lambda op: (op.inputs[2], op.inputs[1]),
    "Conv2DBackpropFilter": lambda op: (op.inputs[2], op.outputs[0]),
}


def count(graph):
    """Multiplications and additions of convolutions and matrix products.

    A multiplication with an addition counts as two. All else of an encoder is
    below a hundredth of it.

    Args:
      graph: FuncGraph of static shapes, without loops.

    Returns:
      int.

    Raises:
      ValueError: for an operation whose shapes are not known.
    """
    return sum(_of(op) for op in graph.get_operations())


def _of(op):
    if op.type in _CONVOLUTIONS:
        places, kernel = _CONVOLUTIONS[op.type](op)
        height, width, channels, _ = _known(op, kernel)
        return 2 * math.prod(_known(op, places)) * height * width * channels
    if op.type == "DepthwiseConv2dNative":
        height, width, _, _ = _known(op, op.inputs[1])
        return 2 * math.prod(_known(op, op.outputs[0])) * height * width
    if op.type == "MatMul":
        inner = _known(op, op.inputs[0])[0 if op.get_attr("transpose_a") else 1]
        return 2 * math.prod(_known(op, op.outputs[0])) * inner
    if op.type.startswith("BatchMatMul"):
        inner = _known(op, op.inputs[0])[-2 if op.get_attr("adj_x") else -1]
        return 2 * math.prod(_known(op, op.outputs[0])) * inner
    return 0


def _known(op, tensor):
    if not tensor.shape.is_fully_defined():
        raise ValueError(
            "Operations can be counted where all shapes are known. Received "
            f"{tensor.shape} at {op.name} ({op.type})."
        )
    return tensor.shape.as_list()
