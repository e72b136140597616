"""Payments and labels for `train` and `evaluate`, from wherever they are kept."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from confluent_kafka import KafkaException, Message

import schemas
from consumer.adapters.kafka_clients import reader_config
from consumer.adapters.label_log import fold_labels
from consumer.adapters.log_reader import LogReader
from consumer.adapters.message_columns import as_records
from consumer.adapters.topics import too_wide
from consumer.cli_brokers import require_brokers
from consumer.cli_options import seconds
from consumer.core.avro_decoder import AvroDecoder
from consumer.core.avro_program import Column
from consumer.core.batch import Events
from consumer.core.decode import PaymentDecoder
from consumer.core.feature_sets import FeatureSet
from consumer.core.labels import TerminalFrauds
from consumer.errors import ConfigError, FatalError
from consumer.records import Status
from consumer.settings import Settings, load_settings
from producer_sim import handbook
from producer_sim.events import event_times
from producer_sim.labels import fraud_labels, parse_law
from producer_sim.population import card_ids, terminal_ids
from producer_sim.population import terminals as terminal_fields
from training.history import NEVER, History, country_codes_of, hash_texts
from training.sources import UnreadableError, from_columns, from_events, from_parquet

GRACE: Final = 86_400_000_000
_SEED: Final = 0
_SCENARIO: Final = (
    Column("transaction_id", "string"),
    Column("scenario", "string", default=0),
)


@dataclass(frozen=True, slots=True)
class HistoryOptions:
    """Where payments and labels are, as the options were typed."""

    source: str
    config: Path | None
    insecure: bool
    payments: Path | None
    labels: Path | None
    label_delay: str
    settle: str


def read_history(
    options: HistoryOptions, feature_sets: Collection[FeatureSet]
) -> tuple[History, TerminalFrauds]:
    """
    Return all payments, and the labels as the consumer folds them in.

    Raises ConfigError with a sentence for what cannot be read, or what a topic's partitions keep
    these feature sets from counting; FatalError when a topic cannot be read.
    """
    frauds = TerminalFrauds(schemas.versions("label"), seconds("--settle", options.settle))
    return _history(options, feature_sets, frauds), frauds


def _history(
    options: HistoryOptions, feature_sets: Collection[FeatureSet], frauds: TerminalFrauds
) -> History:
    match options.source:
        case "handbook":
            return _from_handbook(options.label_delay, frauds)
        case "parquet":
            if options.payments is None or options.labels is None:
                raise ConfigError("--from parquet needs --payments and --labels")
            try:
                return from_parquet(options.payments, options.labels, frauds)
            except UnreadableError as error:
                raise ConfigError(str(error)) from error
        case "topics":
            settings = load_settings(options.config, insecure=options.insecure)
            require_brokers(settings)
            return _from_topics(settings, feature_sets, frauds)
    raise ConfigError(f"--from: {options.source!r} is none of handbook, parquet, topics")


def _from_handbook(label_delay: str, frauds: TerminalFrauds) -> History:
    try:
        law = parse_law(label_delay)
    except ValueError as error:
        raise ConfigError(f"--label-delay: {error}") from error
    payments = handbook.load()
    labels = fraud_labels(payments, law, _SEED)
    cards = hash_texts([card.encode() for card in card_ids(_SEED)])
    terminals = hash_texts([terminal.encode() for terminal in terminal_ids(_SEED)])
    countries = country_codes_of(
        [fields["merchant_country"].encode() for fields in terminal_fields(_SEED)]
    )
    scenarios = np.array(["", "1", "2", "3"])[payments.scenario]
    known_at = np.full(len(payments), NEVER, np.int64)
    known_at[labels.row] = labels.published_at
    for row, published_at in zip(labels.row.tolist(), labels.published_at.tolist(), strict=True):
        frauds.report(str(row).encode(), terminals[payments.terminal[row]], published_at)
    return from_columns(
        event_times(payments), cards[payments.customer], terminals[payments.terminal],
        payments.cents, known_at, scenarios, countries[payments.terminal],
    )  # fmt: skip


def _from_topics(
    settings: Settings, feature_sets: Collection[FeatureSet], frauds: TerminalFrauds
) -> History:
    decoder = PaymentDecoder(
        schemas.versions("transaction"),
        registry=schemas.registry_headers(settings.input.schema_ids),
        attributes={attribute for one in feature_sets for attribute in one.attributes},
    )
    scenarios = AvroDecoder(schemas.versions("label"), _SCENARIO, settings.input.max_value_bytes)
    scenario_of: dict[bytes, str] = {}
    config = reader_config(settings, lambda _: None)

    def note(messages: list[Message]) -> None:
        scenario_of.update(_scenarios(scenarios, list(map(Message.value, messages))))

    with _reader(config, settings.topics.labels) as labels:
        fold_labels(labels, frauds, see=note)
    with _reader(config, settings.topics.input) as reader:
        topic, width = settings.topics.input, len(reader.partitions(10))
        if faults := [fault for one in feature_sets for fault in too_wide(one, topic, width)]:
            raise ConfigError(faults)
        events = _events(reader, decoder, topic)
        return from_events(events, frauds.published_at, scenario_of)


def _scenarios(decoder: AvroDecoder, values: Sequence[bytes | None]) -> dict[bytes, str]:
    """Return the scenario of each payment whose label names one, by transaction id."""
    columns = decoder.decode(values)
    named = {}
    for row in np.flatnonzero(columns.statuses == Status.GOOD).tolist():
        if scenario := columns.text.bytes_of("scenario", row).decode():
            named[columns.text.bytes_of("transaction_id", row)] = scenario
    return named


def _events(reader: LogReader, decoder: PaymentDecoder, topic: str) -> Iterator[Events]:
    for messages in reader.scan(reader.partitions(10)):
        yield decoder.decode(as_records(topic, messages))[0]


@contextmanager
def _reader(config: Mapping[str, object], topic: str) -> Iterator[LogReader]:
    reader = LogReader(dict(config), topic)
    try:
        yield reader
    except KafkaException as error:
        raise FatalError(f"{topic} cannot be read: {error.args[0].str()}") from error
    finally:
        reader.close()
