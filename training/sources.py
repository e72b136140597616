"""Histories from where payments and labels are kept: columns, Parquet files, records of topics."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from consumer.core.batch import Events
from consumer.core.labels import TerminalFrauds
from consumer.core.symbols import KINDS
from consumer.core.windows_kernel import NO_FINGERPRINT
from consumer.records import Longs
from training.history import NEVER, History, country_codes_of, fingerprint_texts, hash_texts

_AUTHORISATION: Final = KINDS.index("AUTHORISATION")
_LARGEST_EXPONENT: Final = 4
_PAYMENT_COLUMNS: Final = ("transaction_id", "event_time", "card_id", "terminal_id", "amount_minor")
_LABEL_COLUMNS: Final = ("transaction_id", "terminal_id", "published_at")


class UnreadableError(Exception):
    """A file lacks what training needs; the message says what."""


def from_events(
    batches: Iterable[Events],
    fraud_known_at: Mapping[bytes, int],
    scenario_of: Mapping[bytes, str],
) -> History:
    """
    Return the history of decoded events, in the order they come.

    By transaction id of a fraud: when its first label was published, and the scenario that a label
    named.
    """
    none = np.zeros(0, np.int64)
    histories = [from_columns(none, none.reshape(0, 2), none.reshape(0, 2), none, none)]
    for events in batches:
        ids = [events.text.bytes_of("transaction_id", row) for row in range(len(events))]
        known = (fraud_known_at.get(payment, NEVER) for payment in ids)
        histories.append(
            History(
                events.partitions, events.times, events.kinds, events.amounts,
                events.utc_offset_minutes, events.cards, events.terminals, events.fingerprints,
                events.countries,
                np.fromiter(known, np.int64, len(ids)),
                np.array([scenario_of.get(payment, "") for payment in ids], np.str_),
            )
        )  # fmt: skip
    return History.concatenate(histories)


def from_columns(  # noqa: PLR0913 - the columns of a history
    times: Longs, cards: Longs, terminals: Longs, cents: Longs, fraud_known_at: Longs,
    scenarios: NDArray[np.str_] | None = None, countries: Longs | None = None,
) -> History:  # fmt: skip
    """
    Return the history of n authorisations in cents, in event-time order.

    times and fraud_known_at are microseconds; cards and terminals int64[n, 2] hashes of the ids. No
    payment is taken for a repeat of another.
    """
    zeros = np.zeros(len(times), np.int64)
    return History(
        partitions=zeros,
        times=times,
        kinds=np.full(len(times), _AUTHORISATION, np.int64),
        amounts=cents * 100,
        utc_offset_minutes=zeros,
        cards=cards,
        terminals=terminals,
        fingerprints=np.full(len(times), NO_FINGERPRINT, np.int64),
        countries=zeros if countries is None else countries,
        fraud_known_at=fraud_known_at,
        scenarios=np.full(len(times), "") if scenarios is None else scenarios,
    )


def from_parquet(payments: Path, labels: Path, frauds: TerminalFrauds) -> History:
    """
    Read payments and fraud labels, whose columns are named as in the event schemas, into a history.

    Optional: event_id, by which repeated events are known; kind, currency_exponent (2),
    local_utc_offset_minutes (0), merchant_country; verdict and scenario in the labels.
    The labels are also reported to `frauds`. Raises UnreadableError for a missing column.
    """
    paid = _table(payments, _PAYMENT_COLUMNS)
    paid = paid.take(pa.compute.sort_indices(paid["event_time"]))
    said = _table(labels, _LABEL_COLUMNS)
    if "verdict" in said.column_names:
        said = said.filter(pa.compute.equal(said["verdict"].cast(pa.string()), "FRAUD"))
    known_at: dict[bytes, int] = {}
    scenario_of: dict[bytes, str] = {}
    named = said["scenario"].to_pylist() if "scenario" in said.column_names else [None] * len(said)
    published = _micros(said["published_at"])
    terminals = hash_texts(_texts(said["terminal_id"]))
    for row, payment in enumerate(_texts(said["transaction_id"])):
        frauds.report(payment, terminals[row], int(published[row]))
        known_at[payment] = min(known_at.get(payment, NEVER), int(published[row]))
        scenario_of.setdefault(payment, str(named[row] or ""))
    n = len(paid)
    exponents = _longs(paid, "currency_exponent", n, 2)
    kinds = np.full(n, _AUTHORISATION, np.int64)
    if "kind" in paid.column_names:
        kinds = np.array([KINDS.index(kind) for kind in paid["kind"].to_pylist()], np.int64)
    fingerprints = np.full(n, NO_FINGERPRINT, np.int64)
    if "event_id" in paid.column_names:
        fingerprints = fingerprint_texts(_texts(paid["event_id"]))
    countries = np.zeros(n, np.int64)
    if "merchant_country" in paid.column_names:
        countries = country_codes_of(_texts(pa.compute.fill_null(paid["merchant_country"], "")))
    ids = _texts(paid["transaction_id"])
    known = (known_at.get(payment, NEVER) for payment in ids)
    return History(
        partitions=np.zeros(n, np.int64),
        times=_micros(paid["event_time"]),
        kinds=kinds,
        amounts=_longs(paid, "amount_minor", n, 0) * 10 ** (_LARGEST_EXPONENT - exponents),
        utc_offset_minutes=_longs(paid, "local_utc_offset_minutes", n, 0),
        cards=hash_texts(_texts(paid["card_id"])),
        terminals=hash_texts(_texts(paid["terminal_id"])),
        fingerprints=fingerprints,
        countries=countries,
        fraud_known_at=np.fromiter(known, np.int64, n),
        scenarios=np.array([scenario_of.get(payment, "") for payment in ids], np.str_),
    )


def _table(path: Path, columns: Sequence[str]) -> Any:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UnreadableError(f"{path} cannot be read as Parquet: {error}") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UnreadableError(f"{path} lacks the columns {', '.join(missing)}")
    return table


def _micros(column: Any) -> Longs:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz))
    micros: Longs = column.cast(pa.int64()).to_numpy()
    return micros


def _longs(table: Any, name: str, n: int, default: int) -> Longs:
    if name not in table.column_names:
        return np.full(n, default, np.int64)
    column: Longs = pa.compute.fill_null(table[name], default).cast(pa.int64()).to_numpy()
    return column


def _texts(column: Any) -> list[bytes]:
    texts: list[bytes] = column.cast(pa.binary()).to_pylist()
    return texts
