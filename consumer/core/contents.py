"""What a state holds, in the order of the cards: for people, and to compare two of them."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from consumer.core import contents_kernel
from consumer.core import windows_kernel as kernel
from consumer.core.windows import CardWindows
from consumer.records import Longs


@dataclass(frozen=True, slots=True)
class Contents:
    """
    n payments of one key that a window can still reach, h hours of payments that are not told apart
    any more, and k cards that still remember an alert.

    `hashes` int64[n, 2] are of the card (or terminal), `times` microseconds and `amounts` int64[n]
    ten-thousandths, `fingerprints` int64[n] those of the event ids, `words` int64[n] what else is
    kept of each (words.py), 0 where nothing is. Sorted by hash and time, those of equal time as
    they came.
    `hours` int64[h, 5]: hash, when the hour began, number and sum of its payments.
    `alerts` int64[k, 4]: hash, number of the latest window with an alert, and the mask of windows.
    """

    watermark: int
    hashes: Longs
    times: Longs
    amounts: Longs
    fingerprints: Longs
    words: Longs
    hours: Longs
    alerts: Longs

    def __len__(self) -> int:
        return len(self.times)


_COMPARED: Final = {
    "hashes": "hashes", "times": "times", "amounts": "amounts", "fingerprints": "fingerprints",
    "words": "terminals or countries",
}  # fmt: skip
"""Columns of payments, and how a difference in them is told."""


def contents_of(windows: CardWindows) -> Contents:
    """Return what the tables hold that a payment in time, or an alert, can still meet."""
    header, cards, blocks, *more = windows.tables
    oldest_stamp, oldest_alert = windows.oldest_that_count
    count = windows.payment_count
    rows, stamps, amounts, words = columns = np.zeros((4, count), np.int64)
    kept = more[0] if more else np.zeros(0, np.int64)
    found = contents_kernel.list_payments(
        header, cards, blocks, kept, windows.exact, oldest_stamp, *columns
    )
    rows, stamps, amounts, words = columns[:, :found]
    table = cards[: windows.used[0]].reshape(-1, kernel.CARD_WORDS)
    hashes = table[:, [kernel.HASH_A, kernel.HASH_B]]
    order = np.lexsort((-np.arange(found), hashes[rows, 1], hashes[rows, 0]))
    times = stamps >> kernel.FINGERPRINT_BITS
    return Contents(
        windows.watermark,
        hashes[rows][order],
        times[order],
        amounts[order],
        (stamps & kernel.FINGERPRINTS)[order],
        words[order],
        _hours(windows, hashes),
        _alerts(table, oldest_alert),
    )


def differences(ours: Contents, theirs: Contents) -> list[str]:
    """Return in words how the contents differ; nothing where they are equal."""
    found = []
    if ours.watermark != theirs.watermark:
        found.append(f"watermark {ours.watermark} and {theirs.watermark}")
    if len(ours) != len(theirs):
        found.append(f"{len(ours):,} and {len(theirs):,} payments")
    else:
        for name, text in _COMPARED.items():
            column, other = getattr(ours, name), getattr(theirs, name)
            unlike = len(np.unique(np.argwhere(column != other)[:, 0]))
            if unlike:
                found.append(f"{text} of {unlike:,} payments")
    if ours.hours.shape != theirs.hours.shape or (ours.hours != theirs.hours).any():
        found.append("hours of payments that are not told apart")
    if ours.alerts.shape != theirs.alerts.shape or (ours.alerts != theirs.alerts).any():
        found.append("what is remembered of alerts")
    return found


def _hours(windows: CardWindows, hashes: Longs) -> Longs:
    """Return the hours that a window can still hold, each in one piece."""
    oldest_stamp, _ = windows.oldest_that_count
    header, cards, blocks, *_ = windows.tables
    after_time = (oldest_stamp >> kernel.FINGERPRINT_BITS) - 1
    found, columns = 0, np.zeros((4, 0), np.int64)
    for _ in range(2):  # how many there are, and then they
        columns = np.zeros((4, found), np.int64)
        found = contents_kernel.list_hours(
            header, cards, blocks, windows.exact, windows.pane, after_time, *columns
        )
    rows, begins, counts, sums = columns
    named = np.column_stack([hashes[rows], begins])
    hours, of_hour = np.unique(named, axis=0, return_inverse=True)
    totals = np.zeros((len(hours), 2), np.int64)
    np.add.at(totals, of_hour.ravel(), np.column_stack([counts, sums]))
    return np.column_stack([hours, totals])


def _alerts(table: Longs, oldest_alert: int) -> Longs:
    """Return who remembers an alert in a window that still counts, older ones masked out."""
    table = table[table[:, kernel.ALERT_WINDOW] >= oldest_alert]
    kept = np.minimum(table[:, kernel.ALERT_WINDOW] - oldest_alert + 1, kernel.ALERTS_KEPT)
    alerts = np.stack(
        [
            table[:, kernel.HASH_A],
            table[:, kernel.HASH_B],
            table[:, kernel.ALERT_WINDOW],
            table[:, kernel.ALERT_MASK] & ((np.int64(1) << kept) - 1),
        ],
        axis=1,
    )
    return alerts[np.lexsort((alerts[:, 1], alerts[:, 0]))]
