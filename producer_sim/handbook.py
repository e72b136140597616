"""
The Fraud Detection Handbook's simulated payments, drawn again from the book's rules and seeds.

Nothing is downloaded: the published set carries no licence, but its rules are public and its
seeds are fixed, so every row comes back identical (`CONTENT_HASH`). Step by step:

1. 5,000 customers and 10,000 terminals stand on a plane of 100 x 100.
2. Each customer pays, on 183 days, at terminals closer than 5.
3. Three fraud scenarios mark payments afterwards; the last to mark a payment names its scenario.

Scenario 1: more than 220.00. Scenario 2: a terminal is compromised for 28 days. Scenario 3: a
third of a customer's payments over 14 days is made by someone else, with five times the amount.
"""

import contextlib
import hashlib
import os
import random
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CUSTOMERS: Final = 5_000
TERMINALS: Final = 10_000
DAYS: Final = 183
DAY_SECONDS: Final = 86_400
START_SECONDS: Final = 1_522_540_800
"""2018-04-01T00:00:00Z, second 0 of the data, in Unix time."""

CONTENT_HASH: Final = "310e21b01ae698b8d363ecb2d00508a6028abd4de031578daa6f2624fe36ba99"
"""`content_hash` of the published data set."""

_CACHE_FILE: Final = f"handbook-{CONTENT_HASH[:12]}.npz"
_REACH: Final = 5.0
_LARGE_CENTS: Final = 220_00
_TERMINAL_FRAUD_DAYS: Final = 28
_CARD_FRAUD_DAYS: Final = 14


@dataclass(frozen=True, slots=True)
class Payments:
    """
    Columns of equal length in event-time order; a payment's row number is its identity.

    Payments of one second are ordered by customer, then as they were drawn.
    """

    second: NDArray[np.int64]
    """Seconds since 2018-04-01T00:00:00Z."""
    customer: NDArray[np.int32]
    terminal: NDArray[np.int32]
    cents: NDArray[np.int64]
    scenario: NDArray[np.int8]
    """0 is genuine, 1 to 3 the fraud scenario."""

    def __len__(self) -> int:
        return len(self.second)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name, in the order of the content hash."""
        return {name: getattr(self, name) for name in self.__slots__}


def load(cache: Path | None = None) -> Payments:
    """
    Return the payments, from the cache folder where it holds them undamaged (about a second).

    They are generated otherwise, and kept for the next time if the folder can be written.
    `cache` defaults to `default_cache()`.
    """
    path = (cache or default_cache()) / _CACHE_FILE
    kept = _read(path)
    if kept is not None:
        return kept
    payments = generate()
    _keep(payments, path)
    return payments


def default_cache() -> Path:
    """Return $FRAUDSTREAM_CACHE, or else `fraudstream` in the user's cache folder (XDG)."""
    if chosen := os.environ.get("FRAUDSTREAM_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraudstream"


def generate() -> Payments:
    """Draw all 1,754,155 payments from the book's seeds: some 8 seconds on one core."""
    payments = _in_time_order(_genuine_payments())
    _mark_large_amounts(payments)
    _mark_compromised_terminals(payments)
    _mark_compromised_cards(payments)
    return _read_only(payments)


def content_hash(payments: Payments) -> str:
    """
    Return the SHA-256 of the rows as little-endian int64, whatever order they are in.

    A row is (second, customer, terminal, cents, scenario); rows are sorted by all five.
    """
    rows = np.stack(list(payments.columns().values()), axis=1).astype("<i8")
    second, customer, terminal, cents, scenario = rows.T
    # Two sort keys instead of five: both fit 64 bits, and sorting is most of the time.
    place = (second * CUSTOMERS + customer) * TERMINALS + terminal
    order = np.lexsort((cents * 4 + scenario, place))
    return hashlib.sha256(rows[order].tobytes()).hexdigest()


def terminal_positions() -> NDArray[np.float64]:
    """Return x and y of each terminal on the plane of 100 x 100, float64[TERMINALS, 2]."""
    return np.random.RandomState(1).uniform(0, 100, (TERMINALS, 2))


def _genuine_payments() -> Payments:
    """Return every customer's payments before any fraud, customer after customer."""
    profiles = np.random.RandomState(0).uniform((0, 0, 5, 0), (100, 100, 100, 4), (CUSTOMERS, 4))
    positions = terminal_positions()
    drawn: list[tuple[int, int, float, int]] = []
    for customer, (x, y, mean_amount, payments_per_day) in enumerate(profiles.tolist()):
        distance = np.sqrt(((positions - (x, y)) ** 2).sum(axis=1))
        reach = np.flatnonzero(distance < _REACH).tolist()
        drawn.extend(_payments_of(customer, mean_amount, payments_per_day, reach))
    seconds, customers, amounts, terminals = zip(*drawn, strict=True)
    return Payments(
        second=np.array(seconds, np.int64),
        customer=np.array(customers, np.int32),
        terminal=np.array(terminals, np.int32),
        cents=np.rint(np.round(np.array(amounts), 2) * 100).astype(np.int64),
        scenario=np.zeros(len(drawn), np.int8),
    )


def _payments_of(
    customer: int, mean_amount: float, payments_per_day: float, reach: list[int]
) -> Iterator[tuple[int, int, float, int]]:
    """
    Draw one customer's (second, customer, amount, terminal), day after day.

    The order of the draws is part of the data: a payment outside its day is dropped before its
    amount is drawn, and a negative amount is drawn again from another law.
    """
    numbers = np.random.RandomState(customer)
    terminals = random.Random(customer)
    for day in range(DAYS):
        for _ in range(numbers.poisson(payments_per_day)):
            # mean + deviation * standard_normal() is what normal() computes, at half its price.
            second = int(43_200 + 20_000 * numbers.standard_normal())
            if not 0 < second < DAY_SECONDS:
                continue
            amount = mean_amount + mean_amount / 2 * numbers.standard_normal()
            if amount < 0:
                amount = numbers.uniform(0, 2 * mean_amount)
            yield second + DAY_SECONDS * day, customer, amount, terminals.choice(reach)


def _in_time_order(payments: Payments) -> Payments:
    order = np.argsort(payments.second, kind="stable")
    return Payments(**{name: column[order] for name, column in payments.columns().items()})


def _mark_large_amounts(payments: Payments) -> None:
    payments.scenario[payments.cents > _LARGE_CENTS] = 1


def _mark_compromised_terminals(payments: Payments) -> None:
    """Mark every payment at two more terminals each day, for 28 days."""
    for day in range(DAYS - 1):
        compromised = np.random.RandomState(day).choice(TERMINALS, 2, replace=False)
        days = _days(payments, day, day + _TERMINAL_FRAUD_DAYS)
        payments.scenario[days][np.isin(payments.terminal[days], compromised)] = 2


def _mark_compromised_cards(payments: Payments) -> None:
    """
    Mark a third of the payments of three more customers each day, for 14 days, at five times.

    A payment that two days mark is multiplied twice; scenario 1 does not look again.
    """
    for day in range(DAYS - 1):
        compromised = np.random.RandomState(day).choice(CUSTOMERS, 3, replace=False)
        days = _days(payments, day, day + _CARD_FRAUD_DAYS)
        pool = np.flatnonzero(np.isin(payments.customer[days], compromised)) + days.start
        stolen = random.Random(day).sample(pool.tolist(), len(pool) // 3)
        payments.cents[stolen] *= 5
        payments.scenario[stolen] = 3


def _days(payments: Payments, first: int, end: int) -> slice:
    """Return the rows of days `first` to `end - 1`."""
    bounds = np.searchsorted(payments.second, (first * DAY_SECONDS, end * DAY_SECONDS))
    return slice(int(bounds[0]), int(bounds[1]))


def _read_only(payments: Payments) -> Payments:
    for column in payments.columns().values():
        column.setflags(write=False)
    return payments


def _read(path: Path) -> Payments | None:
    """Return the payments kept in `path`, or None where there are none or they are damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            payments = Payments(**columns)
            intact = content_hash(payments) == CONTENT_HASH
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return _read_only(payments) if intact else None


def _keep(payments: Payments, path: Path) -> None:
    """Write the payments beside `path` and move them into place, so that no half is ever read."""
    with contextlib.suppress(OSError):  # a folder that cannot be written costs 8 seconds, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            np.savez(
                whole,
                second=payments.second,
                customer=payments.customer,
                terminal=payments.terminal,
                cents=payments.cents,
                scenario=payments.scenario,
            )
            whole.replace(path)
