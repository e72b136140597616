"""
Engines behind the Model port, opened from the bytes of a model file that somebody has checked.
"""

from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.core.model import Model
from consumer.core.quickscorer import QuickScorer, UnsupportedEnsembleError

ENGINES: Final = ("quickscorer", "onnxruntime", "sklearn")


def open_model(engine: str, data: bytes, feature_count: int) -> Model:
    """
    Return the model in these bytes, as the engine runs it. `sklearn` runs code of the file.

    Raises UnsupportedEnsembleError where QuickScorer lacks what the model needs, and whatever the
    engine's library raises on a bad file.
    """
    if engine == "sklearn":
        return SklearnModel(data)
    from consumer.core.sound_onnx import refuse_unsound

    refuse_unsound(data)
    return _quickscorer(data, feature_count) if engine == "quickscorer" else OnnxRuntimeModel(data)


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
