"""Options that several commands have, and what is typed for them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast

import typer

from consumer.errors import ConfigError
from consumer.settings import parse_duration

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="FRAUDSTREAM_CONFIG",
        help="TOML file; see README.",
        show_default=False,
    ),
]
InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", help="As security.insecure: brokers without verified TLS."),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", help="First record's Kafka timestamp, ISO 8601, UTC.", show_default="all"
    ),
]
ToOption = Annotated[
    str | None,
    typer.Option("--to", help="Timestamp it ends at, itself left out.", show_default="all"),
]
HistorySourceOption = Annotated[
    str, typer.Option("--from", help="handbook (the simulator), parquet, or topics.")
]
PaymentsOption = Annotated[Path | None, typer.Option(help="Parquet file of payments.")]
LabelsOption = Annotated[Path | None, typer.Option(help="Parquet file of fraud labels.")]
LabelDelayOption = Annotated[
    str, typer.Option(help="With --from handbook: as `fraudstream simulate --labels`.")
]
FeatureSetOption = Annotated[
    str,
    typer.Option(
        help="arrival-1, arrival-2, arrival-3, arrival-4, or handbook-1, whose input has one"
        " partition."
    ),
]
WarmUpOption = Annotated[
    str | None,
    typer.Option(help="Payments before begin, to fill windows.", show_default="the longest window"),
]


def unix_seconds(option: str, text: str, example: str = "2018-07-25") -> float:
    """Return a time, ISO 8601 and UTC unless it says otherwise. Raises ConfigError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is no time; write {example}") from error
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def micros(option: str, text: str) -> int:
    """Return a day or a time as events have it, microseconds since 1970. Raises ConfigError."""
    return round(unix_seconds(option, text) * 1_000_000)


def milliseconds(option: str, text: str) -> int:
    """Return a time as Kafka has it, milliseconds since 1970. Raises ConfigError."""
    return round(unix_seconds(option, text, "2018-07-25T12:00") * 1_000)


def kafka_times(begin: str | None, end: str | None) -> tuple[int | None, int | None]:
    """Return what --from and --to say, milliseconds since 1970. Raises ConfigError."""
    return (
        None if begin is None else milliseconds("--from", begin),
        None if end is None else milliseconds("--to", end),
    )


def seconds(option: str, text: str) -> float:
    """Return a duration in seconds. Raises ConfigError."""
    try:
        return cast(float, parse_duration(text))
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error
