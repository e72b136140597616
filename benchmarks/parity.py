"""
What the consumer published of the streamed weeks, against the batch path over the same payments.

The batch path is that of `fraudstream evaluate`: the kernels fold the history in log order, and
the bundle of each week scores what they found. A payment is known by its row in the Handbook.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from confluent_kafka import KafkaException
from numpy.typing import NDArray

from consumer.adapters.avro_records import AvroRecords
from consumer.adapters.log_reader import LogReader
from consumer.adapters.model_bundle import load_bundle
from consumer.cli_history import GRACE, HistoryOptions, read_history
from consumer.cli_options import micros
from consumer.core.score import score
from consumer.records import Longs
from demo.judge import judge
from demo.outputs import PREDICTIONS, Scored
from demo.processes import EXACTLY_A_WEEK, DemoFailedError
from producer_sim.events import row_of
from training.evaluate import Fold
from training.history import measure

LARGEST_FEATURES_DIFF: Final = 1e-6
LARGEST_AP_DIFF: Final = 0.002
_HANDBOOK: Final = HistoryOptions(
    "handbook", None, insecure=False, payments=None, labels=None,
    label_delay=EXACTLY_A_WEEK, settle="0s",
)  # fmt: skip
_REQUEST_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Answers:
    """n payments: rows int64[n], one after the other, float32[n, features] and float64[n]."""

    rows: Longs
    features: NDArray[np.float32]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parity:
    """
    How far stream and batch are apart: the largest difference of any feature, whether all
    probabilities are equal bit for bit, and the largest difference of a week's average precision.
    """

    features_max_diff: float
    scores_equal: bool
    ap_diff: float

    @classmethod
    def worst(cls, found: Sequence[Self]) -> Self:
        """Return the largest differences of one or more; NaN where one has it."""
        return cls(
            float(np.max([each.features_max_diff for each in found])),
            all(each.scores_equal for each in found),
            float(np.max([each.ap_diff for each in found])),
        )

    @property
    def holds(self) -> bool:
        """Say whether both differences are small enough; NaN is not."""
        return self.features_max_diff <= LARGEST_FEATURES_DIFF and self.ap_diff <= LARGEST_AP_DIFF


def batch_answers(
    bundles: Sequence[Path], first: date, share: timedelta, history: timedelta
) -> Answers:
    """Return what each bundle makes of its share of the days from `first` on, without a broker."""
    loaded = [load_bundle(path, allow_pickle=False) for path in bundles]
    feature_set = loaded[0].feature_set
    payments, frauds = read_history(_HANDBOOK, [feature_set])
    days = [first - history, *(first + k * share for k in range(len(bundles) + 1))]
    cuts = np.searchsorted(payments.times, [micros("day", str(day)) for day in days]).tolist()
    begin, test, end = cuts[0], cuts[1], cuts[-1]
    streamed = payments.take(np.arange(begin, end))
    features = measure(streamed, feature_set, frauds, GRACE, lambda _: None)
    probabilities = [
        score(features[a - begin : b - begin], bundle.model)
        for bundle, a, b in zip(loaded, cuts[1:-1], cuts[2:], strict=True)
    ]
    return Answers(np.arange(test, end), features[test - begin :], np.concatenate(probabilities))


def streamed_answers(bootstrap_servers: str, batch: Answers) -> Answers:
    """
    Return what was published of the payments in `batch`, in its order.

    Raises DemoFailedError where the topic cannot be read, or lacks one of them.
    """
    first, last = int(batch.rows[0]), int(batch.rows[-1])
    features = np.full_like(batch.features, np.nan)
    probabilities = np.full_like(batch.probabilities, np.nan)
    try:
        for row, prediction in _predictions(bootstrap_servers):
            if first <= row <= last:
                features[row - first] = prediction["features"]
                probabilities[row - first] = prediction["probability"]
    except KafkaException as error:
        raise DemoFailedError(f"{PREDICTIONS} cannot be read: {error.args[0].str()}") from error
    if missing := int(np.isnan(probabilities).sum()):
        raise DemoFailedError(f"{PREDICTIONS} lacks {missing:,} payments of the test weeks")
    return Answers(batch.rows, features, probabilities)


def compare(streamed: Answers, batch: Answers, folds: Sequence[Fold]) -> Parity:
    """Compare payment for payment, and the average precision of each fold's test week."""
    return Parity(
        features_max_diff=float(np.abs(streamed.features - batch.features).max()),
        scores_equal=streamed.probabilities.tobytes() == batch.probabilities.tobytes(),
        ap_diff=max(abs(_ap(streamed, fold) - _ap(batch, fold)) for fold in folds),
    )


def _ap(answers: Answers, fold: Fold) -> float:
    found = judge(Scored(answers.rows, answers.probabilities, repeated=0), fold)
    if found is None:
        raise DemoFailedError(f"the week from day {fold.test_first} on has no fraud to find")
    return found.ap


def _predictions(bootstrap_servers: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each published prediction of a simulated payment, with the payment's row."""
    records = AvroRecords("prediction")
    config = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "parity",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "log_level": 0,
    }
    with closing(LogReader(config, PREDICTIONS)) as reader:
        for messages in reader.scan(reader.partitions(_REQUEST_SECONDS)):
            for value in (message.value() or b"" for message in messages):
                row, prediction = row_of(value), records.read(value)
                if row is not None and prediction is not None:
                    yield row, prediction
