"""
What a test looks back on: the journal of what was sent, and all that a committed reader finds.

Read and decoded by the checker's own means; no line of this is the pipeline's.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from consumer.settings import Settings
from consumer.verify.formats import Decoder, Place, Record
from consumer.verify.log import Log
from tests.integration.traffic import Sent

_DECODERS = {name: Decoder(name) for name in ("transaction", "label", "prediction", "alert")}


@dataclass(frozen=True)
class Bundle:
    """
    What the checker believes of the model: thresholds, features, and a scorer that is not the
    served.
    """

    challenge: float
    review: float
    decline: float
    score: Callable[[Sequence[Sequence[float]]], Sequence[float]] | None = None
    feature_set: str = "arrival-1"

    def decision(self, probability: float) -> str:
        """Apply the thresholds."""
        if probability >= self.decline:
            return "DECLINE"
        if probability >= self.review:
            return "REVIEW"
        return "CHALLENGE" if probability >= self.challenge else "APPROVE"


@dataclass(frozen=True)
class History:
    """
    All there is to judge. `stuck` lists the output partitions that a transaction was left open in;
    `committed` and `ends` are by partition of the input, `bundles` by the version that predictions
    name, of one feature set all of them; `allowed` are the flags that the test
    brought about. A history that is not complete may lack outcomes from the committed offset on.
    """

    exactly_once: bool
    topic: str
    sent: Sequence[Sent]
    inputs: Sequence[Record]
    labels: Sequence[Record]
    predictions: Sequence[Record]
    alerts: Sequence[Record]
    dead_letters: Sequence[Record]
    committed: dict[int, int]
    ends: dict[int, int]
    bundles: Mapping[str, Bundle]
    stuck: Sequence[tuple[str, int]] = ()
    settle: int = 60_000_000
    grace: int = 86_400_000_000
    alert_window: int = 86_400_000_000
    allowed: frozenset[str] = frozenset({"LATE_EVENT"})
    complete: bool = True


def decode(name: str, value: bytes | None) -> dict[str, Any]:
    """Read a single-object value with fastavro. Raises UnreadableError."""
    return _DECODERS[name].read(value)


def source(prediction: dict[str, Any]) -> Place:
    """Return the coordinates of the input that a prediction or alert is about."""
    return Place(prediction["source_partition"], prediction["source_offset"])


@dataclass(frozen=True)
class Topics:
    """The five topics of one test, and their group."""

    group: str
    payments: str
    labels: str
    predictions: str
    alerts: str
    dead_letters: str

    @property
    def outputs(self) -> tuple[str, str, str]:
        """The topics that a transaction writes to."""
        return self.predictions, self.alerts, self.dead_letters


def load_bundles(folders: Iterable[Path]) -> dict[str, Bundle]:
    """Read each manifest; ONNX Runtime scores, which is not what serves the model."""
    return dict(map(_load_bundle, folders))


def _load_bundle(folder: Path) -> tuple[str, Bundle]:
    manifest = json.loads((folder / "manifest.json").read_text())
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    name = session.get_inputs()[0].name

    def score(rows: Sequence[Sequence[float]]) -> Sequence[float]:
        scores: list[float] = session.run(None, {name: np.array(rows, np.float32)})[1][:, 1]
        return scores

    bundle = Bundle(**manifest["thresholds"], score=score, feature_set=manifest["feature_set"])
    return manifest["version"], bundle


def read_history(
    settings: Settings, sent: Sequence[Sent], bundles: Mapping[str, Bundle], *,
    within_seconds: float = 20, **about: Any,
) -> History:  # fmt: skip
    """Read all topics to their ends, those of open transactions included."""
    names = settings.topics
    outputs = (names.predictions, names.alerts, settings.dead_letter_topic)
    records: dict[str, list[Record]] = {}
    stuck: list[tuple[str, int]] = []
    with Log(settings, settings.group) as log:
        ends = log.stable_ends(names.input, log.partitions(names.input))
        for topic in (names.input, *outputs, names.labels):
            partitions = log.partitions(topic)
            until = ends if topic == names.input else log.ends(topic, partitions)
            begins = log.beginnings(topic, partitions)
            parts = log.read(
                topic,
                {partition: (begins[partition], until[partition]) for partition in partitions},
                within_seconds,
                lambda partition, _, topic=topic: stuck.append((topic, partition)),  # type: ignore[misc]
            )
            records[topic] = [record for part in parts for record in part]
    return History(
        topic=names.input,
        sent=sent,
        inputs=records[names.input],
        labels=records[names.labels],
        predictions=records[names.predictions],
        alerts=records[names.alerts],
        dead_letters=records[settings.dead_letter_topic],
        ends=ends,
        bundles=bundles,
        stuck=sorted(stuck),
        **about,
    )
