"""
Engines behind the Model port, opened from the bytes of a model file that somebody has checked.
"""

from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.core.model import Model
from consumer.core.quickscorer import QuickScorer, UnsupportedEnsembleError

ENGINES: Final = ("quickscorer", "onnxruntime", "sklearn")
_ONNX_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})


def open_model(engine: str, data: bytes, feature_count: int) -> Model:
    """
    Return the model in these bytes, as the engine runs it. `sklearn` runs code of the file.

    Raises UnsupportedEnsembleError where QuickScorer lacks what the model needs, and whatever the
    engine's library raises on a bad file.
    """
    if engine == "sklearn":
        return SklearnModel(data)
    _refuse_foreign_onnx(data)
    return _quickscorer(data, feature_count) if engine == "quickscorer" else OnnxRuntimeModel(data)


def _refuse_foreign_onnx(data: bytes) -> None:
    """Refuse operators beyond ONNX's own, and weights outside the hashed file."""
    import onnx

    for message in _messages_in(onnx.load_from_string(data)):
        if isinstance(message, onnx.NodeProto) and message.domain not in _ONNX_DOMAINS:
            raise ValueError(f"it uses operators of {message.domain!r}")
        if (
            isinstance(message, onnx.TensorProto)
            and message.data_location == onnx.TensorProto.EXTERNAL
        ):
            raise ValueError("it keeps weights in another file")


def _messages_in(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and all below it: branches, functions and constants have nodes."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for part in value if descriptor.is_repeated else [value]:
                yield from _messages_in(part)


def _quickscorer(data: bytes, feature_count: int) -> Model:
    import onnx

    nodes = onnx.load_from_string(data).graph.node
    if len(nodes) != 1 or nodes[0].op_type != "TreeEnsembleClassifier":
        raise UnsupportedEnsembleError("it is not a single TreeEnsembleClassifier")
    attributes: dict[str, Any] = {
        attribute.name: onnx.helper.get_attribute_value(attribute)
        for attribute in nodes[0].attribute
    }
    return QuickScorer(attributes, feature_count)


class OnnxRuntimeModel:
    """Any ONNX classifier. One thread: with two, probabilities changed with the batch size."""

    engine: Final = "onnxruntime"

    def __init__(self, data: bytes) -> None:
        """Open a session over the bytes. Raises whatever onnxruntime does on a bad file."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[-1].name

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return float64[n]: the second column of the last output, the positive class."""
        [probabilities] = self._session.run([self._output], {self._input: rows})
        scored: NDArray[np.float64] = probabilities[:, 1].astype(np.float64)
        return scored


class SklearnModel:
    """A pickled scikit-learn classifier, on one thread."""

    engine: Final = "sklearn"

    def __init__(self, data: bytes) -> None:
        """Unpickle, which runs code of the file: only after its hash and our user said so."""
        import joblib
        import threadpoolctl

        self._model = joblib.load(BytesIO(data))
        self._threads = threadpoolctl.ThreadpoolController()

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return float64[n]: the probability of the second class."""
        with self._threads.limit(limits=1):
            scored: NDArray[np.float64] = self._model.predict_proba(rows)[:, 1].astype(np.float64)
        return scored
