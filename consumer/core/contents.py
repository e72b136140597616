"""What a state holds, in the order of the cards: for people, and to compare two of them."""

from dataclasses import dataclass

import numpy as np

from consumer.core import contents_kernel
from consumer.core import windows_kernel as kernel
from consumer.core.windows import CardWindows
from consumer.records import Longs


@dataclass(frozen=True, slots=True)
class Contents:
    """
    n payments of one key that a window can still reach, and k cards that still remember an alert.

    `hashes` int64[n, 2] are of the card (or terminal), `times` microseconds and `amounts` int64[n]
    ten-thousandths, `fingerprints` int64[n] those of the event ids. Sorted by hash and time, those
    of equal time as they came.
    `alerts` int64[k, 4]: hash, number of the latest window with an alert, and the mask of windows.
    """

    watermark: int
    hashes: Longs
    times: Longs
    amounts: Longs
    fingerprints: Longs
    alerts: Longs

    def __len__(self) -> int:
        return len(self.times)


def contents_of(windows: CardWindows) -> Contents:
    """Return what the tables hold that a payment in time, or an alert, can still meet."""
    header, cards, blocks = windows.tables
    oldest_stamp, oldest_alert = windows.oldest_that_count
    count = windows.payment_count
    rows, stamps, amounts = (np.zeros(count, np.int64) for _ in range(3))
    found = contents_kernel.list_payments(
        header, cards, blocks, oldest_stamp, rows, stamps, amounts
    )
    rows, stamps, amounts = rows[:found], stamps[:found], amounts[:found]
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
        for name in ("hashes", "times", "amounts", "fingerprints"):
            column, other = getattr(ours, name), getattr(theirs, name)
            unlike = len(np.unique(np.argwhere(column != other)[:, 0]))
            if unlike:
                found.append(f"{name} of {unlike:,} payments")
    if ours.alerts.shape != theirs.alerts.shape or (ours.alerts != theirs.alerts).any():
        found.append("what is remembered of alerts")
    return found


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
