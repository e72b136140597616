"""Which topics we read, beyond their names: one that is deleted and made again is another one."""

import threading
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from consumer.adapters import kafka_clients
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

    @property
    def topic_id(self) -> str:
        """Whose the offsets are that we commit; empty where that is not known."""
        return self._ids.get(self.topic, "")

    def is_of_another(self, topic_id: str) -> bool:
        """
        Say whether offsets that were committed with this id are of another topic of that name.
        Raises KafkaException while that is not known; offsets that others set have none, and hold.
        """
        if not topic_id:
            return False
        if not self.topic_id:
            self._learn(self.topic)
        return topic_id != (self.topic_id or topic_id)

    def _learn(self, topic: str) -> None:
        if self._admin is None:
            self._admin = AdminClient(self._config)
        found = ask_topic_id(self._admin, topic)
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
    try:
        found = str(future.result(2 * _REQUEST_SECONDS).topic_id)
    except TimeoutError as error:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from error
    return None if found == _NO_ID else found
