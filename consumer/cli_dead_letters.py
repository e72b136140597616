"""`fraudstream dead-letters`: what could not be scored, looked at, sent again, or put aside."""

import json as json_lines
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import structlog
import typer
from rich.markup import escape
from rich.table import Table

import schemas
from consumer.adapters.avro_records import AvroRecords, plain
from consumer.adapters.dead_letter_log import DeadLetterLog, Filed, Identity, Mark, Wanted
from consumer.adapters.letter_actions import Action, LetterActions
from consumer.cli_brokers import require_brokers
from consumer.cli_options import ConfigOption, FromOption, InsecureOption, ToOption, kafka_times
from consumer.cli_progress import answer_console
from consumer.core.card_numbers import masked
from consumer.errors import ConfigError
from consumer.log_fold import log_faults
from consumer.records import Status
from consumer.settings import Settings, load_settings
from consumer.telemetry import configure_logging

EXIT_NOT_FOUND: Final = 1
_REASONS: Final = tuple(status.reason for status in Status if status > Status.TOMBSTONE)
_HEX_BYTES: Final = 16
_NO_BYTES: Final = {
    "oversize": "its letter has no bytes; upstream sends it again, smaller: as it is, from its"
    " place in the input topic too, it is refused again unless input.max_value_bytes is raised",
    "card_number": "its letter has no bytes, lest the number be copied; upstream sends it again,"
    " with a token in place of the number",
}

dead_letters = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True,
    help="Dead letters of the input topic: what could not be scored, and what to do about it.",
)  # fmt: skip

ReasonOption = Annotated[
    list[str] | None, typer.Option(help="Only this reason; may be given again.")
]
PartitionOption = Annotated[
    int | None, typer.Option(min=0, help="Of the input topic.", show_default="all")
]
OffsetOption = Annotated[
    int | None, typer.Option(min=0, help="Of the record in the input topic.", show_default="all")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@dataclass
class _Desk:
    """The letters that a command is about, and what was done with them before."""

    settings: Settings
    wanted: Wanted
    log: DeadLetterLog
    marks: dict[Identity, Mark] = field(default_factory=dict)

    def letters(self) -> Iterator[tuple[Filed, Mark | None]]:
        for filed in self.log.letters(self.wanted):
            yield filed, self.marks.get(filed.identity)

    def open_letters(self) -> Iterator[Filed]:
        return (filed for filed, mark in self.letters() if mark is None)

    def require_audit(self) -> None:
        """Raise ConfigError where it could not be told what is done."""
        if not self.log.has_audit():
            raise ConfigError(
                f"topic {self.settings.audit_topic} does not exist, and every action is told there;"
                " run `fraudstream topics`"
            )


@dead_letters.command("list")
def list_(
    config: ConfigOption = None,
    reason: ReasonOption = None,
    begin: FromOption = None,
    end: ToOption = None,
    partition: PartitionOption = None,
    *,
    insecure: InsecureOption = False,
    all_: Annotated[
        bool, typer.Option("--all", help="Also those that were replayed or discarded.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Most rows; 0: all.")] = 50,
    json: JsonOption = False,
) -> None:
    """Count the dead letters by reason and partition, and list them in the topic's order."""
    settings = load_settings(config, insecure=insecure)
    with log_faults(), ExitStack() as stack:
        desk = _desk(stack, settings, reason, begin, end, partition)
        desk.marks = desk.log.marks()
        counts: Counter[tuple[str, int]] = Counter()
        rows: list[dict[str, Any]] = []
        for filed, mark in desk.letters():
            if mark is None or all_:
                counts[filed.letter.reason, filed.letter.place.partition] += 1
                if limit == 0 or len(rows) < limit:
                    rows.append(_row(filed, mark))
    if json:
        for row in rows:
            typer.echo(json_lines.dumps(row))
        return
    _print_counts(counts)
    _print_rows(rows)
    if (left_out := counts.total() - len(rows)) > 0:
        typer.echo(f"{left_out:,} more; --limit 0 lists all")
    if desk.log.strangers:
        typer.echo(f"{desk.log.strangers:,} records are no dead letters of {desk.log.input}")


@dead_letters.command()
def show(
    partition: Annotated[int, typer.Argument(min=0, help="Of the record in the input topic.")],
    offset: Annotated[int, typer.Argument(min=0, help="Of the record in the input topic.")],
    config: ConfigOption = None,
    *,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """
    Show one dead letter: where and why, headers, and bytes, decoded where they can be.

    Digits that may be a card number are shown as `*`. Exit code 1: there is no such letter.
    """
    settings = load_settings(config, insecure=insecure)
    with log_faults(), ExitStack() as stack:
        desk = _desk(stack, settings, None, None, None, partition, offset)
        desk.marks = desk.log.marks()
        found = list(desk.letters())
    if not found:
        typer.echo(f"no dead letter of {desk.log.input}[{partition}]@{offset}", err=True)
        raise typer.Exit(EXIT_NOT_FOUND)
    registry = schemas.registry_headers(desk.settings.input.schema_ids)
    records = AvroRecords("transaction", registry)
    for filed, mark in found:
        row = _row(filed, mark) | _contents(filed, records)
        if json:
            typer.echo(json_lines.dumps(row))
        else:
            _print_letter(row)


@dead_letters.command()
def replay(
    config: ConfigOption = None,
    reason: ReasonOption = None,
    begin: FromOption = None,
    end: ToOption = None,
    partition: PartitionOption = None,
    offset: OffsetOption = None,
    *,
    insecure: InsecureOption = False,
    rate: Annotated[float, typer.Option(min=0.1, help="Most records a second.")] = math.inf,
    max_attempts: Annotated[
        int, typer.Option(min=1, help="Leave alone what was replayed so often already.")
    ] = 3,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """
    Send the records of dead letters to the input topic again, once the cause of them is gone.

    Each is a new record there, with the time of now, and headers that say where its payment came
    first. What was replayed or discarded before is passed over, so a rerun goes on where it was.
    """
    settings = load_settings(config, insecure=insecure)
    with log_faults(), ExitStack() as stack:
        desk = _desk(stack, settings, reason, begin, end, partition, offset)
        kept: Counter[str] = Counter()

        def sendable() -> Iterator[Filed]:
            for filed in desk.open_letters():
                if why := _why_not(filed, max_attempts):
                    kept[why] += 1
                else:
                    yield filed

        done = _carry_out(
            stack, desk, "replayed", sendable(), rate=rate, dry_run=dry_run, json=json
        )
    verb = "would be replayed" if dry_run else "replayed"
    typer.echo(f"{done:,} {verb} to {desk.settings.topics.input}", err=json)
    for why, count in kept.items():
        typer.echo(f"{count:,} left: {why}", err=json)


@dead_letters.command()
def discard(
    because: Annotated[str, typer.Option(help="Why they need no answer; kept in the audit.")],
    config: ConfigOption = None,
    reason: ReasonOption = None,
    begin: FromOption = None,
    end: ToOption = None,
    partition: PartitionOption = None,
    offset: OffsetOption = None,
    *,
    insecure: InsecureOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """
    Put dead letters aside, with the reason in the audit; nothing is deleted from Kafka.

    They are neither listed nor replayed from then on, but with `list --all`.
    """
    if not because.strip() or masked(because.encode()) != because.encode():
        raise ConfigError("--because: say why, in words and without a card number")
    settings = load_settings(config, insecure=insecure)
    with log_faults(), ExitStack() as stack:
        desk = _desk(stack, settings, reason, begin, end, partition, offset)
        done = _carry_out(
            stack,
            desk,
            "discarded",
            desk.open_letters(),
            because=because,
            dry_run=dry_run,
            json=json,
        )
    typer.echo(f"{done:,} {'would be ' if dry_run else ''}discarded", err=json)


def _desk(
    stack: ExitStack, settings: Settings, reasons: list[str] | None, begin: str | None,
    end: str | None, partition: int | None, offset: int | None = None,
) -> _Desk:  # fmt: skip
    configure_logging(settings.log.format, "info")
    if unknown := sorted(set(reasons or ()) - set(_REASONS)):
        raise ConfigError(f"--reason: {unknown[0]!r} is none of {', '.join(_REASONS)}")
    if offset is not None and partition is None:
        raise ConfigError("--offset is one of a partition: give --partition too")
    wanted = Wanted(
        frozenset(reasons or ()), partition, offset,
        *kafka_times(begin, end),
    )  # fmt: skip
    require_brokers(settings)
    log = DeadLetterLog(settings)
    stack.callback(log.close)
    return _Desk(settings, wanted, log)


def _carry_out(
    stack: ExitStack, desk: _Desk, action: Action, letters: Iterable[Filed], *,
    rate: float = math.inf, because: str | None = None, dry_run: bool, json: bool,
) -> int:  # fmt: skip
    """Do it, tell of each letter when it is done, and return how many there were."""
    desk.require_audit()
    done = 0
    if dry_run:
        desk.marks = desk.log.marks()
        for filed in letters:
            typer.echo(json_lines.dumps(_row(filed, None)) if json else _line(filed))
            done += 1
        return done
    actions = LetterActions(desk.settings, rate)
    desk.marks = desk.log.marks()  # after whoever was at it before is fenced
    log = structlog.get_logger("fraudstream")
    event = f"dead_letter_{action}"
    for line in actions.take(action, letters, because):
        done += 1
        log.info(event, **line)
        if json:
            typer.echo(json_lines.dumps(line))
    return done


def _why_not(filed: Filed, max_attempts: int) -> str | None:
    """Say why a letter cannot be replayed, None when it can."""
    letter = filed.letter
    if letter.reason in _NO_BYTES:
        return f"{letter.reason}: {_NO_BYTES[letter.reason]}"
    if letter.left_out:
        return f"{letter.reason}: its letter was too large for the record's {letter.left_out[-1]}"
    if letter.attempt >= max_attempts:
        return (
            f"{letter.reason}: replayed {letter.attempt} times, refused each time (--max-attempts)"
        )
    return None


def _row(filed: Filed, mark: Mark | None) -> dict[str, Any]:
    letter = filed.letter
    row = {
        "topic": letter.place.topic, "partition": letter.place.partition,
        "offset": letter.place.offset, "timestamp": _iso(filed.timestamp),
        "stage": letter.stage, "reason": letter.reason, "attempt": letter.attempt,
        "first": _masked(str(letter.first)), "letter": str(filed.at),
        "app_version": letter.app_version,
        "value_bytes": len(filed.value or b""), "value_sha256": filed.identity[1],
        "left_out": list(letter.left_out), "status": "open",
    }  # fmt: skip
    if mark is not None:
        row |= {"status": mark.action, "at": mark.at, "by": mark.by, "because": mark.because}
    return row


def _contents(filed: Filed, records: AvroRecords) -> dict[str, Any]:
    """Return key, headers and value as they may be shown."""
    return {
        "key": _bytes(filed.key),
        "headers": [[_masked(name), _bytes(value)] for name, value in filed.letter.own],
        "value": _bytes(filed.value),
        "decoded": _decoded(filed.value, records),
    }


def _bytes(content: bytes | None) -> dict[str, str] | None:
    if content is None:
        return None
    shown = masked(content)
    return {"text": shown.decode("utf-8", "backslashreplace"), "hex": shown.hex()}


def _decoded(value: bytes | None, records: AvroRecords) -> dict[str, Any] | None:
    try:
        record = records.read(value)
    except Exception:  # noqa: BLE001 - whatever fastavro raises: it is no payment to its end
        return None
    return None if record is None else {k: _masked(v) for k, v in plain(record).items()}


def _masked(content: Any) -> Any:
    if isinstance(content, str):
        return masked(content.encode()).decode()
    if isinstance(content, dict):
        return {_masked(name): _masked(inner) for name, inner in content.items()}
    return content


def _print_counts(counts: Counter[tuple[str, int]]) -> None:
    partitions = sorted({partition for _, partition in counts})
    table = Table("reason", *(f"[{p}]" for p in partitions), "all", show_edge=False)
    table.columns[0].header = "reason"
    for reason in sorted({reason for reason, _ in counts}):
        numbers = [counts[reason, partition] for partition in partitions]
        table.add_row(escape(reason), *(f"{n:,}" for n in numbers), f"{sum(numbers):,}")
    console = answer_console()
    if counts:
        console.print(table, "")
    else:
        console.print("no dead letters")


def _print_rows(rows: Iterable[dict[str, Any]]) -> None:
    table = Table(
        "record", "timestamp", "reason", "stage", "attempt", "bytes", "status", show_edge=False
    )
    for row in rows:
        table.add_row(
            escape(f"{row['topic']}[{row['partition']}]@{row['offset']}"), row["timestamp"],
            escape(row["reason"]), escape(row["stage"]), str(row["attempt"]),
            f"{row['value_bytes']:,}", row["status"],
        )  # fmt: skip
    if table.row_count:
        answer_console().print(table)


def _print_letter(row: dict[str, Any]) -> None:
    contents = ("key", "headers", "value", "decoded")
    for name, content in row.items():
        if name not in contents:
            shown = ", ".join(content) if isinstance(content, list) else content
            typer.echo(f"{name:<13} {_one_line(str(shown))}")
    typer.echo(f"{'key':<13} {_text(row['key'])}")
    for name, content in row["headers"]:
        typer.echo(f"{'header':<13} {_one_line(name)} = {_text(content)}")
    if row["decoded"] is not None:
        typer.echo(json_lines.dumps(row["decoded"], indent=2))
    if row["value"] is not None:
        _print_hex(bytes.fromhex(row["value"]["hex"]))


def _print_hex(content: bytes) -> None:
    for at in range(0, len(content), _HEX_BYTES):
        part = content[at : at + _HEX_BYTES]
        text = "".join(c if c.isprintable() else "." for c in part.decode("ascii", "replace"))
        typer.echo(f"{at:08x}  {part.hex(' '):<{3 * _HEX_BYTES}} {text}")


def _text(content: dict[str, str] | None) -> str:
    return "none" if content is None else _one_line(content["text"])


def _one_line(text: str) -> str:
    """Return the text with what a terminal would act on written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _line(filed: Filed) -> str:
    letter = filed.letter
    return f"{letter.place}  {letter.reason}  attempt {letter.attempt + 1}"


def _iso(milliseconds_: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds_ / 1_000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds_} ms"  # producers set timestamps as they like
