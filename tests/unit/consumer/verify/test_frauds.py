from consumer.core.feature_sets import DAY, FEATURE_SETS
from consumer.verify.frauds import COUNTS, KnownFrauds

SETTLE = 60


def label(number: int, published_at: int, **changes: object) -> dict[str, object]:
    fields = {"label_id": f"l{number}", "transaction_id": "p", "terminal_id": "t"}
    return fields | {"verdict": "FRAUD", "published_at": published_at, "supersedes": None} | changes


def known(*labels: dict[str, object]) -> KnownFrauds:
    frauds = KnownFrauds(SETTLE)
    for offset, each in enumerate(labels):
        frauds.add(0, offset, each)
    return frauds


def counts(frauds: KnownFrauds, time: int, below: int = 9) -> list[int]:
    return frauds.counts("t", time, [below], [1_000])


def test_the_counted_features_are_those_of_the_feature_sets():
    """The positions that are looked at are those of the features that count frauds."""
    for name, positions in COUNTS.items():
        features = FEATURE_SETS[name].features
        frauds = {at: f.window for at, f in enumerate(features) if f.aggregate == "frauds"}
        assert positions == frauds
        assert min(frauds.values()) == DAY


def test_a_label_counts_from_its_settled_arrival_until_its_window_is_over():
    """published_at + settle <= time < published_at + settle + window."""
    frauds = known(label(1, 100))

    assert [counts(frauds, time) for time in (159, 160, 1_159, 1_160)] == [[0], [1], [1], [0]]


def test_a_label_that_was_not_known_does_not_count():
    """A prediction says how far the labels were read."""
    frauds = known(label(1, 100), label(2, 100, transaction_id="q"))

    assert [counts(frauds, 200, below) for below in (0, 1, 2)] == [[0], [1], [2]]


def test_labels_of_one_payment_count_once_from_the_earliest():
    """Whichever comes first on the topic."""
    assert counts(known(label(1, 300), label(2, 100)), 200) == [1]
    assert counts(known(label(1, 100), label(2, 300)), 500) == [1]


def test_a_label_that_was_taken_back_counts_no_longer_and_may_be_claimed_anew():
    """The time between taking back and claiming anew counts for nobody."""
    frauds = known(
        label(1, 100),
        label(2, 200, verdict="GENUINE", supersedes="l1"),
        label(3, 400),
    )

    assert [counts(frauds, time) for time in (200, 300, 500)] == [[1], [0], [1]]


def test_a_label_delivered_again_says_nothing():
    """Not even when what it said was taken back meanwhile."""
    frauds = known(label(1, 100), label(2, 200, verdict="GENUINE", supersedes="l1"), label(1, 300))

    assert counts(frauds, 500) == [0]
