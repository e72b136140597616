"""
The composition root: settings become objects, objects are started in order and stopped in reverse.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, libversion
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

import schemas
from consumer.adapters import access, kafka_clients
from consumer.adapters.http_server import HttpServer
from consumer.adapters.kafka_errors import fatal, is_denial, kafka_error
from consumer.adapters.kafka_sink import AtLeastOnceSink, ExactlyOnceSink
from consumer.adapters.kafka_source import KafkaSource
from consumer.adapters.label_feed import LabelFeed
from consumer.adapters.lag import LagMonitor
from consumer.adapters.log_reader import LogReader
from consumer.adapters.model_bundle import Bundle, load_bundle
from consumer.adapters.restore import SnapshotLoader, StateRestorer
from consumer.adapters.snapshotter import Snapshotter
from consumer.adapters.topic_identity import TopicIdentity, topic_id
from consumer.adapters.topics import require_topics
from consumer.assembly import (
    Parts,
    assemble,
    make_pipeline,
    scorer_id,
    snapshot_store,
    state_contract,
)
from consumer.core.alerts import AlertEncoder
from consumer.core.batching import BatchControl
from consumer.core.decide import Explainer
from consumer.core.decode import PaymentDecoder
from consumer.core.encode import PredictionEncoder
from consumer.core.letter_limits import LetterLimits
from consumer.core.warm_up import warm_up
from consumer.errors import OutageError
from consumer.loop import Loop
from consumer.settings import Settings
from consumer.telemetry import Telemetry

DRAIN_SECONDS: Final = 8.0
EXIT_NOT_DRAINED: Final = 75
_NOT_COMMITTING_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 1.0
_HEARD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class App:
    """One member of the consumer group, from configuration to clean exit."""

    def __init__(self, settings: Settings) -> None:
        """Load the model and take the HTTP port; nothing is connected yet. Raises ConfigError."""
        self._settings = settings
        kafka_clients.check_properties(settings)
        self._bundle = load_bundle(
            settings.model.path,
            allow_pickle=settings.model.allow_pickle,
            public_key=settings.model.public_key,
        )
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._telemetry = Telemetry(self._registry, settings.group, settings.topics.input)
        self._fatal: KafkaError | None = None
        self._stopping = threading.Event()
        self._resuming = threading.Event()
        self._build()
        self._http = HttpServer(
            settings.http.host, settings.http.port, self._registry, self._live, self._ready
        )

    def run(self) -> None:
        """Work until a signal says stop; then drain, commit and leave. Raises FatalError."""
        manifest = self._bundle.manifest
        self._telemetry.started(
            self._settings.processing.guarantee,
            manifest,
            self._bundle.model.engine,
            libversion()[0],
            self._http.port,
        )
        with self._signals(), contextlib.ExitStack() as to_the_end, self.opened():
            self._source.subscribe()
            to_the_end.callback(self._watch())
            with access.losses_named(self._settings):
                self._loop.run(self._keep_going)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Start what the loop works with, in the order of need, and stop it the other way round."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._telemetry.stopped)
            self._http.start()
            stack.callback(self._http.stop)
            rehearse(self._bundle)
            stack.callback(self._labels.close)
            self._persist(partial(access.require_access, self._settings))
            self._persist(partial(require_topics, self._settings, self._bundle.feature_set))
            self._identity.start()
            stack.callback(self._identity.stop)
            self._persist(self._labels.load)
            if isinstance(self._sink, ExactlyOnceSink):
                with access.transactions_required(self._settings):
                    self._sink.open()
            stack.callback(self._sink.close)
            self._lag.start()
            stack.callback(self._lag.stop)
            if self._store is not None and self._snapshotter is not None:
                self._store.topic_id = topic_id(self._settings)
                self._snapshotter.start()
                stack.callback(self._snapshotter.stop)
            stack.callback(self._restorer.close)
            stack.callback(self._source.close)
            yield

    def _build(self) -> None:
        settings, telemetry, bundle = self._settings, self._telemetry, self._bundle
        parts = assemble(settings, bundle)
        reader_config = kafka_clients.reader_config(settings, self._on_error("reader"))
        self._build_state(parts, LogReader(reader_config, settings.topics.input))
        control = BatchControl(settings.batch.max_records, settings.batch.max_wait)
        self._identity = TopicIdentity(
            kafka_clients.admin_config(settings), settings.topics.input, settings.topics.labels
        )
        self._source = KafkaSource(
            kafka_clients.group_consumer_config(settings, self._on_error("group")),
            self._identity,
            scorer_id(settings, bundle),
            self._restorer,
            control,
            telemetry,
            LetterLimits(
                settings.dead_letters.max_consecutive,
                settings.dead_letters.max_ratio,
                settings.dead_letters.ratio_records,
            ),
        )
        self._lag = LagMonitor(
            LogReader(reader_config, settings.topics.input),
            self._source, telemetry, settings.lag.interval,
        )  # fmt: skip
        self._labels = LabelFeed(
            kafka_clients.reader_config(settings, self._on_error("labels")),
            settings.topics.labels, parts.frauds, telemetry, settings.labels.max_wait,
        )  # fmt: skip
        self._sink = self._make_sink()
        pipeline = make_pipeline(parts, self._labels, self._sink, telemetry)
        self._loop = Loop(
            self._source, pipeline, parts.state, control, telemetry, settings.delivery.outage_limit
        )

    def _build_state(self, parts: Parts, reader: LogReader) -> None:
        """Where state comes from when a partition comes, and where it goes."""
        settings, telemetry, state = self._settings, self._telemetry, parts.state
        self._snapshotter: Snapshotter | None = None
        loader, store = None, snapshot_store(settings)
        self._store = store
        if store is not None:
            contract = state_contract(settings, self._bundle)
            loader = SnapshotLoader(store, contract, state, telemetry, settings.state.read_timeout)
            self._snapshotter = Snapshotter(
                store, state, contract, settings.state.snapshot_interval, telemetry
            )
        self._restorer = StateRestorer(
            reader, parts.decoder, state, telemetry, loader, self._on_part
        )

    def _on_part(self, partition: int, next_offset: int) -> None:
        if self._snapshotter is None:
            return
        try:
            self._snapshotter.parted(partition, next_offset)
        except Exception as error:  # noqa: BLE001 - we are in a rebalance callback, and can do without
            self._telemetry.snapshot_failed(partition, f"{type(error).__name__}: {error}")

    def _make_sink(self) -> AtLeastOnceSink | ExactlyOnceSink:
        settings, on_error = self._settings, self._on_error("producer")
        limit = settings.delivery.outage_limit
        if settings.processing.guarantee == "at-least-once":
            config = kafka_clients.producer_config(settings, on_error)
            return AtLeastOnceSink(config, self._source, limit)
        configs = [kafka_clients.transactional_config(settings, on_error, k) for k in (0, 1)]
        return ExactlyOnceSink(configs, self._source, self._telemetry, limit)

    def _on_error(self, client: str) -> kafka_clients.ErrorCallback:
        def tell(error: KafkaError) -> None:
            self._telemetry.client_error(client, error.name(), error.str())
            # A denied fetch comes out of a poll; a topic shown no more is told of here alone.
            if client == "group" and (error.fatal() or is_denial(error)):
                self._fatal = error

        return tell

    def _persist(self, step: Callable[[], bool | None]) -> None:
        """
        Repeat a step of the start while it says False or, for a time, finds no broker.

        Raises OutageError when that time, delivery.outage_limit, is over.
        """
        limit = self._settings.delivery.outage_limit
        answered = time.monotonic()
        while not self._stopping.is_set():
            try:
                if step() is not False:
                    return
                answered = time.monotonic()
            except KafkaException as error:
                self._telemetry.brokers_awaited(kafka_error(error).str())
                if time.monotonic() - answered > limit:
                    raise OutageError(limit) from error
                self._stopping.wait(_RETRY_SECONDS)

    def _keep_going(self) -> bool:
        """Asked between two batches, when the state is that of our own next offsets."""
        # An instance without partitions fetches nothing, and learns of a denial by asking for ends.
        if (error := self._fatal or self._lag.denial) is not None:
            raise fatal("the group consumer cannot go on", error)
        self._identity.require_same()
        # A batch in hand notices an outage by itself; with none, nothing else would.
        limit = self._settings.delivery.outage_limit
        if self._seconds_without_brokers > limit:
            raise OutageError(limit)
        if self._resuming.is_set():
            self._resuming.clear()
            self._source.resume_paused()
        if self._snapshotter is not None:
            self._snapshotter.between_batches(self._source.settled_offsets)
        return not self._stopping.is_set()

    @property
    def _seconds_without_brokers(self) -> float:
        return min(self._lag.seconds_without_answer, self._loop.seconds_since_commit)

    def _watch(self) -> Callable[[], None]:
        """
        End the process where a call of the client never returns; return what ends the watch.

        Seen with librdkafka 2.16: brokers that go for good while offsets are sent to a transaction
        leave that call waiting for ever, whatever its time-out, and no signal's handler runs.
        """
        settings, done = self._settings, threading.Event()
        transaction = int(settings.kafka.get("transaction.timeout.ms", 60_000)) / 1_000
        between_polls = int(settings.kafka.get("max.poll.interval.ms", 300_000)) / 1_000
        # A commit, what became of it, and a new producer; and no less than the group waits for us.
        limit = max(transaction + 2 * settings.delivery.outage_limit, between_polls)

        def watch() -> None:
            since = time.monotonic()
            while not done.wait(1.0):
                if min(self._loop.seconds_since_poll, time.monotonic() - since) > limit:
                    self._telemetry.stuck(limit)
                    os._exit(EXIT_NOT_DRAINED)

        threading.Thread(target=watch, name="watch", daemon=True).start()
        return done.set

    def _live(self) -> dict[str, bool]:
        limit = int(self._settings.kafka.get("max.poll.interval.ms", 300_000)) / 2_000
        return {"polling": self._loop.seconds_since_poll < limit}

    def _ready(self) -> dict[str, bool]:
        # Without partitions nothing is in hand, and a poll is progress even when no broker answers.
        seconds = max(self._loop.seconds_since_progress, self._seconds_without_brokers)
        parts = {
            "model_loaded": True,
            "assigned_and_restored": self._source.is_ready,
            "committing": seconds < _NOT_COMMITTING_SECONDS,
        }
        self._telemetry.metrics.ready.set(all(parts.values()))
        return parts

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """
        Hear signals on a thread: the interpreter writes their numbers to a socket at once, whereas
        a handler waits until a call of the client returns, and raises in the middle of a poll.
        """
        told, heard = socket.socketpair()
        os.set_blocking(told.fileno(), False)

        def listen() -> None:
            with heard:
                while number := heard.recv(1):
                    self._hear(signal.Signals(number[0]))

        threading.Thread(target=listen, name="signals", daemon=True).start()
        before: dict[int, Any] = {
            number: signal.signal(number, _left_to_thread) for number in _HEARD
        }
        before_fd = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            told.close()

    def _hear(self, number: signal.Signals) -> None:
        """
        SIGTERM and SIGINT end the process, SIGUSR1 lets partitions go on that had too many dead
        letters.
        """
        if number is signal.SIGUSR1:
            self._resuming.set()
        elif number in _HEARD:
            self._stopping.set()
            self._telemetry.stopping(number.name)
            watchdog = threading.Timer(DRAIN_SECONDS, os._exit, [EXIT_NOT_DRAINED])
            watchdog.daemon = True
            watchdog.start()


def _left_to_thread(_: int, __: FrameType | None) -> None:
    """Keep a signal from what the system does by default."""


def rehearse(bundle: Bundle) -> None:
    """Score made-up payments, which compiles every kernel that is not in the cache."""
    warm_up(
        PaymentDecoder([schemas.load("transaction")], attributes=bundle.feature_set.attributes),
        bundle.feature_set,
        bundle.model,
        Explainer(bundle.feature_set, bundle.genuine_medians),
        PredictionEncoder("", "", bundle.identity),
        AlertEncoder("", "", bundle.identity, alert_window=1),
    )
