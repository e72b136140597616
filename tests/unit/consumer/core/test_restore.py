import numpy as np
import pytest

from consumer.core import windows_kernel as kernel
from consumer.core.feature_sets import KeyPlan
from consumer.core.restore import SAMPLE, Plan, Reach, plan_from_snapshot, plan_restore
from consumer.core.snapshot import Contract, Manifest
from consumer.core.state import ALWAYS, VelocityState
from tests.builders import events_of, payment

HOUR = 3_600_000_000
DAY = 24 * HOUR
MONTH = 30 * DAY
REACH = Reach(MONTH, DAY, lambda watermark: (watermark - DAY) // DAY * DAY)


def rising(step=HOUR, end=10_000):
    """Return what the log says of its times: one record a step, the first at time 0."""

    def latest_time(offset):
        last = min(offset + SAMPLE, end) - 1
        return last * step if last >= offset else None

    return latest_time


def no_times(_):
    return None


def test_a_partition_nobody_committed_starts_live_at_its_beginning():
    """There is nothing to rebuild."""
    assert plan_restore(0, None, rising(), REACH) == Plan(0, 0)


def test_a_partition_committed_at_its_beginning_starts_live_there():
    """As one nobody committed."""
    assert plan_restore(0, 0, rising(), REACH) == Plan(0, 0)


def test_a_short_log_is_replayed_whole():
    """The windows reach back over all of it."""
    plan = plan_restore(0, 200, rising(), REACH)

    assert (plan.start, plan.live_from) == (0, 200)
    assert plan.cold_until == ALWAYS


def test_a_long_log_is_replayed_from_where_the_windows_reach():
    """The longest window and twice the grace, counted back from the committed offset."""
    plan = plan_restore(0, 5_000, rising(), REACH)

    reach_records = (MONTH + 2 * DAY) // HOUR
    assert plan.live_from == 5_000
    assert 0 < plan.start <= 5_000 - reach_records
    assert plan.start > 5_000 - reach_records - 2 * SAMPLE


@pytest.mark.parametrize("alert_window", [HOUR, DAY, 10 * DAY])
def test_what_may_have_raised_an_alert_that_counts_has_all_its_windows(alert_window):
    """However long alerts count: scored over less, it would have raised another or none."""
    reach = Reach(MONTH, DAY, lambda watermark: (watermark - DAY) // alert_window * alert_window)

    plan = plan_restore(0, 5_000, rising(), reach)

    assert plan.start * HOUR <= plan.score_from - MONTH - DAY < (plan.start + 2 * SAMPLE) * HOUR


def test_the_search_asks_a_few_times_however_long_the_log_is():
    """Each question is a read from the broker."""
    asked = []
    times = rising(step=1_000_000, end=10**9)

    plan_restore(0, 10**9, lambda offset: asked.append(offset) or times(offset), REACH)

    assert len(asked) <= 35


def test_alerts_count_from_the_window_that_the_grace_reaches():
    """Replayed payments before it need no score."""
    plan = plan_restore(0, 5_000, rising(), REACH)

    assert plan.score_from == REACH.score_from(4_999 * HOUR)


def test_a_log_whose_times_cannot_be_read_is_replayed_whole():
    """A hundred tombstones in a row at its end, say."""
    plan = plan_restore(0, 5_000, no_times, REACH)

    assert plan == Plan(0, 5_000)


def test_unreadable_stretches_do_not_hide_what_is_needed():
    """Where no time can be read, it is looked for further back."""
    times = rising()

    plan = plan_restore(0, 5_000, lambda o: None if 500 < o < 4_800 else times(o), REACH)

    assert plan.start <= 4_999 - (MONTH + 2 * DAY) // HOUR


def test_what_retention_took_makes_the_rest_cold():
    """Until the longest window lies behind the first record there is."""
    plan = plan_restore(400, 600, rising(), REACH)

    assert plan.start == 400
    assert plan.cold_until >= (400 + SAMPLE - 1) * HOUR + MONTH


def test_what_retention_took_long_ago_is_not_missed():
    """All that is needed is still there."""
    plan = plan_restore(100, 5_000, rising(), REACH)

    assert plan.start > 100
    assert plan.cold_until == ALWAYS


def test_an_offset_that_retention_took_starts_live_at_what_is_left():
    """And cold: the payments between are gone."""
    plan = plan_restore(400, 300, rising(), REACH)

    assert (plan.start, plan.live_from) == (400, 400)
    assert plan.cold_until > 400 * HOUR


def test_a_log_that_is_all_gone_leaves_the_next_payments_cold():
    """Nothing is left to tell how much is missing, so all of it may be."""
    plan = plan_restore(400, 400, no_times, REACH)
    state = VelocityState({"card": KeyPlan((MONTH,))}, grace=DAY, alert_window=DAY)
    state.begin(0, score_from=plan.score_from, cold_until=plan.cold_until)

    velocity = state.observe(events_of([payment()]), np.ones(1, np.bool_))

    assert velocity.cold.tolist() == [True]


@pytest.mark.parametrize("committed", [1, 10, 99])
def test_a_young_partition_remembers_its_alerts(committed):
    """What waits behind the committed offset must not stand for what lies before it."""
    times = [0] * committed + [10 * DAY] * 200

    plan = plan_restore(0, committed, lambda o: max(times[o : o + SAMPLE]), REACH)

    assert plan.start == 0
    assert plan.score_from <= 0


def snapshot(next_offset, watermark, cold_until=None):
    """Return a manifest, and tables that have seen one payment at that time."""
    tables = VelocityState({"card": KeyPlan((MONTH,))}, grace=DAY, alert_window=DAY).empty_tables()
    tables["card"].tables[0][kernel.WATERMARK] = watermark
    contract = Contract(
        feature_set="f", windows={"card": (MONTH,)}, grace=DAY, alert_window=DAY, schemas=["aa"]
    )
    manifest = Manifest(
        version="1", topic="t", partition=0, next_offset=next_offset, written_at=0.0,
        cold_until=cold_until, contract=contract, tables=[],
    )  # fmt: skip
    return manifest, tables


def test_with_a_snapshot_only_what_is_behind_it_is_replayed():
    """Alerts from the start of the window that the watermark less the grace is in still count."""
    manifest, tables = snapshot(4_500, 4_499 * HOUR, cold_until=7)

    plan = plan_from_snapshot(manifest, tables, 5_000, rising(), REACH)

    assert (plan.start, plan.live_from, plan.cold_until) == (4_500, 5_000, 7)
    assert plan.score_from == REACH.score_from(4_999 * HOUR)
    assert plan.tables is tables


def test_records_beyond_the_committed_offset_say_nothing_of_alerts():
    """A sample that reached over it would leave alerts out that still suppress others."""
    manifest, tables = snapshot(4_950, 4_950 * HOUR)

    plan = plan_from_snapshot(manifest, tables, 5_000, rising(), REACH)

    assert (plan.start, plan.score_from) == (4_950, ALWAYS)


@pytest.mark.parametrize("committed", [4_992, 4_993])
def test_the_last_record_that_is_replayed_says_which_alerts_count(committed):
    """Where a day begins, the record before it or behind it would say another."""
    manifest, tables = snapshot(4_500, 4_499 * HOUR)
    score_from = REACH.score_from((committed - 1) * HOUR)

    for plan in (
        plan_restore(0, committed, rising(), REACH),
        plan_from_snapshot(manifest, tables, committed, rising(), REACH),
    ):
        assert (plan.live_from, plan.score_from) == (committed, score_from)


def test_a_snapshot_of_which_nothing_counts_any_more_is_left_alone():
    """From the log alone there is less to replay."""
    manifest, tables = snapshot(100, 100 * HOUR)

    assert plan_from_snapshot(manifest, tables, 5_000, rising(), REACH) is None
    assert plan_from_snapshot(manifest, tables, 200, rising(), REACH) is not None


def test_a_log_that_tells_no_time_is_replayed_behind_the_snapshot():
    """Records that cannot be read have none."""
    manifest, tables = snapshot(100, 100 * HOUR)

    plan = plan_from_snapshot(manifest, tables, 5_000, no_times, REACH)

    assert (plan.start, plan.score_from) == (100, ALWAYS)
