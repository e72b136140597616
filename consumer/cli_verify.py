"""`fraudstream verify`: holds topics and offsets against what the consumer promises."""

import json as json_lines
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consumer.cli_brokers import require_brokers
from consumer.cli_options import (
    ConfigOption,
    FromOption,
    InsecureOption,
    ToOption,
    kafka_times,
    seconds,
)
from consumer.cli_progress import Steps, answer_console, progress
from consumer.cli_state import compared_with_log
from consumer.errors import ConfigError
from consumer.log_fold import log_faults
from consumer.settings import Settings, load_settings
from consumer.verify.invariants import MEANINGS, Finding, Findings
from consumer.verify.verification import Report, Scope
from consumer.verify.verification import verify as verify_topics

EXIT_BROKEN: Final = 65
_GUARANTEES: Final = ("at-least-once", "exactly-once")
_SECONDS_AFTER_TIMEOUT: Final = 10.0


def verify(
    config: ConfigOption = None,
    *,
    insecure: InsecureOption = False,
    begin: FromOption = None,
    end: ToOption = None,
    group: Annotated[
        str | None, typer.Option(help="Consumer group.", show_default='kafka."group.id"')
    ] = None,
    guarantee: Annotated[
        str | None,
        typer.Option(help=" or ".join(_GUARANTEES), show_default="processing.guarantee"),
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option(
            help="Longest wait for an open transaction to end.",
            show_default="transaction.timeout.ms and 10 s",
        ),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            min=0,
            help="Most payments whose features are computed again, of whole cards; 0: none.",
        ),
    ] = 100_000,
    state: Annotated[
        bool, typer.Option(help="Hold snapshots against the log, where state.url is set.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """
    Check that nothing is lost, repeated, out of order or made up, and that offsets say so.

    Reads input and outputs beside the group, and changes nothing. Exit code 0: all that was
    checked holds, 65: an invariant is broken.
    """
    settings = load_settings(config, insecure=insecure)
    if guarantee not in {None, *_GUARANTEES}:
        raise ConfigError(f"--guarantee: {guarantee!r} is none of {', '.join(_GUARANTEES)}")
    first, last = kafka_times(begin, end)
    scope = Scope(
        group=group or settings.group,
        exactly_once=(guarantee or settings.processing.guarantee) == "exactly-once",
        begin=first,
        end=last,
        wait_seconds=_wait_seconds(settings) if wait is None else seconds("--wait", wait),
        sample=sample,
    )
    require_brokers(settings)
    with log_faults(), progress() as steps:
        report = verify_topics(settings, scope, steps)
        _check_state(report.findings, settings, steps, asked=state)
    if json:
        typer.echo(json_lines.dumps(report.as_json()))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(EXIT_BROKEN)


def _wait_seconds(settings: Settings) -> float:
    timeout = int(settings.kafka.get("transaction.timeout.ms", 60_000)) / 1_000
    return timeout + _SECONDS_AFTER_TIMEOUT


def _check_state(findings: Findings, settings: Settings, steps: Steps, *, asked: bool) -> None:
    if not (asked and settings.state.url):
        findings.left_out("state", "left out" if settings.state.url else "state.url is empty")
        return
    try:
        rows = compared_with_log(settings, None, steps)
    except ConfigError as error:  # no snapshot yet, or no bundle that could read one
        findings.left_out("state", error.faults[0])
        return
    for row in rows:
        findings.checked("state")
        if row["refused"] or row["differences"]:
            findings.broken(
                "state", settings.topics.input, row["partition"], row["next_offset"],
                "a snapshot that is damaged" if row["refused"] else "a snapshot that differs",
            )  # fmt: skip


def _show(report: Report) -> None:
    console = answer_console()
    counts = report.counts
    console.print(
        f"[bold]{escape(report.topic)}[/bold], group {escape(report.scope.group)}:"
        f" {counts['events']:,} events in = {counts['predictions']:,} predictions +"
        f" {counts['dead_letters'] - counts['superseded']:,} dead letters +"
        f" {counts['tombstones']:,} tombstones; {counts['pending']:,} pending"
    )
    if counts["repeats"]:
        console.print(f"{counts['repeats']:,} answers came again")
    table = Table("invariant", "", "checked", "broken", "unjudged", "meaning", show_edge=False)
    for finding in report.findings:
        table.add_row(
            finding.name, _word(finding), f"{finding.checked:,}", f"{finding.broken:,}",
            f"{finding.unjudged:,}", MEANINGS[finding.name].text,
        )  # fmt: skip
    console.print("", table)
    for finding in report.findings:
        _show_examples(console, finding)


def _word(finding: Finding) -> str:
    if finding.ok is None:
        return f"not checked: {finding.reason}"
    return "holds" if finding.ok else "[bold]broken[/bold]"


def _show_examples(console: Console, finding: Finding) -> None:
    for example in finding.examples:
        offset = "" if example.offset is None else f"@{example.offset}"
        place = escape(f"{example.topic}[{example.partition}]{offset}")
        console.print(f"[bold]{finding.name}[/bold] {place}: {example.what}")
    if finding.broken > len(finding.examples) > 0:
        console.print(f"{finding.name}: {finding.broken - len(finding.examples):,} more")
