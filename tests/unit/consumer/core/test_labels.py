import uuid

import numpy as np
import pytest

import schemas
from consumer.core.labels import TerminalFrauds
from tests.builders import DAY, JANUARY, encoded, events_of, label, payment

DAYS = (DAY, 7 * DAY, 30 * DAY)
SECOND = 1_000_000


@pytest.fixture
def frauds():
    return TerminalFrauds([schemas.load("label")], settle_seconds=0)


def said(number=0, published_at=JANUARY, **overrides):
    return label(number, published_at=published_at, terminal_id="t", **overrides)


def add(frauds, *labels, timestamps=None):
    values = [encoded("label", each) if isinstance(each, dict) else each for each in labels]
    return frauds.add(values, timestamps or [0] * len(values))


def known(frauds, time, terminal="t", windows=DAYS):
    events = events_of([payment(terminal_id=terminal)])
    times, lengths = np.array([time], np.int64), np.array(windows, np.int64)
    return frauds.count(events.terminals, times, lengths)[0].tolist()


def test_a_terminal_nobody_spoke_of_has_no_frauds(frauds):
    """Most of them."""
    add(frauds, said())

    assert known(frauds, JANUARY, terminal="other") == [0, 0, 0]


@pytest.mark.parametrize(
    ("after", "counts"),
    [
        (-1, [0, 0, 0]),
        (0, [1, 1, 1]),
        (DAY - 1, [1, 1, 1]),
        (DAY, [0, 1, 1]),
        (7 * DAY, [0, 0, 1]),
        (30 * DAY - 1, [0, 0, 1]),
        (30 * DAY, [0, 0, 0]),
    ],
)
def test_a_fraud_counts_from_its_arrival_for_the_length_of_the_window(frauds, after, counts):
    """(t - W, t], on the time the label was published and not on that of the payment."""
    add(frauds, said(event_time=JANUARY - 300 * DAY))

    assert known(frauds, JANUARY + after) == counts


@pytest.mark.parametrize(("after", "count"), [(60 * SECOND - 1, 0), (60 * SECOND, 1)])
def test_a_label_counts_only_after_it_has_settled(after, count):
    """By then every instance has read it, so a replay counts the same."""
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=60)
    add(frauds, said())

    assert known(frauds, JANUARY + after) == [count] * 3


@pytest.mark.parametrize(("after", "late"), [(0, 0), (60_000, 0), (60_001, 1)])
def test_a_label_appended_after_it_counts_is_told_as_late(after, late):
    """What was scored in between did not know it, and a replay does."""
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=60)

    counted, _ = add(frauds, said(), timestamps=[JANUARY // 1_000 + after])

    assert counted == late


def test_every_verdict_can_be_late(frauds):
    """A fraud taken back late changes replays as well."""
    late, _ = add(frauds, said(), said(1, verdict="GENUINE"), timestamps=[JANUARY // 1_000 + 1] * 2)

    assert late == 2


@pytest.mark.parametrize("verdict", ["UNKNOWN", "GENUINE", "DISPUTED", "FIRST_PARTY_FRAUD"])
def test_only_fraud_feeds_the_risk_of_a_terminal(frauds, verdict):
    """A dispute is no proof, and a cardholder's own fraud is not the terminal's."""
    add(frauds, said(verdict=verdict))

    assert known(frauds, JANUARY) == [0, 0, 0]
    assert frauds.fraud_count == 0


def test_frauds_of_one_terminal_add_up(frauds):
    """One for each payment."""
    add(frauds, said(0), said(1, JANUARY + DAY), said(2, JANUARY + 8 * DAY))

    assert known(frauds, JANUARY + 8 * DAY) == [1, 1, 3]


def test_labels_may_come_in_any_order(frauds):
    """What counts is when each was published."""
    times = [5, 1, 9, 3, 7]
    add(frauds, *(said(k, JANUARY + time * DAY) for k, time in enumerate(times)))

    counts = [known(frauds, JANUARY + day * DAY, windows=(2 * DAY, 30 * DAY)) for day in range(10)]

    assert [within_two for within_two, _ in counts] == [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [all_ for _, all_ in counts] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_payment_counts_once_from_the_earliest_of_its_labels(frauds, order):
    """However many say so, in whatever order they come."""
    labels = [said(0, JANUARY), said(0, JANUARY + 5 * DAY, label_id="1" * 36)]

    add(frauds, *(labels[k] for k in order))

    assert known(frauds, JANUARY) == [1, 1, 1]
    assert known(frauds, JANUARY + 5 * DAY) == [0, 1, 1]
    assert frauds.fraud_count == 1


def test_a_label_delivered_twice_counts_once(frauds):
    """The label topic is written at least once."""
    add(frauds, said(), said())
    add(frauds, said())

    assert known(frauds, JANUARY) == [1, 1, 1]


@pytest.mark.parametrize(("after", "count"), [(DAY - 1, 1), (DAY, 0)])
def test_a_superseding_label_takes_a_fraud_back_from_its_own_arrival_on(frauds, after, count):
    """What was scored before it knew of a fraud, and a replay must know the same."""
    add(frauds, said())
    add(frauds, _taking_back(said(), JANUARY + DAY))

    assert known(frauds, JANUARY + after, windows=DAYS[1:]) == [count] * 2


def _taking_back(fraud, published_at, **overrides):
    return fraud | {
        "label_id": "f" * 36,
        "verdict": "GENUINE",
        "supersedes": fraud["label_id"],
        "published_at": published_at,
        **overrides,
    }


def test_a_superseding_label_settles_too():
    """Both ends of a fraud are delayed alike."""
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=60)
    add(frauds, said(), _taking_back(said(), JANUARY + DAY))

    counts = [known(frauds, JANUARY + DAY + 60 * SECOND + k)[1] for k in (-1, 0)]

    assert counts == [1, 0]


def test_the_earliest_of_two_superseding_labels_counts(frauds):
    """A fraud is taken back once."""
    add(frauds, said())
    for day in (5, 3, 4):
        add(frauds, _taking_back(said(), JANUARY + day * DAY))

    counts = [known(frauds, JANUARY + day * DAY)[2] for day in range(6)]

    assert counts == [1, 1, 1, 0, 0, 0]


def test_superseding_any_label_of_a_payment_takes_it_back(frauds):
    """A payment counts until one of its labels is withdrawn."""
    second = said(0, JANUARY + DAY, label_id="1" * 36)
    add(frauds, said(), second, _taking_back(second, JANUARY + 2 * DAY))

    assert known(frauds, JANUARY + 2 * DAY) == [0, 0, 0]


def test_superseding_one_payment_leaves_the_others(frauds):
    """Frauds of one terminal are told apart."""
    add(frauds, said(0), said(1), said(2), _taking_back(said(1), JANUARY + 1))

    assert known(frauds, JANUARY + 1) == [2, 2, 2]


def test_a_label_that_supersedes_nothing_known_changes_nothing(frauds):
    """It may be of a label that was never a fraud, or that is not kept any more."""
    add(frauds, said(), said(1, verdict="GENUINE", supersedes="e" * 36))

    assert known(frauds, JANUARY) == [1, 1, 1]


def test_a_payment_called_a_fraud_again_counts_again(frauds):
    """A won dispute may be lost in the end."""
    again = said(0, JANUARY + 2 * DAY, label_id="2" * 36)
    add(frauds, said(), _taking_back(said(), JANUARY + DAY), again)

    counts = [known(frauds, JANUARY + day * DAY)[1] for day in range(3)]

    assert counts == [1, 0, 1]


def test_a_superseded_label_delivered_again_stays_superseded(frauds):
    """Its second coming says nothing new."""
    add(frauds, said(), _taking_back(said(), JANUARY + DAY), said())

    counts = [known(frauds, JANUARY + day * DAY)[2] for day in range(3)]

    assert counts == [1, 0, 0]


def test_a_superseding_label_delivered_again_takes_no_newer_claim_back(frauds):
    """It withdraws the label that it names, and no other."""
    taking_back = _taking_back(said(), JANUARY + DAY)
    again = said(0, JANUARY + 2 * DAY, label_id="2" * 36)
    add(frauds, said(), taking_back, again, taking_back)

    counts = [known(frauds, JANUARY + day * DAY)[1] for day in range(3)]

    assert counts == [1, 0, 1]


def test_a_payment_never_counts_twice_at_a_time(frauds):
    """Not even where an older claim comes to the topic after a newer one was withdrawn."""
    older_claim = said(0, JANUARY + DAY // 2, label_id="3" * 36)
    add(frauds, said(), _taking_back(said(), JANUARY + DAY), older_claim)

    assert known(frauds, JANUARY + DAY // 2) == [1, 1, 1]


def test_unreadable_labels_are_counted_and_cost_the_others_nothing(frauds):
    """Tombstones are no labels, and no faults either."""
    good = encoded("label", said())

    late, refused = frauds.add([good, None, b"", good[:-1], encoded("label", said(1))], [0] * 5)

    assert (late, refused) == (0, 2)
    assert known(frauds, JANUARY) == [2, 2, 2]


def test_a_label_larger_than_allowed_is_refused():
    """As a payment would be."""
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=0, max_bytes=100)

    assert add(frauds, said(scenario="x" * 100)) == (0, 1)


def test_no_labels_are_no_news(frauds):
    """An empty poll of the label topic."""
    assert add(frauds) == (0, 0)


def test_tables_grow_with_the_terminals(frauds):
    """The first 1,024 have room beforehand; each of 5,000 keeps its own."""
    hashes = np.random.default_rng(0).integers(-(2**63), 2**63, (5_000, 2), np.int64)
    for row, terminal in enumerate(hashes):
        for k in range(1 + row % 2):
            frauds.report(b"%d-%d" % (row, k), terminal, JANUARY)

    times = np.full(5_000, JANUARY, np.int64)
    counts = frauds.count(hashes, times, np.array(DAYS, np.int64))

    assert counts[:, 0].tolist() == [1 + row % 2 for row in range(5_000)]
    assert frauds.fraud_count == 7_500


def test_one_terminal_may_have_thousands_of_frauds(frauds):
    """A chain is walked no further than the longest window."""
    terminal = np.array([5, 6], np.int64)
    for k in range(3_000):
        frauds.report(b"%d" % k, terminal, JANUARY + k * DAY // 10)

    counts = frauds.count(
        terminal.reshape(1, 2), np.array([JANUARY + 2_999 * DAY // 10]), np.array(DAYS, np.int64)
    )

    assert counts.tolist() == [[10, 70, 300]]


def test_training_is_told_when_each_fraud_was_first_published():
    """By payment, without the time that labels take to settle."""
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=60)
    add(frauds, said(0, JANUARY + DAY), said(0, JANUARY, label_id="1" * 36), said(1))

    assert frauds.published_at == {b"payment-0": JANUARY, b"payment-1": JANUARY}


def test_old_versions_of_labels_stay_readable():
    """Every released schema is on the allow-list beside today's."""
    frauds = TerminalFrauds(schemas.versions("label"), settle_seconds=0)

    assert add(frauds, said()) == (0, 0)


def test_a_claim_reaches_back_to_when_the_one_before_it_was_withdrawn_in_the_end(frauds):
    """A second withdrawal of the older claim may come to the topic after the newer claim."""
    day = [JANUARY + k * DAY for k in range(5)]
    withdrawn, earlier = (
        _taking_back(said(), at) | {"label_id": name * 36}
        for name, at in (("7", day[3]), ("8", day[1]))
    )
    newer, older = (said(0, at, label_id=name * 36) for name, at in (("5", day[4]), ("6", day[0])))

    add(frauds, said(), withdrawn, newer, earlier, older)

    assert [known(frauds, at)[2] for at in (day[0], day[1], day[2])] == [1, 1, 1]


def test_a_label_is_told_what_it_claims(frauds):
    """The span in which its payment stands as a fraud; labels of one payment share it."""
    first, second = said(1, JANUARY), said(1, JANUARY + DAY, label_id=str(uuid.UUID(int=9)))
    back = said(2, JANUARY + 3 * DAY, verdict="GENUINE", supersedes=first["label_id"])
    add(frauds, first, second, back)

    claim = frauds.claim(first["label_id"].encode())

    assert (claim.arrival, claim.revoked) == (JANUARY, JANUARY + 3 * DAY)
    assert frauds.claim(second["label_id"].encode()) == claim
    assert frauds.claim(back["label_id"].encode()) is None
    assert frauds.claim(b"unheard of") is None


@pytest.mark.parametrize("after", [-1, 0, DAY - 1, DAY, 3 * DAY - 1, 3 * DAY, 30 * DAY])
def test_a_claim_counts_as_the_windows_do(frauds, after):
    """For every window, before its arrival, after it, and after it was taken back."""
    taken_back = said(2, JANUARY + 3 * DAY, verdict="GENUINE", supersedes=said(1)["label_id"])
    add(frauds, said(1), taken_back)

    claim = frauds.claim(said(1)["label_id"].encode())

    counts = [int(claim.counts(JANUARY + after, window)) for window in DAYS]
    assert counts == known(frauds, JANUARY + after)
