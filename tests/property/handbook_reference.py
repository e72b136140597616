"""
The Fraud Detection Handbook's 15 inputs by its own batch rules, over all rows at once.

Source: Le Borgne et al., chapter 3, "Baseline feature transformation", and what the published set
shows where the prose leaves it open. Shares no line with the consumer: sorted columns and searches,
where the consumer walks chains one payment at a time.
"""

import numpy as np
from numpy.typing import NDArray

from producer_sim.handbook import DAY_SECONDS, START_SECONDS, Payments

WINDOW_DAYS = (1, 7, 30)
DELAY_DAYS = 7
_PER_OWNER = 2**32  # seconds: apart by more than any window, so that no search leaves its owner


def reference(payments: Payments) -> NDArray[np.float64]:
    """Return float64[n, 15] of payments in time order; a payment's place decides between ties."""
    days = (payments.second + START_SECONDS) // DAY_SECONDS
    hours = payments.second % DAY_SECONDS // 3_600
    amounts = payments.cents / 100
    columns = [amounts, (days + 3) % 7 >= 5, hours <= 6]  # 1970-01-01 was a Thursday
    return np.column_stack([*columns, *_of_customers(payments), *_of_terminals(payments)])


def _of_customers(payments: Payments) -> list[NDArray[np.float64]]:
    """Return count and mean amount of (t - W, t], the payment itself included, for each window."""
    order, keys = _by_owner(payments.customer, payments.second)
    cents_before = np.concatenate([[0], np.cumsum(payments.cents[order])])
    end = np.arange(1, len(order) + 1)
    columns = []
    for days in WINDOW_DAYS:
        start = np.searchsorted(keys, keys - days * DAY_SECONDS, side="right")
        counts = end - start
        means = (cents_before[end] - cents_before[start]) / 100 / counts
        columns += [_as_they_came(order, counts), _as_they_came(order, means)]
    return columns


def _of_terminals(payments: Payments) -> list[NDArray[np.float64]]:
    """Return count and share of frauds of (t - 7 d - W, t - 7 d], for each window."""
    order, keys = _by_owner(payments.terminal, payments.second)
    frauds_before = np.concatenate([[0], np.cumsum(payments.scenario[order] > 0)])
    end = np.searchsorted(keys, keys - DELAY_DAYS * DAY_SECONDS, side="right")
    columns = []
    for days in WINDOW_DAYS:
        start = np.searchsorted(keys, keys - (DELAY_DAYS + days) * DAY_SECONDS, side="right")
        counts = end - start
        risks = (frauds_before[end] - frauds_before[start]) / np.maximum(counts, 1)
        columns += [_as_they_came(order, counts), _as_they_came(order, risks)]
    return columns


def _by_owner(
    owners: NDArray[np.int32], seconds: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Return the rows owner by owner, each one's in time order, and the keys they are sorted by."""
    keys = (owners.astype(np.int64) + 1) * _PER_OWNER + seconds
    order = np.argsort(keys, kind="stable")
    return order, keys[order]


def _as_they_came(order: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    column = np.empty(len(order))
    column[order] = values
    return column
