"""What the guarantee and the windows ask of the topics: create them so, or say what differs."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented, not in __all__
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from consumer.adapters import kafka_clients
from consumer.core.feature_sets import FeatureSet
from consumer.errors import ConfigError, FatalError
from consumer.settings import Settings

_REQUEST_SECONDS: Final = 30.0
_METADATA_SECONDS: Final = 2.0
_FOREVER: Final = -1
_MARGIN_DAYS: Final = 1
_DAY_MS: Final = 86_400_000
_AHEAD: Final = "message.timestamp.after.max.ms"
_DEAD_LETTER_BYTES: Final = 2 * 2**20


@dataclass(frozen=True, slots=True)
class TopicNeeds:
    """
    One topic: how many partitions, how long it must keep records, how large they may be.

    `retention_ms` is the least that will do, -1 for ever. `max_ahead_ms` is how far ahead of the
    broker's clock a timestamp may be at most, where the broker can be told.
    """

    name: str
    partitions: int
    retention_ms: int | None = None
    max_message_bytes: int | None = None
    max_ahead_ms: int | None = None

    @property
    def config(self) -> dict[str, str]:
        """Topic configuration to create it with."""
        config = {"cleanup.policy": "delete"}
        if self.retention_ms is not None:
            config["retention.ms"] = str(self.retention_ms)
        if self.max_message_bytes is not None:
            config["max.message.bytes"] = str(self.max_message_bytes)
        return config


def needs(settings: Settings, feature_set: FeatureSet, partitions: int) -> list[TopicNeeds]:
    """
    Return what each topic needs, the input first, dead letters and what was done with them last.

    State is rebuilt from the input topic, so that keeps the longest window, twice the grace, and a
    window of alerts: what raised them is scored again. A payment is from the future by its own
    record's timestamp, so that must not be from it too: one payment of 2099 would make all later
    ones of its partition late.
    Labels are kept for ever and never compacted: their key is a terminal, and compaction would
    leave it only its last fraud. A dead letter keeps its partition, and is larger by its headers;
    what was done with it must be known for as long as it may be looked at, and in one order.
    """
    longest_ms = feature_set.longest_window // 1_000
    beyond_seconds = 2 * settings.windows.grace + settings.alerts.window
    reach_ms = longest_ms + int(1_000 * beyond_seconds) + _MARGIN_DAYS * _DAY_MS
    topics = settings.topics
    return [
        TopicNeeds(
            topics.input, partitions, reach_ms, max_ahead_ms=int(settings.input.max_future * 1_000)
        ),
        TopicNeeds(topics.predictions, partitions),
        TopicNeeds(topics.alerts, partitions),
        TopicNeeds(topics.labels, 1, _FOREVER),
        TopicNeeds(settings.dead_letter_topic, partitions, None, _DEAD_LETTER_BYTES),
        TopicNeeds(settings.audit_topic, 1, _FOREVER),
    ]


def too_wide(feature_set: FeatureSet, topic: str, partitions: int) -> list[str]:
    """Say so where the input's partitions would split what the feature set counts."""
    if partitions <= 1 or not feature_set.needs_one_partition:
        return []
    return [
        f"topic {topic}: {partitions} partitions would each see a part of what feature set"
        f" {feature_set.name} counts, payments of terminals; give it one partition, or take another"
        " feature set"
    ]


def require_topics(settings: Settings, feature_set: FeatureSet) -> None:
    """
    Return when all topics exist.

    Raises ConfigError with a sentence for each that is missing, too narrow, since a record that
    cannot be written holds up its partition for ever, or too wide for the feature set; and
    KafkaException when no broker answers.
    """
    admin = AdminClient(kafka_clients.admin_config(settings))
    existing = admin.list_topics(timeout=_METADATA_SECONDS).topics
    found = {name: len(topic.partitions) for name, topic in existing.items()}
    if faults := list(_unusable(settings, feature_set, found)):
        raise ConfigError(faults)


def _unusable(
    settings: Settings, feature_set: FeatureSet, found: Mapping[str, int]
) -> Iterator[str]:
    dead_letters = settings.dead_letter_topic
    width = found.get(settings.topics.input, 0)
    yield from too_wide(feature_set, settings.topics.input, width)
    for need in needs(settings, feature_set, width):
        if need.name == settings.audit_topic:
            continue  # people write it, the group does not
        if need.name not in found:
            yield f"topic {need.name} does not exist; run `fraudstream topics`"
        elif need.name == dead_letters and found[dead_letters] < width:
            yield (
                f"topic {dead_letters} has {found[dead_letters]} partitions, and"
                f" {settings.topics.input} {width}: a dead letter keeps its partition; run"
                " `fraudstream topics`"
            )


def ensure_topics(
    settings: Settings, feature_set: FeatureSet, partitions: int, replication_factor: int
) -> tuple[list[str], list[str]]:
    """
    Create the topics that are missing, and give the one of dead letters as many partitions as the
    input has; return what was done, and a sentence for each difference.

    An input topic that exists decides the number of partitions. A replication factor of -1 leaves
    it to the broker. What another process creates meanwhile is left to it. Raises ConfigError for
    an input topic that would be too wide for the feature set, and FatalError when the broker does
    not answer or refuses.
    """
    admin = AdminClient(kafka_clients.admin_config(settings))
    try:
        existing = admin.list_topics(timeout=_REQUEST_SECONDS).topics
        if settings.topics.input in existing:
            partitions = len(existing[settings.topics.input].partitions)
        if faults := too_wide(feature_set, settings.topics.input, partitions):
            raise ConfigError(faults)
        wanted = needs(settings, feature_set, partitions)
        missing = [need for need in wanted if need.name not in existing]
        done = [f"created {name}" for name in _create(admin, missing, replication_factor)]
        letters = next(need for need in wanted if need.name == settings.dead_letter_topic)
        if letters not in missing and len(existing[letters.name].partitions) < letters.partitions:
            _widen(admin, letters)
            done.append(f"{letters.name} has {letters.partitions} partitions now")
        differences = [
            sentence
            for need in wanted
            if need not in missing
            for sentence in _differences(
                need,
                need.partitions if need is letters else len(existing[need.name].partitions),
                _config_of(admin, need.name),
            )
        ]
    except KafkaException as error:
        raise FatalError(f"the broker refuses or does not answer: {error.args[0].str()}") from error
    return done, differences


def _create(admin: AdminClient, missing: list[TopicNeeds], replication_factor: int) -> list[str]:
    """Return the names of those that were created here. Raises KafkaException."""
    if not missing:
        return []
    futures = admin.create_topics(
        [NewTopic(n.name, n.partitions, replication_factor, config=n.config) for n in missing],
        request_timeout=_REQUEST_SECONDS,
    )
    return [name for name, future in futures.items() if _is_created(future)]


def _widen(admin: AdminClient, need: TopicNeeds) -> None:
    """
    Add partitions: a letter goes where its record was, so none of those that exist moves.

    Raises KafkaException.
    """
    [future] = admin.create_partitions(
        [NewPartitions(need.name, need.partitions)], request_timeout=_REQUEST_SECONDS
    ).values()
    future.result(_REQUEST_SECONDS)


def _is_created(future: "Future[None]") -> bool:
    """Say whether the topic is new; False if somebody else made it. Raises KafkaException."""
    try:
        future.result(_REQUEST_SECONDS)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        return False
    return True


def _config_of(admin: AdminClient, topic: str) -> Mapping[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    [future] = admin.describe_configs([resource], request_timeout=_REQUEST_SECONDS).values()
    return {name: entry.value for name, entry in future.result(_REQUEST_SECONDS).items()}


def _differences(need: TopicNeeds, partitions: int, config: Mapping[str, str]) -> Iterator[str]:
    if partitions < need.partitions:
        yield f"{need.name} has {partitions} partitions and needs {need.partitions}: add them"
    if config["cleanup.policy"] != "delete":
        yield f"{need.name} has cleanup.policy={config['cleanup.policy']}: set it to delete"
    if need.retention_ms is not None:
        kept = int(config["retention.ms"])
        if kept != _FOREVER and (need.retention_ms == _FOREVER or kept < need.retention_ms):
            yield (
                f"{need.name} has retention.ms={kept}: set it to at least {need.retention_ms}"
                " (-1 is for ever)"
            )
        if int(config["retention.bytes"]) != _FOREVER:
            yield f"{need.name} has retention.bytes: set it to -1, as time alone must decide"
    if (
        need.max_message_bytes is not None
        and int(config["max.message.bytes"]) < need.max_message_bytes
    ):
        yield (
            f"{need.name} has max.message.bytes={config['max.message.bytes']}: set it to"
            f" {need.max_message_bytes}, a dead letter is larger than its record"
        )
    ahead = int(config.get(_AHEAD, "0"))  # Kafka has it from 3.6 on
    is_producers = config.get("message.timestamp.type", "CreateTime") == "CreateTime"
    if need.max_ahead_ms is not None and is_producers and ahead > need.max_ahead_ms:
        yield (
            f"{need.name} has {_AHEAD}={ahead}: set it to at most {need.max_ahead_ms}"
            " (input.max_future), or one wrong clock makes all later payments late"
        )
