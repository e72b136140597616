"""Which topics we read, beyond their names: one that is deleted and made again is another one."""

import threading
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented, not in __all__
    AdminClient,
    OffsetSpec,
)

from consumer.adapters import kafka_clients
from consumer.adapters.offset_metadata import OffsetMetadata
from consumer.errors import TopicRemadeError
from consumer.settings import Settings

_SECONDS_BETWEEN_LOOKS: Final = 1.0
_REQUEST_SECONDS: Final = 5.0
_NO_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"  # all zeros: a broker older than topic ids


class TopicIdentity(threading.Thread):
    """
    Notices that a topic was deleted and made again while we read it, by its id (KIP-516).

    librdkafka 2.16 reads on at the offset that it had in the deleted topic, if the new one has come
    so far, and what lies before it would be passed over in silence. Where the brokers tell no ids,
    nothing is noticed.
    """

    def __init__(self, config: dict[str, Any], topic: str, *others: str) -> None:
        """`config` is that of kafka_clients.admin_config; `topic` is the one of our offsets."""
        super().__init__(name="topics", daemon=True)
        self._config = config
        self.topic: Final = topic
        self._topics = (topic, *others)
        self._ids: dict[str, str] = {}
        self._cluster = ""
        self._remade: str | None = None
        self._admin: AdminClient | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        self.look()
        while not self._stopped.wait(_SECONDS_BETWEEN_LOOKS):
            self.look()

    def stop(self) -> None:
        """End the thread, without waiting for an answer that it waits for."""
        self._stopped.set()

    def look(self) -> None:
        """Ask for all ids; of what is not there or not told, nothing new is known."""
        for topic in self._topics:
            try:
                self._learn(topic)
            except KafkaException:
                continue

    def require_same(self) -> None:
        """Raise TopicRemadeError if a topic was seen to be another one than at first."""
        if self._remade is not None:
            raise TopicRemadeError(self._remade)

    def require_same_now(self) -> None:
        """Look, and raise TopicRemadeError if a topic is another one than at first."""
        if self._ids:
            self.look()
        self.require_same()

    def metadata(self, scorer: str, since: int) -> OffsetMetadata:
        """Return what to commit offsets with, as far as it is known."""
        return OffsetMetadata(self._cluster, self._ids.get(self.topic, ""), scorer, since)

    def believed(self, said: OffsetMetadata) -> OffsetMetadata | None:
        """
        Return what holds of what stands beside an offset; None where the offset itself is of
        another topic of that name.

        An offset that a mirror brought from another cluster holds like one that an operator set;
        what else it says is of that cluster. Raises KafkaException while the ids are not known, and
        TopicRemadeError where it is our topic that is gone.
        """
        known = self._ids.get(self.topic)
        if not (self._cluster and said.topic_id in {"", known}):
            self._learn(self.topic)
            self.require_same()
            known = self._ids.get(self.topic)
        if said.cluster != self._cluster:
            return OffsetMetadata()
        return said if said.topic_id in {"", known or said.topic_id} else None

    def end(self, partition: int) -> int:
        """
        Ask for a partition's high watermark, which an operator may set offsets to, and which lies
        beyond the last stable offset where a transaction is open. Raises KafkaException.
        """
        part = TopicPartition(self.topic, partition)
        [future] = (
            self._client()
            .list_offsets(
                {part: OffsetSpec.latest()},  # type: ignore[no-untyped-call]
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=_REQUEST_SECONDS,
            )
            .values()
        )
        return int(_answer(future).offset)

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._config)
        return self._admin

    def _learn(self, topic: str) -> None:
        if not self._cluster:
            self._cluster = ask_cluster_id(self._client())
        found = ask_topic_id(self._client(), topic)
        if found is not None and self._ids.setdefault(topic, found) != found:
            self._remade = topic


def topic_id(settings: Settings) -> str | None:
    """Return the id of the input topic, None where the broker does not tell it."""
    try:
        return ask_topic_id(
            AdminClient(kafka_clients.admin_config(settings)), settings.topics.input
        )
    except KafkaException:
        return None


def ask_topic_id(admin: AdminClient, topic: str) -> str | None:
    """
    Return the id of a topic (KIP-516): one that is deleted and made anew has another.

    None where the broker has none: Apache Kafka does since 2.8. Raises KafkaException, also where
    there is no such topic.
    """
    [future] = admin.describe_topics(
        TopicCollection([topic]), request_timeout=_REQUEST_SECONDS
    ).values()
    found = str(_answer(future).topic_id)
    return None if found == _NO_ID else found


def ask_cluster_id(admin: AdminClient) -> str:
    """Return the id of the cluster, empty where it has none. Raises KafkaException."""
    found: str | None = admin.list_topics(timeout=_REQUEST_SECONDS).cluster_id
    return found or ""


def _answer(future: "Future[Any]") -> Any:
    """Wait for what an admin client asked. Raises KafkaException."""
    try:
        return future.result(2 * _REQUEST_SECONDS)
    except TimeoutError as error:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from error
