"""One simulation, from its options to the last acknowledgement: the parts, put together."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import numpy as np

from consumer.kafka_properties import announced_exposures
from producer_sim import handbook
from producer_sim.errors import SimulationError
from producer_sim.events import TransactionWriter, event_times, row_of
from producer_sim.handbook import Payments
from producer_sim.labels import DelayLaw, Exactly, LabelWriter, fraud_labels
from producer_sim.pace import Pace
from producer_sim.partitions import partitions_of
from producer_sim.population import card_ids, terminal_ids
from producer_sim.producer import TopicProducer
from producer_sim.properties import Properties
from producer_sim.publish import Control, Publisher, Reader, Status, Stream
from producer_sim.resume import Series, rest_of
from producer_sim.timeline import FOREVER, Lane
from producer_sim.topics import Topics

_PAYMENTS_LINGER_MS: Final = 5.0
_LABELS_LINGER_MS: Final = 0.0  # payments wait for their labels, so labels wait for nothing
_LOOKS_MAX: Final = 20
_LOOK_SECONDS: Final = 0.5

Held = tuple[dict[int, bytes], dict[int, bytes]]
"""The last value of this scenario in each partition, of the payments' topic and the labels'."""


class IfHeld(Enum):
    """What to do where the topics hold records of this scenario."""

    REFUSE = auto()
    RESUME = auto()
    REPEAT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to simulate and where to; the command's options say more."""

    properties: Properties
    """Kafka client properties, bootstrap.servers among them."""
    insecure: bool = False
    """Whether brokers beyond loopback may be reached without verified TLS."""
    topic: str = "transactions.raw"
    labels_topic: str = "fraud.labels"
    law: DelayLaw = field(default_factory=lambda: Exactly(7))
    seed: int = 0
    speed: float = math.inf
    rate: float = math.inf
    start: int = 0
    """Microseconds since 1970; what is published from then on and before `end`."""
    end: int = FOREVER
    if_held: IfHeld = IfHeld.REFUSE
    group: str | None = None
    """The consumer group to wait for; None waits for nobody."""
    unread_max: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a simulation."""

    payments: int
    """Payments acknowledged."""
    labels: int
    """Labels acknowledged."""
    unacknowledged: int
    """Payments and labels handed over and not acknowledged when a stop was asked for."""
    next_time: int
    """Where the clock of the payments stands, microseconds since 1970; FOREVER at the end."""


def run(
    options: Options,
    stopped: Callable[[], bool] = lambda: False,
    report: Callable[[Status], None] = lambda _: None,
) -> Outcome:
    """
    Publish what the options ask for, until its end or until `stopped()`.

    Raises SimulationError where it cannot start or go on.
    """
    with ExitStack() as stack:
        topics = stack.enter_context(Topics(options.properties))
        _require_trust(options, topics)
        payments, labels = _series(options, topics)
        payments_left, labels_left = _left(payments, labels, options.if_held, topics)
        payment_topic = TopicProducer(options.properties, payments.topic, _PAYMENTS_LINGER_MS)
        label_topic = TopicProducer(options.properties, labels.topic, _LABELS_LINGER_MS)
        publisher = Publisher(
            Stream(payments_left, payments.writer, payment_topic),
            Stream(labels_left, labels.writer, label_topic),
            Control(
                pace=Pace(options.speed, options.rate),
                reader=_reader(options, payments.partition_count, stack),
                stopped=stopped,
                report=report,
            ),
        )
        status = publisher.run()
    return Outcome(
        payments=payment_topic.acknowledged,
        labels=label_topic.acknowledged,
        unacknowledged=payment_topic.unacknowledged() + label_topic.unacknowledged(),
        next_time=status.next_time,
    )


def _require_trust(options: Options, topics: Topics) -> None:
    """Raise SimulationError where the brokers name others to go on with in clear."""
    faults = list(announced_exposures(options.properties, topics.brokers()))
    if faults and not options.insecure:
        raise SimulationError("; ".join(faults))


def _series(options: Options, topics: Topics) -> tuple[Series, Series]:
    """Return what belongs in the two topics: payments and labels."""
    # Asked before the payments are drawn, so that a wrong address is told at once.
    payment_partitions = topics.partition_count(options.topic)
    label_partitions = topics.partition_count(options.labels_topic)
    payments = handbook.load()
    return (
        _payment_series(payments, options, payment_partitions),
        _label_series(payments, options, label_partitions),
    )


def _payment_series(payments: Payments, options: Options, partition_count: int) -> Series:
    rows = np.arange(len(payments))
    times = event_times(payments)
    cards = partitions_of(map(str.encode, card_ids(options.seed)), partition_count)
    return Series(
        topic=options.topic,
        lane=Lane(rows, times).between(options.start, options.end),
        writer=TransactionWriter(payments, options.seed),
        row=rows,
        time=times,
        partition=cards[payments.customer],
        partition_count=partition_count,
    )


def _label_series(payments: Payments, options: Options, partition_count: int) -> Series:
    labels = fraud_labels(payments, options.law, options.seed)
    places = np.arange(len(labels))
    terminals = partitions_of(map(str.encode, terminal_ids(options.seed)), partition_count)
    return Series(
        topic=options.labels_topic,
        lane=Lane(places, labels.published_at).between(options.start, options.end),
        writer=LabelWriter(payments, labels, options.seed),
        row=labels.row,
        time=labels.published_at,
        partition=terminals[payments.terminal[labels.row]],
        partition_count=partition_count,
    )


def _left(payments: Series, labels: Series, if_held: IfHeld, topics: Topics) -> tuple[Lane, Lane]:
    """Return which payments and labels are to be published, after a look at the topics."""
    if if_held is IfHeld.REPEAT:
        return payments.lane, labels.lane
    held = _held(payments, labels, topics)
    if if_held is IfHeld.RESUME:
        return rest_of(payments, labels, *_settled(held, lambda: _held(payments, labels, topics)))
    for series, last_values in zip((payments, labels), held, strict=True):
        if last_values:
            raise SimulationError(
                f"{series.topic} holds records of this scenario already: go on after them with "
                "--resume, publish everything once more with --again, or use another topic"
            )
    return payments.lane, labels.lane


def _held(payments: Series, labels: Series, topics: Topics) -> Held:
    def last_values(series: Series) -> dict[int, bytes]:
        return topics.last_records(series.topic, series.partition_count, _is_ours)

    return last_values(payments), last_values(labels)


def _is_ours(value: bytes) -> bool:
    return row_of(value) is not None


def _settled(seen: Held, look: Callable[[], Held]) -> Held:
    """Look until nothing changes: requests of a run just killed may still be on their way."""
    for _ in range(_LOOKS_MAX):
        time.sleep(_LOOK_SECONDS)
        before, seen = seen, look()
        if seen == before:
            return seen
    raise SimulationError("another run is writing to these topics: stop it first")


def _reader(options: Options, partition_count: int, stack: ExitStack) -> Reader | None:
    if options.group is None:
        return None
    topics = stack.enter_context(Topics(options.properties, options.group))
    return Reader(
        options.group, options.unread_max, lambda: topics.unread(options.topic, partition_count)
    )
