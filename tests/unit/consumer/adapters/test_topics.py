import pytest

from consumer.adapters.topics import TopicNeeds, _differences, _unusable, needs
from consumer.core.feature_sets import ARRIVAL_1, HANDBOOK_1
from consumer.settings import Settings

DAY_MS = 86_400_000
FOREVER = -1
SOUND = {
    "cleanup.policy": "delete",
    "retention.ms": str(40 * DAY_MS),
    "retention.bytes": "-1",
    "max.message.bytes": str(2 * 2**20),
}


def settings_of(**sections):
    return Settings(kafka={"bootstrap.servers": "localhost"}, **sections)


def differences(need, partitions=6, **config):
    names = {name.replace("_", "."): value for name, value in config.items()}
    return list(_differences(need, partitions, SOUND | names))


INPUT = TopicNeeds("in", 6, 33 * DAY_MS, max_ahead_ms=DAY_MS)
LABELS = TopicNeeds("labels", 1, FOREVER)
LETTERS = TopicNeeds("dlt", 6, None, 2 * 2**20)


def test_six_topics_are_needed():
    """Labels and the audit in one partition, the rest as wide as the input."""
    found = needs(settings_of(), ARRIVAL_1, 6)

    assert [(need.name, need.partitions) for need in found] == [
        ("transactions.raw", 6), ("transactions.scored", 6), ("fraud.alerts", 6),
        ("fraud.labels", 1), ("transactions.raw-dlt", 6), ("transactions.raw-dlt-audit", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("feature_set", "grace", "days"),
    [
        (ARRIVAL_1, "1d", 30 + 2 + 1 + 1),
        (ARRIVAL_1, "3d", 30 + 6 + 1 + 1),
        (HANDBOOK_1, "1d", 37 + 2 + 1 + 1),
    ],
)
def test_the_input_keeps_what_the_state_is_rebuilt_from(feature_set, grace, days):
    """The longest window, twice the grace, a window of alerts, and a day."""
    found = needs(settings_of(windows={"grace": grace}), feature_set, 1)

    assert found[0].retention_ms == days * DAY_MS


def test_labels_are_kept_for_ever():
    """A fraud of last year may be all that is known of a terminal."""
    assert needs(settings_of(), ARRIVAL_1, 6)[3].retention_ms == FOREVER


def test_topics_are_created_with_what_they_need():
    """Nothing is compacted: a key is a terminal or a card, and has more than one record."""
    assert INPUT.config == {"cleanup.policy": "delete", "retention.ms": str(33 * DAY_MS)}
    assert LABELS.config == {"cleanup.policy": "delete", "retention.ms": "-1"}
    assert LETTERS.config == {"cleanup.policy": "delete", "max.message.bytes": str(2 * 2**20)}
    assert TopicNeeds("t", 1).config == {"cleanup.policy": "delete"}


@pytest.mark.parametrize("need", [INPUT, LABELS, LETTERS])
def test_a_topic_that_will_do_is_passed_over(need):
    """More of everything is as good."""
    assert differences(need, 7, retention_ms="-1") == []


@pytest.mark.parametrize(
    ("ahead", "kind", "told"),
    [
        (DAY_MS, "CreateTime", False),
        (DAY_MS + 1, "CreateTime", True),
        (2**63 - 1, "LogAppendTime", False),
    ],
)
def test_a_topic_that_takes_timestamps_of_the_future_is_told(ahead, kind, told):
    """They would vouch for payments of the future, after which all others are late."""
    config = {"message_timestamp_after_max_ms": str(ahead), "message_timestamp_type": kind}

    assert differences(LABELS, retention_ms="-1", **config) == []
    assert ("or one wrong clock" in "".join(differences(INPUT, **config))) is told


def test_too_few_partitions_are_told():
    """A dead letter keeps its partition."""
    assert differences(LETTERS, 5) == ["dlt has 5 partitions and needs 6: add them"]


@pytest.mark.parametrize(
    ("feature_set", "partitions", "usable"),
    [(ARRIVAL_1, 8, True), (HANDBOOK_1, 1, True), (HANDBOOK_1, 2, False)],
)
def test_a_topic_that_splits_what_the_feature_set_counts_is_told(feature_set, partitions, usable):
    """Each partition would count its own part of a terminal's payments."""
    settings = settings_of()
    found = {need.name: need.partitions for need in needs(settings, feature_set, partitions)}

    faults = list(_unusable(settings, feature_set, found))

    assert faults == (
        []
        if usable
        else [
            "topic transactions.raw: 2 partitions would each see a part of what feature set"
            " handbook-1 counts, payments of terminals; give it one partition, or take another"
            " feature set"
        ]
    )


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_compaction_is_told(policy):
    """It would leave a terminal its last fraud alone."""
    assert differences(LABELS, retention_ms="-1", cleanup_policy=policy) == [
        f"labels has cleanup.policy={policy}: set it to delete"
    ]


@pytest.mark.parametrize(
    ("need", "kept", "enough"),
    [
        (INPUT, 33 * DAY_MS, True),
        (INPUT, 33 * DAY_MS - 1, False),
        (INPUT, FOREVER, True),
        (LABELS, FOREVER, True),
        (LABELS, 2**62, False),
    ],
)
def test_retention_that_is_too_short_is_told(need, kept, enough):
    """For ever is longer than any time."""
    found = differences(need, retention_ms=str(kept))

    expected = (
        f"{need.name} has retention.ms={kept}: set it to at least {need.retention_ms}"
        " (-1 is for ever)"
    )
    assert found == ([] if enough else [expected])


def test_a_limit_of_bytes_is_told_where_time_alone_must_decide():
    """A burst would push out what the windows still need."""
    told = "has retention.bytes: set it to -1, as time alone must decide"

    assert differences(INPUT, retention_bytes="1000") == [f"in {told}"]
    assert differences(LETTERS, retention_bytes="1000") == []


@pytest.mark.parametrize(("limit", "enough"), [(2 * 2**20, True), (2 * 2**20 - 1, False)])
def test_dead_letters_larger_than_their_topic_takes_are_told(limit, enough):
    """A letter is larger than its record, by its headers."""
    found = differences(LETTERS, max_message_bytes=str(limit))

    assert found == (
        []
        if enough
        else [
            f"dlt has max.message.bytes={limit}: set it to {2 * 2**20}, a dead letter is larger"
            " than its record"
        ]
    )


def test_all_differences_of_a_topic_are_told():
    """One sentence each."""
    found = differences(INPUT, 1, cleanup_policy="compact", retention_ms="1", retention_bytes="1")

    assert len(found) == 4
