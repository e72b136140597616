import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import schemas
from consumer.core.hashing import hash_ids
from consumer.core.labels import TerminalFrauds
from tests.builders import encoded, events_of, label, payment
from tests.property.references import ReferenceFrauds

WINDOWS = (10, 60, 300)
SETTLE = 5
TERMINALS = ("t0", "t1", "t2")
START = 2_000_000_000_000_000

labels = st.tuples(
    st.integers(0, 9),  # label
    st.integers(0, 5),  # payment
    st.sampled_from(["FRAUD", "FRAUD", "FRAUD", "GENUINE", "DISPUTED"]),
    st.one_of(st.none(), st.integers(0, 9)),  # supersedes
    st.integers(0, 400),  # published
)


def terminal_of(payment_number):
    return TERMINALS[payment_number % len(TERMINALS)]


@given(st.lists(labels, max_size=40), st.lists(st.integers(-10, 800), min_size=1, max_size=20))
def test_frauds_are_counted_as_the_rules_say(said, times):
    """Any order, duplicates, claims withdrawn and made again; a payment never counts twice."""
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=SETTLE / 1e6)
    reference = ReferenceFrauds(SETTLE)
    for number, paid, verdict, supersedes, published in said:
        fields = label(
            paid, label_id=str(number), terminal_id=terminal_of(paid), verdict=verdict,
            supersedes=None if supersedes is None else str(supersedes),
            published_at=START + published,
        )  # fmt: skip
        frauds.add([encoded("label", fields)], [0])
        reference.add(
            str(number), str(paid), terminal_of(paid), verdict, str(supersedes), START + published
        )

    asked = [(terminal, START + time) for terminal in TERMINALS for time in times]
    found = frauds.count(
        _hashes([terminal for terminal, _ in asked]),
        np.array([time for _, time in asked], np.int64),
        np.array(WINDOWS, np.int64),
    )

    assert found.tolist() == [
        [reference.count(terminal, time, window) for window in WINDOWS] for terminal, time in asked
    ]


def _hashes(terminals):
    events = events_of([payment(k, terminal_id=t) for k, t in enumerate(terminals)])
    return hash_ids(events.text, events.text.names.index("terminal_id"))


@given(
    st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 400)), min_size=1, max_size=60),
    st.integers(0, 2**32),
)
def test_terminals_are_told_apart_as_the_tables_grow(reported, seed):
    """Thousands of others around them change no count."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(-(2**63), 2**63, (4_001, 2), np.int64)
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=0)
    for row in range(4_001):
        frauds.report(b"other-%d" % row, hashes[row], START - 10**12)

    for k, (row, published) in enumerate(reported):
        frauds.report(b"%d" % k, hashes[row], START + published)

    rows = sorted({row for row, _ in reported})
    found = frauds.count(hashes[rows], np.full(len(rows), START + 400), np.array(WINDOWS, np.int64))
    assert found.tolist() == [
        [
            sum(r == row and published > 400 - window for r, published in reported)
            for window in WINDOWS
        ]
        for row in rows
    ]
