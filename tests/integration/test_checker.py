import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from consumer.verify.formats import ERRORS, Record
from tests.integration.checker import check, judge
from tests.integration.history import History, decode, source
from tests.integration.sound_history import BUNDLE, encode, sound_history


@pytest.fixture(scope="module")
def good() -> History:
    return sound_history()


def rules(history: History) -> set[str]:
    return {violation.rule for violation in check(history)}


def changed(read: Record, **fields: Any) -> Record:
    name = {"predictions": "prediction", "alerts": "alert"}[read.topic]
    return replace(read, value=encode(name, decode(name, read.value) | fields))


def with_prediction(history: History, at: int, **fields: Any) -> History:
    predictions = list(history.predictions)
    predictions[at] = changed(predictions[at], **fields)
    return replace(history, predictions=predictions)


def with_feature(history: History, at: int, position: int, more: float) -> History:
    """Add to one feature of one prediction."""
    features = list(decoded(history, at)["features"])
    features[position] += more
    return with_prediction(history, at, features=features)


def with_letter(history: History, reason: str, **changes: Any) -> History:
    """Change the dead letter of one reason."""
    letters = [
        replace(read, **changes) if (ERRORS + "reason", reason.encode()) in read.headers else read
        for read in history.dead_letters
    ]
    return replace(history, dead_letters=letters)


def letter_of(history: History, reason: str) -> Record:
    return next(
        r for r in history.dead_letters if (ERRORS + "reason", reason.encode()) in r.headers
    )


def renamed(letter: Record, reason: str) -> Iterator[tuple[str, bytes | None]]:
    for name, value in letter.headers:
        yield name, reason.encode() if name == ERRORS + "reason" else value


def unflagged(history: History, alert: Record) -> int:
    """Return an offset in the alert's source partition whose payment was approved."""
    partition = decode("alert", alert.value)["source_partition"]
    predictions = (decoded(history, at) for at in range(300))
    return next(
        p["source_offset"]
        for p in predictions
        if p["source_partition"] == partition and p["decision"] == "APPROVE"
    )


def again(read: Record, **fields: Any) -> Record:
    """Return the record once more, at the end of the topic, with some of it changed."""
    return replace(changed(read, **fields), offset=10_000)


def decoded(history: History, at: int) -> dict[str, Any]:
    return decode("prediction", history.predictions[at].value)


def without_late_flags(history: History) -> History:
    late = next(i for i in range(300) if decoded(history, i)["degraded"])
    return with_prediction(history, late, degraded=[])


def without_late_alert(history: History) -> History:
    late = {source(p) for p in map(partial(decoded, history), range(300)) if p["degraded"]}
    alerts = [read for read in history.alerts if source(decode("alert", read.value)) not in late]
    return replace(history, alerts=alerts)


def swapped_within_a_card(reads: list[Record]) -> list[Record]:
    first = reads[0]
    second = next(r for r in reads[1:] if (r.key, r.partition) == (first.key, first.partition))
    return exchanged(reads, first, second)


def swapped_within_a_partition(reads: list[Record]) -> list[Record]:
    first = reads[0]
    second = next(r for r in reads[1:] if r.partition == first.partition)
    return exchanged(reads, first, second)


def exchanged(reads: list[Record], first: Record, second: Record) -> list[Record]:
    others = [read for read in reads if read not in (first, second)]
    return [replace(first, offset=second.offset), replace(second, offset=first.offset), *others]


def with_other_model(history: History) -> History:
    """Let there be another model, which gives every payment a probability of its own."""
    other = replace(BUNDLE, score=lambda rows: [2.0] * len(rows))
    return replace(history, bundles={**history.bundles, "2": other})


def test_a_sound_history_has_no_violations(good):
    """What the oracle made satisfies every rule; or no finding would mean anything."""
    assert len(good.predictions) == 300
    assert len(good.dead_letters) >= 10
    assert len(good.alerts) >= 10
    assert check(good) == []


MUTATIONS = {
    "nothing was sent": ("nothing checked", lambda h: replace(h, sent=[])),
    "a prediction is gone": ("no_loss", lambda h: replace(h, predictions=h.predictions[1:])),
    "less came out than went in": (
        "balance",
        lambda h: replace(h, predictions=h.predictions[1:]),
    ),
    "a dead letter is gone": ("no_loss", lambda h: replace(h, dead_letters=h.dead_letters[:-1])),
    "a prediction came twice": (
        "no_repeat",
        lambda h: replace(h, predictions=[*h.predictions, again(h.predictions[0])]),
    ),
    "an alert came twice": (
        "no_repeat",
        lambda h: replace(h, alerts=[*h.alerts, again(h.alerts[0])]),
    ),
    "a dead letter came twice": (
        "no_repeat",
        lambda h: replace(
            h, dead_letters=[*h.dead_letters, replace(h.dead_letters[0], offset=10_000)]
        ),
    ),
    "a second prediction differs": (
        "no_repeat",
        lambda h: replace(
            h,
            exactly_once=False,
            predictions=[*h.predictions, again(h.predictions[0], probability=0.123)],
        ),
    ),
    "two predictions changed places": (
        "order",
        lambda h: replace(h, predictions=swapped_within_a_card(h.predictions)),
    ),
    "two dead letters changed places": (
        "order",
        lambda h: replace(h, dead_letters=swapped_within_a_partition(h.dead_letters)),
    ),
    "a prediction of no input": (
        "no_phantom",
        lambda h: with_prediction(h, 3, source_offset=9_999),
    ),
    "a prediction of a refused record": (
        "no_phantom",
        lambda h: replace(
            h,
            predictions=[
                *h.predictions,
                again(
                    h.predictions[0],
                    source_partition=h.dead_letters[0].partition,
                    source_offset=h.dead_letters[0].offset,
                ),
            ],
        ),
    ),
    "a dead letter without coordinates": (
        "dead_letters",
        lambda h: with_letter(
            h, "decode", headers=((ERRORS + "partition", b"0"), (ERRORS + "offset", b"0"))
        ),
    ),
    "a feature is wrong": (
        "features",
        lambda h: with_prediction(h, 50, features=[*decoded(h, 50)["features"][:-1], 77.0]),
    ),
    "a copied field is wrong": ("no_phantom", lambda h: with_prediction(h, 9, terminal_id="t")),
    "a decision is not the policy's": (
        "prediction",
        lambda h: with_prediction(h, 9, probability=0.5, score=500, decision="DECLINE"),
    ),
    "another scorer disagrees": (
        "probability",
        lambda h: replace(h, bundles={"1": replace(BUNDLE, score=lambda rows: [2.0] * len(rows))}),
    ),
    "a model that nobody serves": (
        "prediction",
        lambda h: with_prediction(h, 9, model_version="2"),
    ),
    "a prediction of one model that is another's": (
        "probability",
        lambda h: with_prediction(with_other_model(h), 9, model_version="2"),
    ),
    "a flag nobody brought about": (
        "degraded",
        lambda h: with_prediction(h, 9, degraded=["STATE_COLD"]),
    ),
    "a late payment is not flagged": ("degraded", without_late_flags),
    "LATE_EVENT is missing": ("lateness", without_late_flags),
    "LATE_EVENT of a payment in time": (
        "lateness",
        lambda h: with_prediction(h, 9, degraded=["LATE_EVENT"]),
    ),
    "a window counts a payment too many": ("velocity", lambda h: with_feature(h, 20, 7, 1)),
    "a mean is another": ("velocity", lambda h: with_feature(h, 20, 8, 1)),
    "a ratio is another": ("velocity", lambda h: with_feature(h, 20, 13, -1)),
    "a night is a day": ("velocity", lambda h: with_feature(h, 20, 2, 0.5)),
    "a label was missed": ("labels", lambda h: with_prediction(h, -1, label_offsets=[0])),
    "a label was made up": ("labels", lambda h: with_prediction(h, -1, label_offsets=[999])),
    "a dead letter is truncated": (
        "dead_letters",
        lambda h: with_letter(h, "trailing", value=b"\xc3\x01"),
    ),
    "a dead letter lost its key": ("dead_letters", lambda h: with_letter(h, "decode", key=None)),
    "a dead letter moved": ("dead_letters", lambda h: with_letter(h, "decode", partition=7)),
    "a dead letter has another time": ("dead_letters", lambda h: with_letter(h, "id", timestamp=1)),
    "a card number in a dead letter": (
        "dead_letters",
        lambda h: with_letter(h, "card_number", value=b"4111"),
    ),
    "a transaction is open": ("transactions", lambda h: replace(h, stuck=[("alerts", 1)])),
    "an offset is not committed": (
        "offsets",
        lambda h: replace(h, committed={**h.committed, 0: 1}, complete=False),
    ),
    "the end is not committed": (
        "committed",
        lambda h: replace(h, committed={**h.committed, 0: h.ends[0] - 1}),
    ),
    "an input is not in the journal": (
        "journal",
        lambda h: replace(h, sent=h.sent[1:]),
    ),
    "the alert of a late payment is missing": ("alerts", without_late_alert),
    "an alert is missing": ("alerts", lambda h: replace(h, alerts=h.alerts[1:])),
    "an alert of no record": (
        "no_phantom",
        lambda h: replace(h, alerts=[*h.alerts, again(h.alerts[0], source_offset=9_999)]),
    ),
    "an alert of a payment that is not flagged": (
        "alerts",
        lambda h: replace(
            h, alerts=[*h.alerts, again(h.alerts[0], source_offset=unflagged(h, h.alerts[0]))]
        ),
    ),
    "an alert of another card": (
        "alerts",
        lambda h: replace(h, alerts=[changed(h.alerts[0], subject_id="x"), *h.alerts[1:]]),
    ),
    "an alert of another event": (
        "alerts",
        lambda h: replace(h, alerts=[changed(h.alerts[0], event_ids=["x"]), *h.alerts[1:]]),
    ),
    "a dead letter of another outcome": (
        "outcome",
        lambda h: with_letter(
            h, "trailing", headers=tuple(renamed(letter_of(h, "trailing"), "decode"))
        ),
    ),
    "a dead letter has other headers": (
        "dead_letters",
        lambda h: with_letter(
            h, "trailing", headers=(("x", b""), *letter_of(h, "trailing").headers)
        ),
    ),
    "a dead letter of a giant key has another hash": (
        "dead_letters",
        lambda h: with_letter(
            h,
            "trailing",
            key=None,
            headers=(*letter_of(h, "trailing").headers, (ERRORS + "key.sha256", b"0" * 64)),
        ),
    ),
    "a header was added to the letter of a card number": (
        "dead_letters",
        lambda h: with_letter(
            h, "card_number", headers=(("x", b""), *letter_of(h, "card_number").headers)
        ),
    ),
    "an offset beyond the log": (
        "offsets",
        lambda h: replace(h, committed={**h.committed, 0: h.ends[0] + 1}),
    ),
    "an alert of another window": (
        "alerts",
        lambda h: replace(h, alerts=[changed(h.alerts[0], window_start=0), *h.alerts[1:]]),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_flaw_is_named(good, name):
    """The checker can fail: each flaw put into a sound history is found by the rule it breaks."""
    rule, mutate = MUTATIONS[name]

    assert rule in rules(mutate(good))


def test_each_rule_that_finds_a_flaw_is_said_to_have_looked(good):
    """Where nothing was sent none did; replays and snapshots are not in this history."""
    checked = judge(good).checked

    assert {rule for rule, _ in MUTATIONS.values()} - {"nothing checked"} == set(checked)
    assert len(checked) == len(set(checked))
    assert judge(replace(good, sent=[])).checked == []


def test_a_giant_key_and_its_headers_may_be_left_out(good):
    """As the value of an oversize record is: a dead letter must fit its topic."""
    letter = letter_of(good, "trailing")
    facts = [pair for pair in letter.headers if pair[0].startswith(ERRORS)]
    digest = hashlib.sha256(letter.key or b"").hexdigest().encode()
    said = ((ERRORS + "key.sha256", digest), (ERRORS + "headers.length", b"9"))
    cut = with_letter(good, "trailing", key=None, headers=(*facts, *said))

    assert check(cut) == []


def test_at_least_once_allows_a_second_identical_prediction(good):
    """Only scored_at, degraded and label_offsets may differ between two of the same."""
    twice = [*good.predictions, again(good.predictions[0], scored_at=5)]

    assert check(replace(good, exactly_once=False, predictions=twice)) == []


def test_at_least_once_allows_answers_of_a_second_model(good):
    """As after a deployment: what was published and not committed is answered again by the new."""
    alert = good.alerts[0]
    place = source(decode("alert", alert.value))
    first = next(p for p in good.predictions if source(decode("prediction", p.value)) == place)
    score = {"probability": 0.99, "score": 989, "decision": "DECLINE"}
    second = again(first, model_version="2", **score)
    anew = again(alert, model_version="2", max_score=989)
    answers = {"predictions": [*good.predictions, second], "alerts": [*good.alerts, anew]}

    assert check(replace(with_other_model(good), exactly_once=False, **answers)) == []
    only_alert = replace(good, exactly_once=False, alerts=answers["alerts"])
    assert check(only_alert) == []  # the one who raised it died before its prediction was out
    assert rules(replace(only_alert, exactly_once=True)) == {"no_repeat"}


def test_a_model_may_alert_again_what_another_did(good):
    """It need not know of the alert that is open; the model that raised it does."""
    raised = {source(decode("alert", alert.value)): alert for alert in good.alerts}
    suspect = next(
        p for p in map(partial(decoded, good), range(300))
        if p["decision"] != "APPROVE" and p["decision"] != "CHALLENGE" and source(p) not in raised
    )  # fmt: skip
    opened = next(alert for alert in good.alerts if alert.key == suspect["card_id"].encode())
    place = {"source_offset": suspect["source_offset"], "event_ids": [suspect["event_id"]]}
    history = replace(good, alerts=[*good.alerts, again(opened, **place)])
    since = next(at for at in range(300) if source(decoded(good, at)) == source(suspect))
    follows = [
        changed(p, model_version="2") if at >= since else p for at, p in enumerate(good.predictions)
    ]

    assert rules(history) == {"alerts"}
    both = {"1": BUNDLE, "2": BUNDLE}
    assert check(replace(history, predictions=follows, bundles=both)) == []
    assert check(replace(good, predictions=follows, bundles=both)) == []
    always = [changed(p, model_version="2") for p in good.predictions]
    assert rules(replace(history, predictions=always, bundles=both)) == {"alerts"}


def test_an_incomplete_history_may_lack_what_is_not_committed(good):
    """Until all is done, outcomes are only due below the committed offset."""
    committed = {**good.committed, 0: good.ends[0] - 1}
    last = [
        p for p in good.predictions if source(decode("prediction", p.value)) != (0, committed[0])
    ]
    alerts = [a for a in good.alerts if source(decode("alert", a.value)) != (0, committed[0])]
    cut = replace(good, predictions=last, alerts=alerts, committed=committed)

    assert len(last) == len(good.predictions) - 1
    assert rules(cut) == {"committed"}
    assert check(replace(cut, complete=False)) == []
