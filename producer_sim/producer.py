"""Records into a topic: every one acknowledged, in order, or the reason why not."""

import time
from collections.abc import Iterable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from producer_sim.errors import SimulationError
from producer_sim.properties import PRODUCER, Properties

_FULL_QUEUE_SECONDS: Final = 0.1
_SILENCE_SECONDS: Final = 120.0
"""How long the broker may acknowledge nothing of what it was sent."""


class TopicProducer:
    """
    An idempotent producer for one topic that counts every delivery report.

    Its methods raise SimulationError once a record was refused; none after that one is published.
    """

    def __init__(self, properties: Properties, topic: str, linger_ms: float) -> None:
        self.acknowledged = 0
        self._topic = topic
        self._refusal: KafkaError | None = None
        self._trouble: KafkaError | None = None
        self._heard_at = time.monotonic()
        self._producer = Producer(
            {
                "linger.ms": linger_ms,
                **properties,
                **PRODUCER,
                "on_delivery": self._on_delivery,
                "error_cb": self._note,
                "log_level": 0,  # what goes wrong is said once, in a sentence
            }
        )

    def produce(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Hand over keys and values, in order; returns when there was room for all of them."""
        if not self.unacknowledged():
            self._heard_at = time.monotonic()
        for key, value in records:
            while not self._accepted(key, value):
                self.poll(_FULL_QUEUE_SECONDS)
        self.poll(0)

    def poll(self, seconds: float) -> None:
        """Wait for an acknowledgement, for at most this long."""
        try:
            self._producer.poll(seconds)
        except KafkaException as error:
            raise self._refused(error.args[0]) from error
        if self._refusal is not None:
            raise self._refused(self._refusal)
        silent_seconds = time.monotonic() - self._heard_at
        if self.unacknowledged() and silent_seconds > _SILENCE_SECONDS:
            said = self._trouble.str() if self._trouble is not None else "no reason given"
            raise SimulationError(
                f"the broker has acknowledged nothing of {self._topic} for {silent_seconds:.0f} s "
                f"({said}): go on with --resume when it is back"
            )

    def unacknowledged(self) -> int:
        """Return how many records are handed over and not acknowledged."""
        return len(self._producer)

    def _accepted(self, key: bytes, value: bytes) -> bool:
        """Hand one record over; False while the queue is full, which is backpressure."""
        try:
            self._producer.produce(self._topic, value, key)
        except BufferError:
            return False
        except KafkaException as error:
            self.poll(0)  # a delivery report knows better than "the producer has failed"
            raise self._refused(error.args[0]) from error
        return True

    def _refused(self, reason: KafkaError) -> SimulationError:
        return SimulationError(
            f"the broker did not take a record for {self._topic}: {reason.str()}. "
            "Put that right, then --resume goes on after what is published"
        )

    def _on_delivery(self, refusal: KafkaError | None, _: Message) -> None:
        self._heard_at = time.monotonic()
        if refusal is None:
            self.acknowledged += 1
        elif self._refusal is None:
            self._refusal = refusal

    def _note(self, trouble: KafkaError) -> None:
        if trouble.name() != "_ALL_BROKERS_DOWN":  # the sum of troubles, not the cause of one
            self._trouble = trouble
