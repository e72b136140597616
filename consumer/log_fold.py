"""
The consumer's own loop and steps over stretches of the log, beside the group: what it knew and
what it answered at any offset can be had again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaException
from prometheus_client import CollectorRegistry

from consumer.adapters.kafka_clients import reader_config
from consumer.adapters.kafka_errors import kafka_error
from consumer.adapters.log_reader import LogReader
from consumer.adapters.log_source import LogSource, Stretch
from consumer.adapters.restore import SnapshotLoader, StateRestorer
from consumer.adapters.topic_identity import topic_id
from consumer.assembly import Parts, make_pipeline, snapshot_store, state_contract
from consumer.core.batch import LabelsKnown
from consumer.core.batching import BatchControl
from consumer.core.restore import Plan
from consumer.errors import FatalError
from consumer.loop import Loop
from consumer.pipeline import Sink
from consumer.records import Outputs
from consumer.telemetry import Telemetry

MOST_RECORDS: Final = 5_000
_LOADING_SECONDS: Final = 0.01


@contextmanager
def log_faults() -> Iterator[None]:
    """Name what keeps the log from being read. Raises FatalError."""
    try:
        yield
    except KafkaException as error:
        raise FatalError(f"the log cannot be read: {kafka_error(error).str()}") from error


class KeptOutputs:
    """A sink that keeps what is published, and publishes nothing."""

    def __init__(self) -> None:
        self.outputs: list[Outputs] = []

    def publish(self, outputs: Sequence[Outputs], _: dict[int, int]) -> None:
        """Keep what there is."""
        self.outputs += [column for column in outputs if len(column)]


@dataclass(frozen=True, slots=True)
class _LabelsFolded:
    """The labels were read beforehand: each counts only from its arrival."""

    known: LabelsKnown

    def catch_up(self) -> LabelsKnown:
        return self.known


class LogFold:
    """
    Folds records of the input topic into the velocity state of its parts.

    The state of a partition at an offset is a fold over the records before it: `begin` empties it
    and says where to start, or the caller fills it from elsewhere, and `run` folds from any start
    to any end. It reads by offset alone: it never joins the group, and commits nothing.
    """

    def __init__(
        self,
        parts: Parts,
        known: LabelsKnown,
        sink: Sink,
        most_records: int = MOST_RECORDS,
        *,
        from_snapshots: bool = False,
    ) -> None:
        """
        The parts' frauds must hold the labels `known` tells of. What records from `live_from` on
        become goes to `sink`. With `from_snapshots`, states begin at the nearest one in state.url.
        """
        settings = parts.settings
        telemetry = Telemetry(CollectorRegistry(), settings.group, settings.topics.input)
        config = reader_config(
            settings, lambda error: telemetry.client_error("reader", error.name(), error.str())
        )
        # A record that retention takes away while we read must not be left out in silence.
        self._reader = LogReader({**config, "auto.offset.reset": "error"}, settings.topics.input)
        store = snapshot_store(settings) if from_snapshots else None
        contract = state_contract(settings, parts.bundle)
        snapshots = None
        if store is not None:
            store.topic_id = topic_id(settings)
            snapshots = SnapshotLoader(
                store, contract, parts.state, telemetry, settings.state.read_timeout
            )
        self._restorer = StateRestorer(
            self._reader, parts.decoder, parts.state, telemetry, snapshots
        )
        self._source = LogSource(self._reader, settings.topics.input, most_records)
        pipeline = make_pipeline(parts, _LabelsFolded(known), sink, telemetry)
        self._loop = Loop(
            self._source, pipeline, parts.state, BatchControl(most_records, 0.0), telemetry,
            settings.delivery.outage_limit,
        )  # fmt: skip

    def begin(self, partition: int, offset: int) -> Plan:
        """
        Begin the partition's state anew; return how it becomes what it was at the offset.

        Raises KafkaException when the broker is away.
        """
        while (plan := self._restorer.plan(partition, offset)) is None:
            time.sleep(_LOADING_SECONDS)
        self._restorer.begin(partition, plan)
        return plan

    def run(self, stretch: Stretch, done: Callable[[int], None] = lambda _: None) -> None:
        """
        Fold the stretch into the state that its partition has by now.

        `done` is told the next offset after each batch. Raises KafkaException when the log cannot
        be read, FatalError when two records in a row are poison.
        """
        self._source.begin(stretch)

        def go_on() -> bool:
            done(self._source.position)
            return not self._source.finished

        self._loop.run(go_on)
        done(self._source.position)

    def close(self) -> None:
        """Close the client."""
        self._restorer.close()
