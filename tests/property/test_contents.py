"""What a state holds is the same however it came to hold it."""

from collections import Counter

import numpy as np
from hypothesis import given

from consumer.core.contents import contents_of, differences
from tests.property.references import ReferenceWindows
from tests.property.test_windows import (
    GRACE,
    TELLS,
    WINDOWS,
    fresh,
    hashes_of,
    hot_or_not,
    observe,
    parts_of,
    payments,
)


def held(state, log):
    """Observe the log, and return what the state then holds."""
    observe(state, log)
    state.settle()
    return contents_of(state)


@hot_or_not
@given(payments())
def test_contents_are_the_payments_that_entered_and_still_count(hot, log):
    """
    Late ones and repeats do not enter; what no window reaches any more does not count. Those of a
    hot card that are not told apart are in hours.
    """
    found = held(fresh(**hot), log)

    reference = ReferenceWindows(WINDOWS, GRACE, **hot)
    for card, time, amount, event, enters in log:
        parts = parts_of((card, time, amount, event, enters)) if hot.keys() & TELLS else (0, 0)
        reference.observe(card, time, amount, event or None, enters=enters, parts=parts)
    oldest = reference.watermark - WINDOWS[-1] - GRACE
    expected, hours = [], Counter()
    for card, payments_ in sorted(reference.payments.items()):
        told_apart = payments_[-reference.exact :]
        expected += [
            (card, t, a, e or 0, one << 16 | other)
            for t, a, e, (one, other) in told_apart
            if t > oldest
        ]
        for time, amount, *_ in payments_[: -reference.exact]:
            if (begin := time - time % reference.pane) > oldest:
                hours[card, begin] += np.array([1, amount])
    columns = (found.hashes[:, 1], found.times, found.amounts, found.fingerprints, found.words)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert found.hours[:, 1:].tolist() == [[*hour, *hours[hour]] for hour in sorted(hours)]
    assert found.watermark == reference.watermark


@hot_or_not
@given(payments(), payments(max_size=40))
def test_a_fold_of_what_counts_is_a_fold_of_all(hot, before, after):
    """And a state is equal to one that was rebuilt."""
    whole, part = fresh(**hot), fresh(**hot)
    observe(whole, before)
    horizon = whole.watermark - WINDOWS[-1] - GRACE

    observe(part, [payment for payment in before if payment[1] > horizon])

    assert differences(held(whole, after), held(part, after)) == []


@given(payments(max_size=30))
def test_one_payment_more_is_a_difference(log):
    """Whatever it is."""
    ours = held(fresh(), log)
    last = max(time for _, time, *_ in log)

    theirs = held(fresh(), [*log, (0, last, 7, 999, True)])

    assert differences(ours, theirs) != []


def test_an_alert_that_is_not_remembered_is_a_difference():
    """It would be raised again."""
    log = [(1, 10_000, 5, 1, True)]
    ours, theirs = fresh(), fresh()
    for state in (ours, theirs):
        observe(state, log)
    ours.open_alerts(hashes_of([1]), np.array([10_000]), np.zeros(1, np.bool_))

    assert differences(contents_of(ours), contents_of(theirs)) == ["what is remembered of alerts"]
