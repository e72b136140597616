"""Where to start reading, so that what is kept in windows is the same as if we had read all."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from consumer.core.snapshot import Manifest
from consumer.core.state import ALWAYS, Tables

SAMPLE: Final = 100
"""Records looked at in one probe. A late one hides how far the log is; a hundred hardly all do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """
    How a partition's state is rebuilt: replay [start, live_from) without publishing, then go live.

    `score_from`, `decided_since`, `cold_until` and `tables` are as VelocityState.begin takes them.
    """

    start: int
    live_from: int
    score_from: int = ALWAYS
    cold_until: int | None = ALWAYS
    tables: Tables | None = None
    decided_since: int = 0


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back the state reaches, microseconds of event time."""

    longest_window: int
    grace: int
    score_from: Callable[[int], int]


def plan_restore(
    low: int, committed: int | None, latest_time: Callable[[int], int | None], reach: Reach
) -> Plan:
    """
    Plan a partition whose first record is at offset `low`.

    `latest_time(offset)` is the latest event time among the SAMPLE records from there on, None
    where none can be read. Event times rise along the log but for disorder within the grace, so
    the start is found by bisection, one grace further back than the windows need of payments that
    may have raised an alert which still counts.
    """
    live_from = low if committed is None else max(low, committed)
    cold_until: int | None = ALWAYS
    if low > 0:  # retention took what was before, or it never was
        first_time = latest_time(low)
        cold_until = None if first_time is None else first_time + reach.longest_window
    last = live_from - SAMPLE
    if last <= low:  # too few to sample without those behind, and soon replayed
        return Plan(low, live_from, cold_until=cold_until)
    watermark = latest_time(last)
    if watermark is None:
        return Plan(low, live_from, cold_until=cold_until)
    # What may have raised an alert that still counts is scored again, over all of its windows.
    score_from = reach.score_from(watermark)
    horizon = score_from - reach.longest_window - reach.grace
    start = _first_after(horizon, low, last, latest_time)
    if start > low:
        cold_until = ALWAYS
    return Plan(start, live_from, score_from, cold_until)


def plan_from_snapshot(
    manifest: Manifest,
    tables: Tables,
    committed: int,
    latest_time: Callable[[int], int | None],
    reach: Reach,
) -> Plan | None:
    """
    Plan a partition whose state is known at an offset at or before the committed one.

    None if all that the snapshot holds is too old to count: the log alone has less to replay then.
    """
    plan = Plan(manifest.next_offset, committed, ALWAYS, manifest.cold_until, tables)
    last = committed - SAMPLE
    if last < plan.start:  # a sample would have records in it that are not to be replayed
        return plan
    watermark = latest_time(last)
    if watermark is None:
        return plan
    newest_held = max(windows.watermark for windows in tables.values())
    if newest_held <= watermark - reach.longest_window - 2 * reach.grace:
        return None
    return replace(plan, score_from=reach.score_from(watermark))


def _first_after(
    horizon: int, low: int, high: int, latest_time: Callable[[int], int | None]
) -> int:
    """Return the first offset whose sample reaches beyond the horizon; that at `high` does."""
    while low < high:
        middle = (low + high) // 2
        time = latest_time(middle)
        if time is None or time > horizon:
            high = middle
        else:
            low = middle + 1
    return low
