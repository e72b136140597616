"""`fraudstream train`: brings payments and labels to the trainer, from wherever they are kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

import numpy as np
from rich.console import Console

import schemas
from consumer.adapters.kafka_clients import reader_config
from consumer.adapters.label_log import fold_labels
from consumer.adapters.log_reader import LogReader
from consumer.adapters.message_columns import as_records
from consumer.cli_progress import progress
from consumer.core.batch import Events
from consumer.core.decode import PaymentDecoder
from consumer.core.engines import ENGINES
from consumer.core.feature_sets import ARRIVAL_1
from consumer.core.labels import TerminalFrauds
from consumer.errors import ConfigError
from consumer.settings import Settings, load_settings, parse_duration
from producer_sim import handbook
from producer_sim.events import event_times
from producer_sim.labels import fraud_labels, parse_law
from producer_sim.population import card_ids, terminal_ids
from training.bundle import Engine, write_bundle
from training.history import NEVER, History, hash_texts, measure
from training.sources import UnreadableError, from_columns, from_events, from_parquet
from training.train import Period, UntrainableError, train

_SEED: Final = 0
_GRACE: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The options of the command, as they were typed."""

    begin: str
    end: str
    source: str
    config: Path | None
    payments: Path | None
    labels: Path | None
    label_delay: str
    known_by: str | None
    settle: str
    warm_up: str
    alerts_per_day: int
    engine: str
    name: str
    out: Path


def run_train(options: TrainOptions) -> None:
    """Train and write the bundle. Raises ConfigError with a sentence for what cannot work."""
    begin, end = _micros("--begin", options.begin), _micros("--end", options.end)
    known_by = _micros("--known-by", options.known_by) if options.known_by else NEVER - 1
    if options.engine not in {"auto", *ENGINES}:
        raise ConfigError(f"--engine: {options.engine!r} is none of auto, {', '.join(ENGINES)}")
    frauds = TerminalFrauds(schemas.versions("label"), _seconds("--settle", options.settle))
    with progress() as steps:
        tell = steps.begin
        tell("reading payments and labels")
        history = _history(options, frauds)
        window = (begin - int(_seconds("--warm-up", options.warm_up) * 1_000_000), end)
        history = history.between(*window)
        tell(f"computing features of {len(history):,} payments")
        rows = measure(history, ARRIVAL_1, frauds, _GRACE, lambda _: None)
        try:
            trained = train(
                history, rows, Period(begin, end, known_by), options.alerts_per_day, tell
            )
        except UntrainableError as error:
            raise ConfigError(str(error)) from error
        tell("writing the bundle")
        manifest = write_bundle(
            options.out, trained, ARRIVAL_1, options.name, cast(Engine, options.engine)
        )
    facts = manifest.metrics
    Console(stderr=True).print(
        f"{options.out}: {manifest.name} {manifest.version}, engine {manifest.engine},"
        f" {manifest.training['payments']:,} payments, {manifest.training['frauds']:,} frauds;"
        f" average precision on the last days, held out: {facts['held_out_average_precision']:.3f}"
    )


def _history(options: TrainOptions, frauds: TerminalFrauds) -> History:
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
            return _from_topics(load_settings(options.config), frauds)
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
    known_at = np.full(len(payments), NEVER, np.int64)
    known_at[labels.row] = labels.published_at
    for row, published_at in zip(labels.row.tolist(), labels.published_at.tolist(), strict=True):
        frauds.report(str(row).encode(), terminals[payments.terminal[row]], published_at)
    return from_columns(
        event_times(payments), cards[payments.customer], terminals[payments.terminal],
        payments.cents, known_at,
    )  # fmt: skip


def _from_topics(settings: Settings, frauds: TerminalFrauds) -> History:
    decoder = PaymentDecoder(schemas.versions("transaction"))
    config = reader_config(settings, lambda _: None)
    with _reader(config, settings.topics.labels) as labels:
        fold_labels(labels, frauds)
    with _reader(config, settings.topics.input) as reader:
        return from_events(_events(reader, decoder, settings.topics.input), frauds.published_at)


def _events(reader: LogReader, decoder: PaymentDecoder, topic: str) -> Iterator[Events]:
    for messages in reader.scan(reader.partitions(10)):
        yield decoder.decode(as_records(topic, messages))[0]


@contextmanager
def _reader(config: Mapping[str, object], topic: str) -> Iterator[LogReader]:
    reader = LogReader(dict(config), topic)
    try:
        yield reader
    finally:
        reader.close()


def _micros(option: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is no time; write 2018-07-25") from error
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000_000)


def _seconds(option: str, text: str) -> float:
    try:
        return cast(float, parse_duration(text))
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error
