"""What upstream applications send: payments, labels and rubbish, and what each must become."""

import io
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import fastavro
from confluent_kafka import KafkaError, Message, Producer

import schemas
from tests.builders import DAY, JANUARY, label, payment

HOUR = DAY // 24
PREDICTION, TOMBSTONE = "prediction", "tombstone"
_SCHEMAS = {name: fastavro.parse_schema(schemas.load(name)) for name in ("transaction", "label")}
_HEADERS = {name: schemas.single_object_header(schemas.load(name)) for name in _SCHEMAS}


@dataclass(frozen=True)
class Input:
    """A record to send, and its only right outcome: a prediction, tombstone, or a reason."""

    key: bytes | None
    value: bytes | None
    outcome: str = PREDICTION
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Sent(Input):
    """
    An input that the broker acknowledged.

    `labels_before` is how far the label topic was acknowledged when it was sent.
    """

    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    labels_before: int = 0


def encode(name: str, fields: dict[str, Any]) -> bytes:
    """Return the record in Avro single-object encoding."""
    out = io.BytesIO(_HEADERS[name])
    out.seek(0, io.SEEK_END)
    fastavro.schemaless_writer(out, _SCHEMAS[name], fields)
    return out.getvalue()


class Traffic:
    """An endless stream of payments on an event clock that never goes back, and of labels."""

    def __init__(self, seed: int, cards: int = 60, terminals: int = 12) -> None:
        """Equal seeds make equal streams."""
        self.random = random.Random(seed)
        self.clock = JANUARY
        self._cards = [f"card-{k}" for k in range(cards)]
        self._terminals = [f"terminal-{k}" for k in range(terminals)]
        self._number = seed * 1_000_000
        self._labelled: list[dict[str, Any]] = []
        self._taken_back: list[dict[str, Any]] = []
        self._last = payment()
        self._recent: deque[Input] = deque(maxlen=50)

    def favour(self, card: str) -> None:
        """Let half of the payments to come be of one card."""
        self._cards += [card] * len(self._cards)

    def payment(self, **overrides: Any) -> Input:
        """
        Return the next payment; a tenth is out of order, one in a hundred is late, and three in a
        hundred are one of the last fifty again.
        """
        if self._recent and not overrides and self.random.random() < 0.03:
            return self.random.choice(self._recent)
        fields = self._fields() | overrides
        paid = Input(fields["card_id"].encode(), encode("transaction", fields))
        self._recent.append(paid)
        return paid

    def label(self) -> bytes:
        """
        Return a label for the last payment; or one that takes an earlier label back, claims anew
        what was taken back, or comes again. None says anything of the time before it: a payment
        read again would then not get the same features.
        """
        draw = self.random.random()
        if self._labelled and draw < 0.1:
            earlier = self._labelled.pop(0)
            self._taken_back.append(earlier)
            changes = {"verdict": "GENUINE", "supersedes": earlier["label_id"]}
        elif self._taken_back and draw < 0.2:
            earlier, changes = self._taken_back.pop(0), {}
        elif self._labelled and draw < 0.3:
            return encode("label", self._labelled[0] | {"published_at": self.clock})
        else:
            names = ("transaction_id", "card_id", "terminal_id", "event_time", "amount_minor")
            earlier, changes = label(0, **{name: self._last[name] for name in names}), {}
        changes["label_id"] = str(uuid.UUID(int=self.random.getrandbits(128)))
        fields = earlier | changes | {"reported_at": self.clock, "published_at": self.clock}
        if fields["verdict"] == "FRAUD":
            self._labelled.append(fields)
        return encode("label", fields)

    def refused(self) -> Iterator[Input]:
        """Yield one of each kind of record that cannot be scored."""
        good = self._fields() | {"kind": "AUTHORISATION", "billing_amount_minor": None}
        key, value = good["card_id"].encode(), encode("transaction", good)
        yield Input(key, value[:40], "decode")
        yield Input(key, b"\xc3\x01" + b"\x07" * 8 + value[10:], "schema_not_allowed")
        yield Input(key, b"", "framing", (("trace", b"1"), ("trace", b"2"), ("empty", b"")))
        yield Input(key, value + b"\0" * 70_000, "oversize")
        yield Input(key, value + b"\0", "trailing")
        yield Input(key, None, TOMBSTONE)
        yield Input(b"another-card", value, "key")
        yield Input(None, value, "key")
        for outcome, change in (
            ("not_finite", {"geo": {"lat": float("nan"), "lon": 0.0}}),
            ("id", {"event_id": "0" * 36}),
            ("future", {"event_time": time.time_ns() // 1_000 + 2 * DAY}),
            ("time", {"event_time": good["event_time"] // 1_000}),
            ("range", {"amount_minor": -1}),
        ):
            yield Input(key, encode("transaction", good | change), outcome)
        number = "4111-1111-1111-1111"
        yield Input(
            number.encode(), encode("transaction", good | {"card_id": number}), "card_number"
        )

    def _fields(self) -> dict[str, Any]:
        draw = self.random
        self._number += 1
        self.clock += draw.randrange(20 * 60_000_000)
        back = 0
        if draw.random() < 0.1:
            back = draw.randrange(12 * HOUR)
        elif draw.random() < 0.01:
            back = draw.randrange(2 * DAY, 5 * DAY)
        kind = draw.choices(("AUTHORISATION", "ADVICE", "CLEARING", "REFUND"), (90, 5, 3, 2))[0]
        amount = int(draw.lognormvariate(8, 1)) + 1
        fields = payment(
            self._number,
            kind=kind,
            event_time=self.clock - back,
            card_id=draw.choice(self._cards),
            terminal_id=draw.choice(self._terminals),
            amount_minor=-amount if kind == "REFUND" else amount,
            local_utc_offset_minutes=draw.choice((None, 0, 120, -300)),
            merchant_country=("BE", "BE", "FR", None, "", "Atlantis")[self._number % 6],
        )
        if draw.random() < 0.2:
            fields |= {"billing_amount_minor": 2 * amount, "billing_currency_exponent": 3}
        self._last = fields
        return fields


@dataclass
class Journal:
    """All that a test sent and the broker acknowledged."""

    sent: list[Sent] = field(default_factory=list)
    labels: int = 0
    failures: list[KafkaError] = field(default_factory=list)


class Upstream:
    """A plain idempotent producer, and the journal of what it got acknowledged."""

    def __init__(
        self, bootstrap_servers: str, payments: str, labels: str, seed: int = 1, *,
        partitioner: str = "murmur2_random",
    ) -> None:  # fmt: skip
        """The partitioner is Java's by default, as the applications' would be."""
        self.traffic = Traffic(seed)
        self.journal = Journal()
        self.ahead_seconds = 0
        """How far its clock is ahead."""
        self.has_labels = True
        """Whether a feeder sends labels, too."""
        self._payments, self._labels = payments, labels
        self._config = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": "upstream",
            "enable.idempotence": True,
            "max.in.flight.requests.per.connection": 1,  # a journal must not count a lost one
            "partitioner": partitioner,
            "linger.ms": 1,
            "reconnect.backoff.max.ms": 500,
            "topic.metadata.refresh.interval.ms": 2_000,  # topics may grow
            "log_level": 0,
        }
        self._producer = Producer(self._config)

    def send(self, payment: Input) -> None:
        """Produce one record of the input topic; it enters the journal when acknowledged."""
        self._send(self._producer, payment)

    def send_packed(self, payments: Sequence[Input], compression: str) -> None:
        """Produce records in batches as large as a client can make them, and compressed."""
        large = {"linger.ms": 500, "batch.size": 25_000_000, "message.max.bytes": 25_000_000}
        producer = Producer({**self._config, **large, "compression.type": compression})
        for each in payments:
            self._send(producer, each)
        assert producer.flush(60) == 0, "inputs were not acknowledged within 60 s"

    def _send(self, producer: Producer, payment: Input) -> None:
        before = self.journal.labels
        now = time.time_ns() // 1_000_000 + 1_000 * self.ahead_seconds

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.journal.failures.append(error)
                return
            self.journal.sent.append(
                Sent(
                    payment.key, payment.value, payment.outcome, payment.headers,
                    message.partition(), message.offset(), now, before,
                )
            )  # fmt: skip

        producer.produce(
            self._payments, payment.value, payment.key,
            headers=list(payment.headers), timestamp=now, on_delivery=delivered,
        )  # fmt: skip
        producer.poll(0)

    def send_label(self, value: bytes | None = None) -> None:
        """Produce a label and wait until it is acknowledged, as labels must be."""
        acknowledged: list[int] = []
        self._producer.produce(
            self._labels,
            self.traffic.label() if value is None else value,
            on_delivery=lambda error, m: acknowledged.append(-1 if error else m.offset()),
        )
        deadline = time.monotonic() + 60
        while not acknowledged and time.monotonic() < deadline:
            self._producer.poll(0.1)
        assert acknowledged[0] >= 0, "the label was refused"
        self.journal.labels = acknowledged[0] + 1

    def send_mixed(self, count: int, *, refused_every: int = 0, label_every: int = 40) -> None:
        """Send so many payments, labels in between, and with them rubbish of every kind."""
        for number in range(count):
            if label_every and number % label_every == label_every - 1:
                self.send_label()
            self.send(self.traffic.payment())
            if refused_every and number % refused_every == refused_every - 1:
                for bad in self.traffic.refused():
                    self.send(bad)
        self.flush()

    def partitions(self) -> int:
        """Return how many partitions of the input the producer knows, now that it has asked."""
        topics = self._producer.list_topics(self._payments, timeout=10).topics
        return len(topics[self._payments].partitions)

    def begin_again(self) -> None:
        """Begin a new journal, for topics that are new."""
        self.journal = Journal(labels=self.journal.labels)

    def flush(self) -> None:
        """Return when all is acknowledged."""
        assert self._producer.flush(90) == 0, "inputs were not acknowledged within 90 s"
        assert self.journal.failures == []


class Feeder(threading.Thread):
    """Sends payments and labels at a steady rate while the test does its mischief."""

    def __init__(self, upstream: Upstream, per_second: int, refused_every: int = 0) -> None:
        """
        `with` starts it, and ends it when all is acknowledged. After each `refused_every` payments
        comes one record that cannot be scored, of each kind in turn.
        """
        super().__init__(name="feeder", daemon=True)
        self._upstream = upstream
        self._rate = per_second
        self._due = 0.0
        self._refused_every = refused_every
        self._stopped = threading.Event()
        self._fault: BaseException | None = None

    def __enter__(self) -> Callable[[], int]:
        """Return a function that tells how many records are acknowledged."""
        self.start()
        return lambda: len(self._upstream.journal.sent)

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join(120)
        if self._fault is not None:
            raise self._fault
        self._upstream.flush()

    def go_at(self, per_second: int) -> None:
        """Change the rate, and forget what is still due at the one before."""
        self._rate, self._due = per_second, 0.0

    def run(self) -> None:
        """Keep to the rate on average; what an outage delays is sent after it."""
        last, done = time.monotonic(), 0
        refused = self._refused()
        try:
            while not self._stopped.wait(0.01):
                now = time.monotonic()
                self._due += (now - last) * self._rate
                last = now
                for _ in range(min(int(self._due), self._rate)):
                    self._due -= 1
                    if done % 100 == 99 and self._upstream.has_labels:
                        self._upstream.send_label()
                    self._upstream.send(self._upstream.traffic.payment())
                    done += 1
                    if self._refused_every and done % self._refused_every == 0:
                        self._upstream.send(next(refused))
        except BaseException as fault:  # noqa: BLE001 - shown to the test when it leaves
            self._fault = fault

    def _refused(self) -> Iterator[Input]:
        while True:
            yield from self._upstream.traffic.refused()
