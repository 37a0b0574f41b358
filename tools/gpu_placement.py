"""Where the operations of a traced step run on a GPU, asked on any machine.

TensorFlow's wheel for Linux is built with CUDA: its registry names the kernels
of GPUs, the types that they take and which of their arguments lie in the host's
memory, whether there is a GPU or not. `faults` follows a graph along its edges
and names what would run on the host, or make the host wait for the GPU.

What is assumed: every operation with a GPU kernel runs there (as TensorFlow
places those that no device is named for), the batch lies on the GPU, and a
function runs where it is called. An int32 that passes a call, a loop, a
condition or an identity then lies in the host's memory, as their kernels have
it; other identities are taken out. Not asked: how long something takes, and
what XLA needs as a constant.
"""

import functools
import pathlib
from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.framework import kernels, op_def_registry
from tensorflow.python.util import pywrap_xla_ops

NO_KERNEL = "no GPU kernel"
NO_XLA = "no XLA kernel"
READ_BACK = "read back"
WAIT = "host waits"
HOST_MATRIX = "computed on host"

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_GPU, _XLA = ("GPU", "DEFAULT"), ("XLA_GPU_JIT",)
_LIBRARIES = ("keras", "tf_keras", "keras_cv", "tensorflow_addons")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_CONDITIONS = ("If", "StatelessIf", "Case", "StatelessCase")
_LOOPS = ("While", "StatelessWhile")
_ON_HOST = (tf.int32, tf.string, tf.resource)  # where they pass one of these


class Fault(NamedTuple):
    """Something that would not run as it should on a GPU.

    Attributes:
      kind: str, one of the above.
      operation: str, its name in the registry.
      subject: str: its types; or an argument, and the operation that made it.
      place: str, file and line in the product, or the operation's name; then
        the library's module that the product calls there, if there is one.
      shape: str, of the argument, or "".
    """

    kind: str
    operation: str
    subject: str
    place: str
    shape: str = ""

    def __str__(self):
        shape = f" {self.shape}" if self.shape else ""
        words = f"{self.kind}: {self.operation}({self.subject}){shape}"
        return f"{words} at {self.place}"


class Allowed(NamedTuple):
    """A fault that stays, and why.

    Attributes:
      kind, operation: of the Fault; "": any.
      place: str, part of its place.
      reason: str.
    """

    kind: str
    operation: str
    place: str
    reason: str

    def covers(self, fault):
        """Whether a Fault is the one that stays."""
        return (
            self.kind in ("", fault.kind)
            and self.operation in ("", fault.operation)
            and self.place in fault.place
        )


ALLOWED = (
    Allowed(
        READ_BACK,
        "If",
        ", loss_scale_optimizer",
        "float16: Keras takes a step only if its gradients are finite",
    ),
    Allowed(
        "",
        "",
        "evaluation/label_augment.py",
        "MixUp and CutMix: keras-cv draws a few integers for each image",
    ),
)


def unexpected(graph):
    """The faults of a graph that are not ALLOWED, a list of str."""
    return [
        f"{count} x {fault}"
        for fault, count in faults(graph).items()
        if not any(allowed.covers(fault) for allowed in ALLOWED)
    ]


def faults(graph):
    """The faults of a graph and of all functions that it calls.

    Args:
      graph: FuncGraph, of a concrete function.

    Returns:
      dict of the number of operations by Fault, in the graph's order.
    """
    walk = _Walk()
    captures = {
        tensor.ref()
        for tensor in (
            *graph.internal_captures,
            *graph.deferred_internal_captures,  # numbers of collectives
        )
    }
    for tensor in graph.inputs:
        # What is given lies on the GPU, as a batch does: one more border.
        if tensor.dtype == tf.int32 and tensor.ref() not in captures:
            walk.add(READ_BACK, tensor.op, "given", tensor)
    walk.follow(graph, [_passed(tensor.dtype) for tensor in graph.inputs])
    return walk.faults


class Memory(NamedTuple):
    """Where a tensor lies.

    Attributes:
      on_gpu: bool; False: in the host's memory.
      folded: bool, whether it is computed once, before the first step.
    """

    on_gpu: bool
    folded: bool = False


class _Walk:
    """Follows graphs and collects their faults."""

    def __init__(self):
        self.faults = {}
        self._memory = {}  # of tensors
        self._on_gpu = {}  # whether an operation is one that the host waits for

    def follow(self, graph, inputs):
        """Follows a graph whose inputs lie in these Memories."""
        for tensor, memory in zip(graph.inputs, inputs, strict=True):
            self._memory[tensor.ref()] = memory
        for operation in _needed(graph):
            if operation.type != "Placeholder":
                outputs = self._outputs(operation)
                for tensor, memory in zip(
                    operation.outputs, outputs, strict=True
                ):
                    self._memory[tensor.ref()] = memory

    def _outputs(self, operation):
        """Looks at an operation; returns the Memory of its outputs."""
        node = operation.node_def
        if node.op in (*_CALLS, *_CONDITIONS, *_LOOPS):
            return self._border(operation, node)
        kernel = _kernel(node)
        on_host = () if kernel is None else kernel.host_memory_arg
        self._on_gpu[operation] = kernel is not None
        if node.op == "NoOp":
            self._on_gpu[operation] = bool(self._controls(operation))
        if kernel is None:
            self.add(NO_KERNEL, operation, _types(node))
            for source in self._controls(operation):
                self.add(WAIT, operation, f"after {source.type}")
        definition = op_def_registry.get(node.op)
        folded = not definition.is_stateful
        names = _names(definition.input_arg, node.attr)
        for name, tensor in zip(names, operation.inputs, strict=True):
            memory = self._memory[tensor.ref()]
            folded = folded and memory.folded
            if kernel is None or name in on_host:
                self._read_on_host(operation, name, tensor)
            elif not memory.on_gpu and _is_matrix(tensor):
                self.add(HOST_MATRIX, operation, name, tensor)
        if node.op == "Identity" and tensor.dtype not in _ON_HOST:
            return [memory]
        return [
            Memory(kernel is not None and name not in on_host, folded)
            for name in _names(definition.output_arg, node.attr)
        ]

    def _border(self, operation, node):
        """Looks at a call, a condition or a loop, and into its functions."""
        self._on_gpu[operation] = True
        bodies = _functions(operation.graph, node)
        if node.attr["_XlaMustCompile"].b:
            for body in bodies.values():
                self._compiled(body)
            return [Memory(on_gpu=True)] * len(operation.outputs)
        tensors = list(operation.inputs)
        if node.op in _CONDITIONS:
            self._read_on_host(operation, "condition", tensors.pop(0))
        passed = []
        for tensor in tensors:
            if tensor.dtype in _ON_HOST:
                self._read_on_host(operation, "argument", tensor)
            folded = self._memory[tensor.ref()].folded
            passed.append(
                _passed(tensor.dtype, folded and node.op not in _LOOPS)
            )
        for name, body in bodies.items():
            self.follow(body, passed)
            for tensor in body.outputs:
                if name == "cond" or tensor.dtype in _ON_HOST:
                    self._read_on_host(operation, "result", tensor)
        return [_passed(tensor.dtype) for tensor in operation.outputs]

    def _compiled(self, graph):
        """Looks at the operations of a function that XLA compiles."""
        for operation in _needed(graph):
            node = operation.node_def
            if node.op != "Placeholder" and _kernel(node, _XLA) is None:
                self.add(NO_XLA, operation, _types(node))
            if node.op in _CONDITIONS:  # of XLA's, too, the host chooses
                self.add(READ_BACK, operation, "condition", operation.inputs[0])
            for body in _functions(graph, node).values():
                self._compiled(body)

    def _controls(self, operation):
        """The GPU's operations that an operation runs after."""
        controls = operation.control_inputs
        return [source for source in controls if self._on_gpu.get(source)]

    def _read_on_host(self, operation, name, tensor):
        """Adds a fault where the host needs a tensor that it does not have."""
        memory = self._memory[tensor.ref()]
        if memory.on_gpu and not memory.folded:
            self.add(READ_BACK, operation, name, tensor)

    def add(self, kind, operation, subject, tensor=None):
        """Adds a fault of an operation, and of a tensor if it is given."""
        shape = ""
        if tensor is not None:
            subject = f"{subject}, of {tensor.op.type}"
            shape = f"{tensor.dtype.name}{tensor.shape}"
        place = _place(operation)
        fault = Fault(kind, operation.type, subject, place, shape)
        self.faults[fault] = self.faults.get(fault, 0) + 1


def _passed(dtype, folded=False):
    """Where a tensor lies that has passed a call, a condition or a loop."""
    return Memory(dtype not in _ON_HOST, folded)


def _kernel(node, devices=_GPU):
    """The KernelDef that runs a NodeDef on some kinds of devices, or None."""
    types = []
    for name, value in node.attr.items():
        kind = value.WhichOneof("value")
        if kind == "type":
            types.append((name, (value.type,)))
        elif kind == "list" and value.list.type:
            types.append((name, tuple(value.list.type)))
    return _kernel_for(node.op, tuple(types), devices)


@functools.cache
def _kernel_for(operation, types, devices):
    types = dict(types)
    for kernel, rules in _kernels(operation):
        if kernel.device_type in devices and all(
            allowed.issuperset(types.get(name, (None,)))
            for name, allowed in rules.items()
        ):
            return kernel
    return None


@functools.cache
def _kernels(operation):
    """The kernels of an operation, the first choice first.

    Returns:
      list of KernelDef and the types that it takes, sets by attribute.
    """
    pywrap_xla_ops.get_gpu_kernel_names()  # registers those of XLA
    registered = [
        kernel
        for kernel in kernels.get_registered_kernels_for_op(operation).kernel
        if kernel.device_type in (*_GPU, *_XLA) and not kernel.label
    ]
    registered.sort(key=lambda k: (-k.priority, k.device_type == "DEFAULT"))
    return [
        (k, {c.name: {*c.allowed_values.list.type} for c in k.constraint})
        for k in registered
    ]


def _needed(graph):
    """The operations that a graph's results and effects need, in order."""
    ends = [tensor.op for tensor in graph.outputs] + graph.control_outputs
    needed = set()
    while ends:
        operation = ends.pop()
        if operation not in needed:
            needed.add(operation)
            ends += [tensor.op for tensor in operation.inputs]
            ends += operation.control_inputs
    return [x for x in graph.get_operations() if x in needed]


def _functions(graph, node):
    """The graphs of the functions that a node runs, by its attribute."""
    functions = {}
    for name, value in node.attr.items():
        called = [value.func] if value.HasField("func") else value.list.func
        for number, function in enumerate(called):
            holder = graph
            while holder._get_function(function.name) is None:
                holder = holder.outer_graph
            body = holder._get_function(function.name).graph
            functions[f"{name}{number or ''}"] = body
    return functions


def _names(arguments, attributes):
    """The argument that each input or output of an operation is part of."""
    names = []
    for argument in arguments:
        count = 1
        if argument.number_attr:
            count = attributes[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(attributes[argument.type_list_attr].list.type)
        names += [argument.name] * count
    return names


def _is_matrix(tensor):
    """Whether a tensor grows with the product of two sizes of a run.

    Sizes up to 3 are of images, boxes and the like, and a constant is computed
    nowhere.
    """
    if tensor.op.type == "Const" or tensor.dtype in (tf.string, tf.resource):
        return False
    sizes = tensor.shape.as_list() if tensor.shape.rank else []
    return sum(size is None or size > 3 for size in sizes) > 1


def _types(node):
    """The types of a node, as "T=uint8"."""
    return ", ".join(
        f"{name}={tf.dtypes.as_dtype(value.type).name}"
        for name, value in sorted(node.attr.items())
        if value.WhichOneof("value") == "type"
    )


def _place(operation):
    """Where an operation comes from, as of Fault."""
    library = ""
    for frame in reversed(list(operation.traceback or ())):
        path = pathlib.Path(frame.filename)
        if path.is_relative_to(_ROOT / "moco_tf"):
            return f"{path.relative_to(_ROOT)}:{frame.lineno}{library}"
        if not library and set(path.parts) & set(_LIBRARIES):
            library = f", {path.stem}"
    return f"{operation.name}{library}"
