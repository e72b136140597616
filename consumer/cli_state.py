"""`fraudstream state`: what snapshots of velocity state hold, and whether the log says the same."""

import json as json_lines
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from rich.markup import escape
from rich.table import Table

from consumer.adapters.kafka_clients import reader_config
from consumer.adapters.label_log import fold_labels
from consumer.adapters.log_reader import LogReader
from consumer.adapters.log_source import Stretch
from consumer.adapters.model_bundle import Bundle, load_bundle
from consumer.adapters.snapshots import SnapshotStore, Stored
from consumer.assembly import Parts, assemble, snapshot_store, state_contract
from consumer.cli_brokers import require_brokers
from consumer.cli_options import ConfigOption, InsecureOption
from consumer.cli_progress import Steps, answer_console, progress
from consumer.core.contents import contents_of, differences
from consumer.core.feature_sets import Key
from consumer.core.hashing import country_text
from consumer.core.snapshot import SnapshotRefusedError
from consumer.core.state import ALWAYS, Tables
from consumer.core.words import part
from consumer.errors import ConfigError
from consumer.log_fold import KeptOutputs, LogFold, log_faults
from consumer.records import Longs
from consumer.settings import Settings, load_settings
from consumer.telemetry import configure_logging

EXIT_DIFFERS: Final = 1
_PAYMENT: Final = pa.schema(
    [
        ("partition", pa.int32()),
        ("key", pa.string()),
        ("hash", pa.string()),
        ("event_time", pa.timestamp("us", "UTC")),
        ("amount", pa.decimal128(19, 4)),
        ("payments", pa.int64()),
        ("event_fingerprint", pa.int16()),
        ("terminal", pa.string()),
        ("merchant_country", pa.string()),
    ]
)

state = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True,
    help="Snapshots of velocity state: what they hold, and whether the log says the same.",
)  # fmt: skip

PartitionOption = Annotated[
    int | None, typer.Option(min=0, help="Of the input topic.", show_default="all")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@state.command()
def inspect(
    config: ConfigOption = None,
    partition: PartitionOption = None,
    *,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """
    List the snapshots, the newest first, and read each to its end. Needs no broker.

    Exit code 1: at least one is of no use to this configuration and model.
    """
    shelf = _Shelf(load_settings(config, insecure=insecure))
    rows = [shelf.read(stored)[0] for stored in shelf.stored(partition)]
    _print(rows, json=json)
    if any(row["refused"] for row in rows):
        raise typer.Exit(EXIT_DIFFERS)


@state.command()
def verify(
    config: ConfigOption = None,
    partition: PartitionOption = None,
    *,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """
    Fold the log up to each partition's newest snapshot, and compare what the two hold.

    Exit code 1: a snapshot is damaged or differs, or the log does not reach far enough back.
    """
    settings = load_settings(config, insecure=insecure)
    with log_faults(), progress() as steps:
        rows = compared_with_log(settings, partition, steps)
    _print(rows, json=json)
    if any(row["refused"] or row.get("differences") for row in rows):
        raise typer.Exit(EXIT_DIFFERS)


def compared_with_log(
    settings: Settings, partition: int | None, steps: Steps
) -> list[dict[str, Any]]:
    """
    Return what `verify` shows of each partition's newest snapshot; `refused` and `differences` are
    empty where it is equal to the log. Raises ConfigError where there is none, KafkaException.
    """
    shelf = _Shelf(settings)
    require_brokers(settings)
    rows = []
    with closing(_Folder(shelf, steps)) as folder:
        for stored in shelf.newest(partition):
            row, tables = shelf.read(stored)
            if tables is not None:
                row["differences"] = folder.compare(stored, tables)
            rows.append(row)
    return rows


@state.command()
def export(
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    config: ConfigOption = None,
    partition: PartitionOption = None,
    *,
    insecure: InsecureOption = False,
) -> None:
    """
    Write the payments that the newest snapshots hold to a Parquet file: key, hash of the card or
    terminal, event time, amount, fingerprint of the event id; and, for a feature set that tells
    payments apart by them, the first 48 bits of the terminal's hash and the merchant's country.

    The older payments of a hot card are known by the hour: such a row has the time when the hour
    began, the sum of the amounts, how many payments they are, and nothing of each.
    """
    shelf = _Shelf(load_settings(config, insecure=insecure))
    draft = out.with_name(f".{out.name}.part")
    try:
        count = _export(shelf, partition, draft)
        draft.replace(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    typer.echo(f"{count:,} payments written to {out}")


def _export(shelf: "_Shelf", partition: int | None, out: Path) -> int:
    """Write the file; return how many payments it has."""
    count = 0
    with pq.ParquetWriter(out, _PAYMENT) as writer:
        for stored in shelf.newest(partition):
            row, tables = shelf.read(stored)
            if tables is None:
                raise ConfigError(f"{stored.path}: {row['refused']}")
            for table in _payments(stored.partition, tables):
                writer.write_table(table)
                count += pc.sum(table["payments"]).as_py() or 0
    return count


class _Shelf:
    """The snapshots of one configuration."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError, also where no snapshots are kept."""
        self.settings = settings
        configure_logging(self.settings.log.format, "warning")
        store = snapshot_store(self.settings)
        if store is None:
            raise ConfigError("state.url is empty: no snapshots are kept")
        self._store: SnapshotStore = store
        model = self.settings.model
        self.bundle: Bundle = load_bundle(
            model.path, allow_pickle=model.allow_pickle, public_key=model.public_key
        )
        self.contract = state_contract(self.settings, self.bundle)

    def parts(self) -> Parts:
        """Return the steps, and a state that holds nothing."""
        return assemble(self.settings, self.bundle)

    def stored(self, partition: int | None) -> list[Stored]:
        """Return all there are. Raises ConfigError when there are none."""
        try:
            found = self._store.stored(partition)
        except OSError as error:
            raise ConfigError(f"state.url cannot be read: {error}") from error
        if not found:
            raise ConfigError(f"{self.settings.state.url} holds no snapshot of this group's topic")
        return found

    def newest(self, partition: int | None) -> list[Stored]:
        """Return the newest of each partition."""
        newest: dict[int, Stored] = {}
        for stored in self.stored(partition):
            newest.setdefault(stored.partition, stored)
        return list(newest.values())

    def read(self, stored: Stored) -> tuple[dict[str, Any], Tables | None]:
        """Return what it says and its tables, or why it is refused and None."""
        row: dict[str, Any] = {
            "partition": stored.partition,
            "next_offset": stored.next_offset,
            "size_bytes": stored.size_bytes,
            "refused": None,
        }
        tables = self.parts().state.empty_tables()
        try:
            manifest = self._store.read(stored, self.contract, tables)
        except SnapshotRefusedError as refusal:
            return row | {"refused": f"{refusal.reason}: {refusal}"}, None
        except OSError as error:
            return row | {"refused": f"unreadable: {error}"}, None
        cards = tables["card"]
        return row | {
            "written_at": _iso(manifest.written_at),
            "feature_set": manifest.contract.feature_set,
            "cards": cards.card_count,
            "payments": cards.payment_count,
            "latest_event": _iso(cards.watermark / 1e6) if cards.payment_count else None,
        }, tables


class _Folder:
    """Folds the log to where snapshots were taken."""

    def __init__(self, shelf: _Shelf, steps: Steps) -> None:
        """Read all labels: an alert that is remembered was raised for what was known of them."""
        self._steps = steps
        self._parts = shelf.parts()
        settings = shelf.settings
        steps.begin(f"reading labels from {settings.topics.labels}")
        config = reader_config(settings, lambda _: None)
        with closing(LogReader(config, settings.topics.labels)) as labels:
            known = fold_labels(labels, self._parts.frauds)
        self._fold = LogFold(self._parts, known, KeptOutputs())

    def compare(self, stored: Stored, tables: Tables) -> list[str]:
        """Return in words where the snapshot's tables differ from the log."""
        partition, end = stored.partition, stored.next_offset
        plan = self._fold.begin(partition, end)
        self._steps.begin(
            f"folding partition {partition} from offset {plan.start}", end - plan.start
        )
        self._fold.run(
            Stretch(partition, plan.start, end, end),
            lambda position: self._steps.at(position - plan.start),
        )
        folded = self._parts.state.tables(partition)
        found = [
            f"{key}: {difference}"
            for key in tables
            for difference in differences(contents_of(tables[key]), contents_of(folded[key]))
        ]
        if found and plan.cold_until != ALWAYS:
            found.append("but the log no longer reaches back over the longest window")
        return found

    def close(self) -> None:
        """Close the clients."""
        self._fold.close()


def _payments(partition: int, tables: Tables) -> Iterator[pa.Table]:
    for key, windows in tables.items():
        held = contents_of(windows)
        ones, fingerprints = np.ones(len(held), np.int64), pa.array(held.fingerprints, pa.int16())
        yield _rows(
            partition, key, held.hashes, held.times, held.amounts, ones, fingerprints, held.words
        )
        begins, counts, sums = held.hours[:, 2:].T
        unknown = pa.nulls(len(held.hours), pa.int16())
        nothing = np.zeros(len(held.hours), np.int64)
        yield _rows(partition, key, held.hours[:, :2], begins, sums, counts, unknown, nothing)


def _rows(
    partition: int, key: Key, hashes: Longs, times: Longs, amounts: Longs, counts: Longs,
    fingerprints: pa.Array, words: Longs,
) -> pa.Table:  # fmt: skip
    n = len(times)
    digits = hashes.astype(">i8").tobytes().hex()
    terminals = part(words, "terminal").astype(">i8").tobytes().hex()
    countries = part(words, "merchant_country").tolist()
    ten_thousandths = pa.array(amounts).cast(pa.decimal128(19, 0))
    columns = [
        pa.array(np.full(n, partition, np.int32)),
        pa.array([key] * n, pa.string()),
        pa.array([digits[32 * k : 32 * k + 32] for k in range(n)], pa.string()),
        pa.array(times, pa.timestamp("us", "UTC")),
        pa.Array.from_buffers(pa.decimal128(19, 4), n, ten_thousandths.buffers()),
        pa.array(counts),
        fingerprints,
        pa.array(
            [terminals[16 * k : 16 * k + 12] if words[k] else None for k in range(n)], pa.string()
        ),
        pa.array([country_text(code) for code in countries], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=_PAYMENT)


def _print(rows: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        for row in rows:
            typer.echo(json_lines.dumps(row))
        return
    table = Table(
        "partition", "next offset", "written", "cards", "payments", "latest event", "MB", "",
        show_edge=False,
    )  # fmt: skip
    for row in rows:
        verdict = row["refused"] or "; ".join(row.get("differences", [])) or "sound"
        if row.get("differences") == []:
            verdict = "equal to the log"
        table.add_row(
            str(row["partition"]), str(row["next_offset"]), row.get("written_at", ""),
            f"{row.get('cards', 0):,}", f"{row.get('payments', 0):,}", row.get("latest_event"),
            f"{row['size_bytes'] / 1e6:.1f}", escape(verdict),
        )  # fmt: skip
    answer_console().print(table)


def _iso(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"  # a manifest says what it likes
