"""Write a model bundle: the model file, and the manifest that the consumer will hold it to."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import joblib
import numpy as np
import onnx
import sklearn
from numpy.typing import NDArray
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

from consumer.core.engines import open_model
from consumer.core.feature_sets import FeatureSet
from consumer.core.manifest import (
    MANIFEST_FILE,
    GoldenRow,
    Histogram,
    Manifest,
    ModelFile,
    Thresholds,
)
from consumer.core.model import Model
from consumer.core.quickscorer import UnsupportedEnsembleError

Engine = Literal["auto", "quickscorer", "onnxruntime", "sklearn"]

GOLDEN_ROWS: Final = 64
_HISTOGRAM_BINS: Final = 20


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted classifier and all that a manifest says about it; rows are float32[n, features]."""

    classifier: Any
    rows: NDArray[np.float32]
    is_fraud: NDArray[np.bool_]
    thresholds: Thresholds
    training: dict[str, str | int | float]
    metrics: dict[str, float]


def write_bundle(
    folder: Path, trained: Trained, feature_set: FeatureSet, name: str, engine: Engine
) -> Manifest:
    """
    Write the bundle to `folder`, replacing a bundle that is there, whole or not at all.

    `auto` takes QuickScorer where it can, else ONNX Runtime; `sklearn` writes a joblib pickle.
    """
    data = _pickled(trained.classifier) if engine == "sklearn" else as_onnx(trained.classifier)
    engine, model = _opened(engine, data, len(feature_set.names))
    digest = hashlib.sha256(data).hexdigest()
    file = "model.joblib" if engine == "sklearn" else "model.onnx"
    manifest = Manifest(
        name=name,
        version=digest[:12],
        engine=engine,
        model=ModelFile(name=file, size_bytes=len(data), sha256=digest),
        feature_set=feature_set.name,
        feature_names=list(feature_set.names),
        thresholds=trained.thresholds,
        genuine_medians=np.median(trained.rows[~trained.is_fraud], axis=0).tolist(),
        golden=_golden_rows(trained.rows, model),
        reference=_reference(trained.rows, feature_set),
        training=trained.training,
        metrics=trained.metrics,
        sklearn_version=sklearn.__version__,
    )
    _replace(folder, {file: data, MANIFEST_FILE: manifest.model_dump_json(indent=2).encode()})
    return manifest


def as_onnx(classifier: Any) -> bytes:
    """Convert a fitted scikit-learn classifier; its input is float32[n, features]."""
    inputs = [("features", FloatTensorType([None, classifier.n_features_in_]))]
    with _booleans_as_integers():
        model = to_onnx(classifier, initial_types=inputs, options={"zipmap": False})
    data: bytes = model.SerializeToString()
    return data


@contextmanager
def _booleans_as_integers() -> Iterator[None]:
    """
    Let onnx take lists that mix booleans with integers.

    skl2onnx 1.20 makes such lists from HistGradientBoosting of scikit-learn 1.9, and onnx refuses
    them ("Expected an int, got a boolean").
    """
    strict = onnx.helper.make_attribute

    def lenient(key: str, value: Any, *args: Any, **kwargs: Any) -> onnx.AttributeProto:
        if isinstance(value, list) and any(isinstance(item, bool) for item in value):
            value = [int(item) for item in value]
        return strict(key, value, *args, **kwargs)

    onnx.helper.make_attribute = lenient
    try:
        yield
    finally:
        onnx.helper.make_attribute = strict


def _pickled(classifier: Any) -> bytes:
    out = BytesIO()
    joblib.dump(classifier, out)
    return out.getvalue()


def _opened(engine: Engine, data: bytes, feature_count: int) -> tuple[Engine, Model]:
    if engine != "auto":
        return engine, open_model(engine, data, feature_count)
    try:
        return "quickscorer", open_model("quickscorer", data, feature_count)
    except UnsupportedEnsembleError:
        return "onnxruntime", open_model("onnxruntime", data, feature_count)


def _golden_rows(rows: NDArray[np.float32], model: Model) -> list[GoldenRow]:
    """Pick rows over the whole range of scores: the likeliest frauds and what lies between."""
    probabilities = model.score(rows)
    order = np.argsort(probabilities, kind="stable")
    picked = rows[order[np.linspace(0, len(order) - 1, min(GOLDEN_ROWS, len(order))).astype(int)]]
    scored = zip(picked.tolist(), model.score(picked).tolist(), strict=True)
    return [GoldenRow(features=features, probability=p) for features, p in scored]


def _reference(rows: NDArray[np.float32], feature_set: FeatureSet) -> dict[str, Histogram]:
    """Bin each feature at its own quantiles: what drift is later measured against."""
    histograms = {}
    for column, name in enumerate(feature_set.names):
        values = rows[:, column].astype(np.float64)
        edges = np.unique(np.quantile(values, np.linspace(0, 1, _HISTOGRAM_BINS + 1)))
        if len(edges) == 1:
            edges = np.array([edges[0], edges[0] + 1])
        counts, _ = np.histogram(values, edges)
        histograms[name] = Histogram(edges=edges.tolist(), counts=counts.tolist())
    return histograms


def _replace(folder: Path, files: dict[str, bytes]) -> None:
    """
    Put the files where the folder is, in two renames: a reader sees the old bundle or the new.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh = Path(scratch) / "new"
        fresh.mkdir()
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        if folder.exists():
            if not (folder / MANIFEST_FILE).exists() and any(folder.iterdir()):
                raise FileExistsError(f"{folder} holds something else than a model bundle")
            shutil.move(folder, Path(scratch) / "old")
        fresh.rename(folder)
