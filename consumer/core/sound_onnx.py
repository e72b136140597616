"""
What an ONNX file may hold: enough to classify rows, and nothing that a stranger could use.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import onnx

_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_LOOPS: Final = frozenset({"Loop", "Scan"})
_CHANCE: Final = frozenset(
    {
        "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike",
    }
)  # fmt: skip
_MOST_ELEMENTS: Final = 2**28
"""Of one tensor whose size is known before it runs: 1 GiB of float32."""


def refuse_unsound(data: bytes) -> None:
    """
    Return when the file is sound. Nothing of it runs.

    Raises ValueError for operators beyond ONNX's own, weights outside the file, loops, chance, and
    tensors of absurd size, and what onnx raises on bytes that are no model.
    """
    model = onnx.load_from_string(data)
    if model.functions:
        raise ValueError("it uses operators of its own making")
    for message in _messages_in(model):
        if isinstance(message, onnx.NodeProto):
            _refuse_operator(message.domain, message.op_type)
        elif isinstance(message, onnx.TensorProto):
            _refuse_outside(message)
            _refuse_size(message.dims)
    _disbelieve_sizes(model)
    for message in _messages_in(onnx.shape_inference.infer_shapes(model, data_prop=True)):
        if isinstance(message, onnx.TensorShapeProto):
            _refuse_size(part.dim_value for part in message.dim)


def _refuse_operator(domain: str, operator: str) -> None:
    if domain not in _DOMAINS:
        raise ValueError(f"it uses operators of {domain!r}")
    if operator in _LOOPS:
        raise ValueError(f"it uses {operator}, which may go on for ever")
    if operator in _CHANCE:
        raise ValueError(f"it uses {operator}: the same row would not get the same score")


def _refuse_outside(tensor: onnx.TensorProto) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError("it keeps weights in another file")


def _refuse_size(dimensions: Iterable[int]) -> None:
    """Dimensions that are not known, as the number of rows, are 0 here and count as 1."""
    size = math.prod(max(1, dimension) for dimension in dimensions)
    if size > _MOST_ELEMENTS:
        raise ValueError(f"it has a tensor of {size} elements")


def _disbelieve_sizes(model: onnx.ModelProto) -> None:
    """Take out what the file says of its results' sizes, so that they are inferred."""
    for message in _messages_in(model):
        if isinstance(message, onnx.GraphProto):
            del message.value_info[:]
            for output in message.output:
                output.ClearField("type")


def _messages_in(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and all below it: branches and constants have nodes too."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for part in value if descriptor.is_repeated else [value]:
                yield from _messages_in(part)
