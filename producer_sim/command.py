"""The command `fraudstream simulate`, also `python -m producer_sim`."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from consumer.kafka_properties import exposures
from producer_sim.errors import SimulationError
from producer_sim.labels import parse_law
from producer_sim.pace import parse_speed
from producer_sim.progress import clock_text, progress
from producer_sim.properties import Properties, read_properties
from producer_sim.simulation import IfHeld, Options, run
from producer_sim.stop import StopRequest
from producer_sim.timeline import FOREVER

T = TypeVar("T")


class Scenario(StrEnum):
    """Data that can be simulated."""

    HANDBOOK = "handbook"


ScenarioName = Annotated[
    Scenario,
    typer.Option(
        "--scenario", help="handbook: the Fraud Detection Handbook's 1.75 million payments."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        envvar="FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS",
        help="The Kafka brokers, host:port,...",
    ),
]
PropertiesFile = Annotated[
    Path | None,
    typer.Option("--command-config", help="Kafka client properties, a file of key=value lines."),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        envvar="FRAUDSTREAM_SECURITY__INSECURE",
        help="Brokers beyond this machine without verified TLS.",
    ),
]
Topic = Annotated[str, typer.Option("--topic", help="Where payments go, keyed by card.")]
LabelsTopic = Annotated[
    str,
    typer.Option("--labels-topic", help="Where frauds that became known go, keyed by terminal."),
]
Law = Annotated[
    str,
    typer.Option(
        "--labels",
        help="How long after its payment a fraud becomes known: exactly:7d; within:1d; "
        "exponential:7d, the mean; lognormal:14d:60d, median and 95th percentile; or a share of "
        "one and the rest of another, 40%:within:1d+lognormal:14d:60d.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        help="Draws what the Handbook lacks: ids, devices, exponential delays. "
        "The payments themselves follow the Handbook's own seeds.",
    ),
]
Speed = Annotated[
    str,
    typer.Option(
        "--speed", help="1 for real time, 60 for 60 times that, max for all the broker takes."
    ),
]
Rate = Annotated[
    float,
    typer.Option(
        "--rate", min=0.001, show_default="no bound", help="At most so many payments a second."
    ),
]
From = Annotated[
    str | None, typer.Option("--from", help="First day or time to publish, ISO 8601, UTC.")
]
To = Annotated[
    str | None,
    typer.Option("--to", help="Day or time to publish up to, itself left out, ISO 8601, UTC."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on after the last records in the topics. Give the other options as before.",
    ),
]
Again = Annotated[
    bool,
    typer.Option(
        "--again",
        help="Publish even though the topics hold this scenario; such a run cannot be resumed.",
    ),
]
MaxUnread = Annotated[
    int | None,
    typer.Option(
        "--max-unread", min=1, help="Wait while --group has more than so many payments to read."
    ),
]
Group = Annotated[str | None, typer.Option("--group", help="The consumer group to wait for.")]
Quiet = Annotated[bool, typer.Option("--quiet/--progress", help="Say nothing but errors.")]


def simulate(  # noqa: PLR0913  # one parameter per option
    *,
    scenario: ScenarioName = Scenario.HANDBOOK,
    bootstrap_servers: Address = None,
    command_config: PropertiesFile = None,
    insecure: Insecure = False,
    topic: Topic = "transactions.raw",
    labels_topic: LabelsTopic = "fraud.labels",
    labels: Law = "exactly:7d",
    seed: Seed = 0,
    speed: Speed = "max",
    rate: Rate = math.inf,
    from_: From = None,
    to: To = None,
    resume: Resume = False,
    again: Again = False,
    max_unread: MaxUnread = None,
    group: Group = None,
    quiet: Quiet = False,
) -> None:
    """Publish card payments to Kafka, and the news which were frauds when it becomes known."""
    if (max_unread is None) != (group is None):
        raise typer.BadParameter("--max-unread and --group need each other")
    options = Options(
        properties=_properties(bootstrap_servers, command_config, insecure=insecure),
        insecure=insecure,
        topic=topic,
        labels_topic=labels_topic,
        law=_parsed("--labels", parse_law, labels),
        seed=seed,
        speed=_parsed("--speed", parse_speed, speed),
        rate=rate,
        start=_parsed("--from", parse_time, from_) if from_ else 0,
        end=_parsed("--to", parse_time, to) if to else FOREVER,
        if_held=_if_held(resume=resume, again=again),
        group=group,
        unread_max=max_unread or 0,
    )
    raise typer.Exit(_simulate(options, Console(stderr=True, quiet=quiet)))


def parse_time(text: str) -> int:
    """
    Read an ISO 8601 date or time as microseconds since 1970, UTC where it names no zone.

    Raises ValueError with a sentence for anything else.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time: write 2018-07-25 or 2018-07-25T12:00") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def _parsed(option: str, parse: Callable[[str], T], text: str) -> T:
    """Read an option's text; what is wrong with it becomes a usage error that names the option."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _properties(bootstrap_servers: str | None, file: Path | None, *, insecure: bool) -> Properties:
    properties: Properties = {"client.id": "fraudstream-simulate"}
    if file is not None:
        properties |= _parsed(
            "--command-config", lambda text: read_properties(Path(text)), str(file)
        )
    if bootstrap_servers is not None:
        properties["bootstrap.servers"] = bootstrap_servers
    if not properties.get("bootstrap.servers"):
        raise typer.BadParameter(
            "no broker is named: give --bootstrap-servers or set "
            "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS"
        )
    if not insecure and (faults := list(exposures(properties))):
        raise typer.BadParameter("; ".join(faults), param_hint="--command-config")
    return properties


def _if_held(*, resume: bool, again: bool) -> IfHeld:
    if resume and again:
        raise typer.BadParameter("--resume goes on, --again starts anew: give one of them")
    if resume:
        return IfHeld.RESUME
    return IfHeld.REPEAT if again else IfHeld.REFUSE


def _simulate(options: Options, console: Console) -> int:
    """Run with progress and signals; return the exit code."""
    try:
        with StopRequest() as stop, progress(console) as report:
            outcome = run(options, stop, report)
    except SimulationError as error:
        _say(Console(stderr=True), f"simulate: {error}")
        return 1
    published = f"published {outcome.payments:,} payments and {outcome.labels:,} labels"
    if stop.signal is None or outcome.next_time == FOREVER:
        _say(console, published)
        return 0
    if outcome.unacknowledged:
        published += f", {outcome.unacknowledged:,} more were not acknowledged"
    _say(console, f"stopped at {clock_text(outcome.next_time)}: {published}")
    if options.if_held is not IfHeld.REPEAT:
        _say(console, "the same command with --resume goes on from there")
    return 128 + stop.signal


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
