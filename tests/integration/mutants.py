"""
What is done to a consumer before it starts: a fault that befalls it, and a defect in its code.

Each function is one of them, called in the consumer's own process.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

import schemas
from consumer import pipeline
from consumer.adapters import kafka_sink
from consumer.adapters.kafka_sink import AtLeastOnceSink, ExactlyOnceSink
from consumer.adapters.kafka_source import KafkaSource
from consumer.core.alerts import AlertEncoder, Alerts
from consumer.core.dead_letter import DeadLetters
from consumer.core.labels import TerminalFrauds
from consumer.core.state import VelocityState
from consumer.pipeline import Pipeline
from consumer.records import Outputs

LARGEST_PREDICTION = 700
_AT = 4
"""Which batch the faults strike."""


def replaced(owner: Any, name: str, make: Callable[[Callable[..., Any]], Any]) -> None:
    """Put what `make` makes of a function in its place."""
    setattr(owner, name, make(getattr(owner, name)))


def on_call(at: int, act: Callable[[], object]) -> Callable[[], None]:
    """Return a function that acts when it is called for the nth time."""
    calls: Iterator[int] = iter(range(1, 1_000_000))

    def called() -> None:
        if next(calls) == at:
            act()

    return called


def die() -> None:
    """SIGKILL, as the machine's end would."""
    os.kill(os.getpid(), signal.SIGKILL)


def newer_schema() -> schemas.Schema:
    """Return the schema of payments as a later release would have it."""
    newer = schemas.load("transaction")
    newer["fields"].append({"name": "wallet", "type": ["null", "string"], "default": None})
    return newer


def knows_a_newer_schema() -> None:
    """No defect: the release that knows it."""

    def make(versions: Any) -> Any:
        return lambda name: versions(name) + [newer_schema()] * (name == "transaction")

    replaced(schemas, "versions", make)


def never_hears_of_offsets() -> None:
    """Fault: the client's call that sends offsets never returns, and raises nothing."""

    def stuck(*_: Any) -> None:
        os.write(1, b"in a call that never returns\n")
        signal.sigwait({signal.SIGUSR2})

    replaced(kafka_sink._Transaction, "run", lambda _: stuck)


def offsets_never_arrive_once() -> None:
    """Fault: as above, once, and of the client's call alone."""
    nth = iter(range(1, 1_000_000))

    def make(make_call: Any) -> Any:
        def first(self: Any, call: Any, *arguments: Any, **named: Any) -> None:
            if call.__name__ == "send_offsets_to_transaction" and next(nth) == _AT:
                call = lambda *_: signal.sigwait({signal.SIGUSR2})  # noqa: E731
            make_call(self, call, *arguments, **named)

        return first

    replaced(kafka_sink._Transaction, "_make", make)


def never_hears_of_a_commit() -> None:
    """Fault: the client's call that commits offsets never returns."""
    replaced(KafkaSource, "_commit", lambda _: lambda *_: signal.sigwait({signal.SIGUSR2}))


def killed_before_producing() -> None:
    """Fault: it dies as a batch is about to be produced."""
    strike = on_call(_AT, die)

    def make(produce: Any) -> Any:
        def first(producer: Producer, outputs: Any) -> None:
            strike()
            produce(producer, outputs)

        return first

    replaced(kafka_sink, "produce", make)


def killed_before_committing() -> None:
    """Fault: it dies when a batch is out, and not committed."""
    strike = on_call(_AT, die)

    def make(commit: Any) -> Any:
        def first(self: Any, *arguments: Any) -> None:
            strike()
            commit(self, *arguments)

        return first

    replaced(AtLeastOnceSink, "_commit", make)


def killed_among_single_records() -> None:
    """Fault: a batch fails for no known cause, and it dies while its records are taken singly."""
    fail = on_call(_AT, lambda: 1 / 0)
    strike = on_call(_AT + 3, die)

    def make(process: Any) -> Any:
        def first(self: Pipeline, records: Any) -> Any:
            strike()
            fail()
            return process(self, records)

        return first

    replaced(Pipeline, "process", make)


def frozen_with_a_batch_in_hand() -> None:
    """Fault: it is stopped before it publishes a batch, until somebody continues it."""
    strike = on_call(_AT, lambda: os.kill(os.getpid(), signal.SIGSTOP))

    def make(publish: Any) -> Any:
        def first(self: ExactlyOnceSink, *arguments: Any) -> None:
            strike()
            publish(self, *arguments)

        return first

    replaced(ExactlyOnceSink, "publish", make)


def aborted_once() -> None:
    """Fault: the coordinator is away in the middle of a transaction."""

    def act() -> None:
        raise KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE))

    _within_transaction(before_commit=on_call(_AT, act))


def timed_out_and_committed() -> None:
    """Fault: a commit goes through, and its answer does not arrive."""

    def act() -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    _within_transaction(after_commit=on_call(_AT, act))


def _within_transaction(
    before_commit: Callable[[], object] = str, after_commit: Callable[[], object] = str
) -> None:
    def make(run: Any) -> Any:
        def with_fault(self: Any, outputs: Any, offsets: Any, metadata: Any) -> None:
            resumed = self._resumed

            def step(call: Any, *arguments: Any) -> None:
                if call == self.producer.commit_transaction:
                    before_commit()
                resumed(call, *arguments)
                if call == self.producer.commit_transaction:
                    after_commit()

            self._resumed = step
            run(self, outputs, offsets, metadata)

        return with_fault

    replaced(kafka_sink._Transaction, "run", make)


def refused_by_the_client() -> None:
    """Fault: the client refuses large predictions as they are produced."""

    class Strict(Producer):
        def produce(self, topic: str, value: Any = None, *rest: Any, **named: Any) -> None:
            if not topic.endswith("-dlt") and len(value) > LARGEST_PREDICTION:
                raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
            super().produce(topic, value, *rest, **named)

    kafka_sink.Producer = Strict  # type: ignore[misc]


def commits_before_it_publishes() -> None:
    """Defect: offsets first."""

    def make(publish: Any) -> Any:
        def hasty(self: AtLeastOnceSink, outputs: Any, next_offsets: Any) -> None:
            if next_offsets:
                self._membership.commit(next_offsets, self._outage_limit)
            publish(self, outputs, next_offsets)

        return hasty

    replaced(AtLeastOnceSink, "publish", make)


def commits_positions() -> None:
    """Defect: what the client has handed out counts as done."""

    def commit(self: KafkaSource, next_offsets: dict[int, int], _: float) -> None:
        wanted = [TopicPartition(self._topic, partition) for partition in next_offsets]
        self._consumer.commit(offsets=self._consumer.position(wanted), asynchronous=False)

    KafkaSource.commit = commit  # type: ignore[method-assign]


def drops_what_cannot_be_produced() -> None:
    """Defect: produce() raised, the transaction is sound all the same, so on with it."""

    def produce(producer: Producer, outputs: list[Outputs]) -> None:
        for batch in outputs:
            for row in range(len(batch)):
                try:
                    kafka_sink_produce(producer, [one_of(batch, row)])
                except Exception:  # noqa: BLE001, S112 - the defect
                    continue

    kafka_sink_produce = kafka_sink.produce
    kafka_sink.produce = produce  # type: ignore[assignment]


def one_of(batch: Outputs, row: int) -> Outputs:
    """Return one record of the outputs."""
    columns = (batch.keys, batch.values, batch.headers, batch.partitions, batch.timestamps)
    return Outputs(batch.topic, *(None if c is None else [c[row]] for c in columns))  # type: ignore[arg-type]


def ignores_delivery_errors() -> None:
    """Defect: a delivery report is not looked at."""
    kafka_sink._Deliveries.report = lambda *_: None  # type: ignore[method-assign]


def commits_in_nobodys_name() -> None:
    """Defect: offsets are sent with the group's name and no membership, which nobody checks."""

    class Nobody:
        def __init__(self, membership: Any, group: str) -> None:
            self._membership = membership
            stranger = Consumer({"group.id": group, "bootstrap.servers": "", "log_level": 0})
            self.group_metadata = stranger.consumer_group_metadata()

        def is_member(self) -> bool:
            return True

        def __getattr__(self, name: str) -> Any:
            return getattr(self._membership, name)

    def make(init: Any) -> Any:
        def mutated(self: Any, configs: Any, membership: Any, *rest: Any) -> None:
            group = configs[0]["transactional.id"].rsplit("-", 2)[0]
            init(self, configs, Nobody(membership, group), *rest)

        return mutated

    replaced(ExactlyOnceSink, "__init__", make)


def counts_labels_early() -> None:
    """Defect: a label counts half a day before it was published."""

    def make(init: Any) -> Any:
        def mutated(self: Any, writers: Any, settle_seconds: float, **rest: Any) -> None:
            init(self, writers, settle_seconds - 43_200, **rest)

        return mutated

    replaced(TerminalFrauds, "__init__", make)


def keeps_state_of_failed_batches() -> None:
    """Defect: the state is not rolled back."""
    VelocityState.roll_back = VelocityState.settle  # type: ignore[method-assign]


def does_not_seek_back() -> None:
    """Defect: partitions that are kept go on where the client is."""

    def rewind(self: KafkaSource, _: Sequence[int] = ()) -> None:
        self.in_hand = {}

    KafkaSource.rewind = rewind  # type: ignore[method-assign]


def believes_that_time_outs_fail() -> None:
    """Defect: what became of a commit that timed out is not asked."""
    ExactlyOnceSink._is_committed = lambda *_: False  # type: ignore[method-assign]


def truncates_dead_letters() -> None:
    """Defect: no dead letter is longer than 64 bytes."""

    def make(write: Any) -> Any:
        def mutated(self: DeadLetters, *arguments: Any) -> Outputs:
            outputs: Outputs = write(self, *arguments)
            outputs.values[:] = [value and value[:64] for value in outputs.values]  # type: ignore[index]
            return outputs

        return mutated

    replaced(DeadLetters, "write", make)


def forgets_alerts() -> None:
    """Defect: an alert that comes with others is left out."""

    def make(raise_alerts: Any) -> Any:
        def mutated(self: AlertEncoder, *arguments: Any) -> Alerts:
            alerts: Alerts = raise_alerts(self, *arguments)
            if len(alerts.outputs) < 2:
                return alerts
            return Alerts(one_of(alerts.outputs, 0), alerts.severities[:1])

        return mutated

    replaced(AlertEncoder, "raise_alerts", make)


def scatters_cards() -> None:
    """Defect: predictions go to any partition."""

    def make(produce: Any) -> Any:
        def mutated(producer: Producer, outputs: list[Outputs]) -> None:
            predictions, *others = outputs
            for key, value in zip(predictions.keys, predictions.values, strict=True):
                producer.produce(predictions.topic, value, key, random.randrange(4))
            produce(producer, others)

        return mutated

    replaced(kafka_sink, "produce", make)


def scores_otherwise_each_time() -> None:
    """Defect: the same payment does not get the same probability in another process."""
    factor = 1 - random.random() * 1e-9

    def make(score: Any) -> Any:
        return lambda *arguments: score(*arguments) * factor

    replaced(pipeline, "score", make)
