"""What snapshots cost and what they save, over a state of a million cards."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry

import schemas
from benchmarks.cards import BATCH, PAYMENTS, Step, events_of
from consumer.adapters.snapshots import SnapshotStore
from consumer.adapters.snapshotter import Snapshotter
from consumer.core.decode import PaymentDecoder
from consumer.core.feature_sets import ARRIVAL_1
from consumer.core.snapshot import Contract
from consumer.records import Records
from consumer.telemetry import Telemetry

_DAY: Final = 86_400_000_000
_CONTRACT: Final = Contract(
    feature_set=ARRIVAL_1.name, windows=dict(ARRIVAL_1.windows), grace=_DAY, alert_window=_DAY,
    schemas=[],
)  # fmt: skip
_BATCHES: Final = 100
_SECONDS_A_BATCH: Final = 0.04  # 125,000 payments a second, which one instance does not exceed
_GIVE_UP_SECONDS: Final = 300.0


def snapshot_figures(cards: int, values: list[bytes]) -> dict[str, float]:
    """
    Return `snapshot_pause_ms`, what a snapshot adds to the slowest batch of random cards, and
    `restore_ratio`, the time to have the state back from it to the time to fold its payments again.

    Folding is decoding, of these values, and the feature step; neither poll nor accounting are
    counted, so the ratio flatters the log. A batch without a snapshot is the median of a hundred
    before it; batches come as fast as the whole of the pipeline would let them.
    """
    step = Step(cards)
    with tempfile.TemporaryDirectory() as folder:
        store = SnapshotStore(str(Path(folder)), "bench", "payments")
        pause = _pause_seconds(step, store)
        restore = _restore_seconds(step, store)
    fold = statistics.mean(_batch_seconds(step, number) for number in range(_BATCHES)) / BATCH
    fold += _decode_seconds(values) / len(values)
    return {
        "snapshot_cards": cards,
        "snapshot_pause_ms": 1e3 * pause,
        "restore_seconds": restore,
        "restore_ratio": restore / (fold * cards * PAYMENTS),
    }


def _pause_seconds(step: Step, store: SnapshotStore) -> float:
    telemetry = Telemetry(CollectorRegistry(), "bench", "payments")
    snapshotter = Snapshotter(store, step.state, _CONTRACT, 0.0, telemetry)
    snapshotter.start()
    before = [_batch_seconds(step, number) for number in range(_BATCHES)]
    during: list[float] = []
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    while not store.stored(0) and time.monotonic() < deadline:
        begin = time.perf_counter()
        snapshotter.between_batches({0: len(during)})
        during.append(time.perf_counter() - begin + _batch_seconds(step, len(during)))
        time.sleep(max(0.0, _SECONDS_A_BATCH - during[-1]))
    snapshotter.stop()
    return max(during) - statistics.median(before)


def _batch_seconds(step: Step, seed: int) -> float:
    events = events_of(np.random.default_rng(seed).integers(0, step.cards, BATCH))
    begin = time.perf_counter()
    step.step.measure(events)
    step.state.settle()
    return time.perf_counter() - begin


def _decode_seconds(values: list[bytes]) -> float:
    """Return the median time to decode them."""
    n = len(values)
    decoder = PaymentDecoder([schemas.load("transaction")])
    zeros = np.zeros(n, np.int64)
    records = Records(
        "", list(values), [None] * n, zeros, np.arange(n), zeros - 1, np.ones(n, np.bool_),
        lambda _: [],
    )  # fmt: skip
    spent = []
    for _ in range(_BATCHES // 5):
        begin = time.perf_counter()
        decoder.decode(records)
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def _restore_seconds(step: Step, store: SnapshotStore) -> float:
    begin = time.perf_counter()
    tables = step.state.empty_tables()
    [stored, *_] = store.stored(0)
    store.read(stored, _CONTRACT, tables)
    step.state.begin(1, tables=tables)
    return time.perf_counter() - begin
