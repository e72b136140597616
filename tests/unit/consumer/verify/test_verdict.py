from dataclasses import replace
from typing import Any

from consumer.verify.evidence import Stretch
from consumer.verify.formats import ERRORS, REPLAY, Record
from consumer.verify.ledger import Ledger, Promise
from consumer.verify.verdict import Circumstances, conclude, unanswered
from tests.builders import payment
from tests.integration.history import decode
from tests.integration.sound_history import alert, encode, prediction
from tests.integration.traffic import Sent
from tests.integration.traffic import encode as encode_input

DAY = 86_400_000_000
END = 10


class Topics:
    """A topic of one partition whose records are payments of one card, and all that answers."""

    def __init__(self, exactly_once: bool = True, begin: int = 0, end: int = END) -> None:
        promise = Promise("payments", exactly_once, DAY, 0, grace=DAY, max_future=DAY, sample=0)
        self.ledger = Ledger(promise, [Stretch(0, begin, end)])
        self.fields = [payment(number, card_id="c") for number in range(END)]
        values = [encode_input("transaction", fields) for fields in self.fields]
        self.inputs = [
            Record("payments", 0, offset, b"c", value, (), 1_000 + offset)
            for offset, value in enumerate(values)
        ]
        self.alerts: list[Record] = []

    def predicted(self, offset: int, **changes: Any) -> Record:
        """Return the prediction of a record."""
        source = self.inputs[offset]
        sent = Sent(source.key, source.value, partition=0, offset=offset)
        made = prediction(sent, self.fields[offset], [0.0] * 14, late=False, probability=0.1)
        return replace(made, **changes)

    def flagged(self, offset: int) -> Record:
        """Return a prediction that asks for review."""
        source = self.inputs[offset]
        sent = Sent(source.key, source.value, partition=0, offset=offset)
        return prediction(sent, self.fields[offset], [0.0] * 14, late=False, probability=0.92)

    def alert(self, offset: int) -> Record:
        """Return the alert that a record opens."""
        item = self.fields[offset] | {"source_partition": 0, "source_offset": offset, "score": 900}
        return alert(item, offset)

    def letter(self, offset: int, at: int = 0) -> Record:
        """Return the dead letter of a record."""
        source = self.inputs[offset]
        facts = {"topic": "payments", "partition": "0", "offset": str(offset), "reason": "id"}
        headers = tuple((ERRORS + name, text.encode()) for name, text in facts.items())
        return replace(source, topic="dlt", offset=at, headers=(*source.headers, *headers))

    def replayed(self, offset: int, of: int, attempt: int = 1) -> None:
        """Let a record be one that was replayed."""
        names = {"topic": "payments", "partition": "0", "offset": of, "attempt": attempt}
        headers = tuple((REPLAY + name, str(value).encode()) for name, value in names.items())
        self.inputs[offset] = replace(self.inputs[offset], headers=headers)

    def judged(self, *outputs: Record, committed: int = END, **about: Any) -> set[str]:
        """Enter all of it, and return what is broken."""
        self.ledger.inputs(self.inputs)
        self.ledger.predictions(record for record in outputs if record.topic == "predictions")
        self.ledger.dead_letters(record for record in outputs if record.topic == "dlt")
        self.ledger.alerts(record for record in outputs if record.topic == "alerts")
        at = {0: committed}
        conclude(self.ledger, Circumstances(at, at, {0: END}, **about))
        return set(self.ledger.findings.broken_names)


def test_a_replayed_record_and_its_first_are_one_event():
    """The first is refused, its replay refused again, and the second replay is scored."""
    topics = Topics(end=4)
    topics.replayed(2, of=0, attempt=1)
    topics.replayed(3, of=0, attempt=2)

    broken = topics.judged(
        topics.letter(0), topics.predicted(1), topics.letter(2, 1), topics.predicted(3)
    )

    counts = topics.ledger.counts
    assert broken == set()
    assert (counts["records"], counts["events"], counts["predictions"]) == (4, 2, 2)
    assert counts["dead_letters"] - counts["superseded"] == 0


def test_a_replay_of_what_was_not_refused_or_twice_is_named():
    """Its first place must hold a record that has a dead letter, and attempts are counted up."""
    answers = range(1, 4)
    unfounded, twice = Topics(end=4), Topics(end=4)
    unfounded.replayed(2, of=1)
    twice.replayed(2, of=0)
    twice.replayed(3, of=0)

    assert unfounded.judged(unfounded.letter(0), *map(unfounded.predicted, answers)) == {"replays"}
    assert twice.judged(twice.letter(0), *map(twice.predicted, answers)) == {"replays"}


def test_the_first_of_a_replay_may_lie_outside():
    """Then it cannot be told whether it was refused, and the replay is an event of its own."""
    topics = Topics(begin=5)
    topics.replayed(7, of=2)

    assert topics.judged(*map(topics.predicted, range(5, END))) == set()
    assert topics.ledger.findings["replays"].unjudged == 1
    assert topics.ledger.counts["events"] == 5


def test_answers_outside_of_the_range_are_passed_over():
    """They are neither phantoms nor repeats, and do not count."""
    topics = Topics(begin=4, end=6)

    assert topics.judged(*map(topics.predicted, range(END)), topics.predicted(1)) == set()
    assert (topics.ledger.counts["predictions"], topics.ledger.counts["outside"]) == (2, 9)


def test_what_is_not_committed_yet_is_pending():
    """It is no loss; under exactly-once it must not be published, either."""
    topics, early = Topics(), Topics()

    assert topics.judged(*map(topics.predicted, range(6)), committed=6) == set()
    assert topics.ledger.counts["pending"] == 4
    assert early.judged(*map(early.predicted, range(7)), committed=6) == {"offsets"}


def test_at_least_once_may_be_ahead_of_its_offsets():
    """A batch that is out and not committed will come again."""
    topics = Topics(exactly_once=False)

    assert topics.judged(*map(topics.predicted, range(7)), committed=6) == set()


def test_a_loss_breaks_offsets_and_balance_too():
    """The committed offset covers what is not published, and fewer come out than went in."""
    topics = Topics()

    broken = topics.judged(*map(topics.predicted, range(1, END)))

    [example] = topics.ledger.findings["no_loss"].examples
    assert broken == {"no_loss", "offsets", "balance"}
    assert (example.topic, example.partition, example.offset) == ("payments", 0, 0)
    assert unanswered(topics.ledger, {0: 1})


def test_an_answer_that_retention_may_have_taken_is_not_judged():
    """The record is older than anything that is left on a topic of answers."""
    topics = Topics()

    assert topics.judged(*map(topics.predicted, range(2, END)), answers_since=1_002) == set()
    assert topics.ledger.findings["no_loss"].unjudged == 2


def test_a_prediction_and_a_dead_letter_are_one_answer_too_many():
    """Under at-least-once as well."""
    topics = Topics(exactly_once=False)

    broken = topics.judged(*map(topics.predicted, range(END)), topics.letter(3))

    assert broken == {"no_repeat", "balance"}


def test_another_prediction_is_excused_by_another_model_alone():
    """At least once: after a deployment a batch may be scored again, by the new model."""
    first, again = Topics(exactly_once=False), Topics(exactly_once=False)
    other = again.predicted(2)
    changed = first.flagged(2)

    assert first.judged(*map(first.predicted, range(END)), changed) == {"no_repeat"}
    newer = renamed(other, model_version="2", probability=0.11)
    assert again.judged(*map(again.predicted, range(END)), newer) == set()
    assert again.ledger.counts["repeats"] == 1


def renamed(record: Record, **changes: Any) -> Record:
    """Return the prediction with other fields."""
    return replace(record, value=encode("prediction", decode("prediction", record.value) | changes))


def by_another(record: Record, **changes: Any) -> Record:
    """Return the answer as a model gives it that takes over."""
    name = {"predictions": "prediction", "alerts": "alert"}[record.topic]
    said = decode(name, record.value) | {"model_version": "2"} | changes
    return replace(record, value=encode(name, said))


def test_at_least_once_a_model_may_answer_again_what_another_did():
    """Then neither knows of all alerts: one that was out alone, or one that was open before."""
    again, alone, both = (Topics(exactly_once=False) for _ in range(3))

    assert not again.judged(
        again.flagged(0), again.alert(0), again.predicted(1),
        by_another(again.predicted(1), probability=0.11), again.flagged(2), again.alert(2),
        *map(again.predicted, range(3, END)),
    )  # fmt: skip
    rest = [by_another(alone.predicted(offset)) for offset in range(3, END)]
    assert not alone.judged(*map(alone.predicted, range(3)), alone.alert(3), *rest)
    answers = [by_another(both.flagged(3)), by_another(both.alert(3)), *rest[1:]]
    assert not both.judged(*map(both.predicted, range(3)), both.alert(3), *answers)


def test_exactly_once_no_model_alerts_for_another():
    """A record has one answer, of one model."""
    topics = Topics()
    rest = [by_another(topics.predicted(offset)) for offset in range(3, END)]

    assert topics.judged(*map(topics.predicted, range(3)), topics.alert(3), *rest) == {"alerts"}


def test_the_alert_of_a_window_may_have_been_opened_before_the_range():
    """An alert of an earlier record says so; where alerts are gone, nobody can tell."""
    known, missing, cut = (Topics(begin=5) for _ in range(3))
    rest = range(6, END)

    assert known.judged(known.flagged(5), *map(known.predicted, rest), known.alert(2)) == set()
    assert missing.judged(missing.flagged(5), *map(missing.predicted, rest)) == {"alerts"}
    assert cut.judged(cut.flagged(5), *map(cut.predicted, rest), alerts_since=1_006) == set()
    assert cut.ledger.findings["alerts"].unjudged == 1


def test_an_alert_whose_prediction_is_gone_is_open_still():
    """Retention took the prediction: the alert is no phantom, and later ones need none."""
    topics, phantom = Topics(), Topics()
    rest = range(2, END)

    assert (
        topics.judged(
            topics.flagged(1), *map(topics.predicted, rest), topics.alert(0), answers_since=1_001
        )
        == set()
    )
    assert "no_phantom" in phantom.judged(*map(phantom.predicted, range(1, END)), phantom.alert(0))


def test_a_record_that_only_looks_like_a_prediction_is_named():
    """A value that no schema reads, on a topic where everything is a prediction."""
    topics = Topics()

    broken = topics.judged(
        *map(topics.predicted, range(END)), Record("predictions", 0, 99, b"", b"sentinel")
    )

    assert broken == {"no_phantom"}


def test_a_tombstone_has_no_answer():
    """It is skipped and counted; a dead letter of it is of no record."""
    topics, answered = Topics(), Topics()
    for each in (topics, answered):
        each.inputs[0] = replace(each.inputs[0], value=None)

    assert topics.judged(*map(topics.predicted, range(1, END))) == set()
    assert topics.ledger.counts["tombstones"] == 1
    assert "no_phantom" in answered.judged(
        answered.letter(0), *map(answered.predicted, range(1, END))
    )


def test_examples_are_few_and_hold_coordinates_alone():
    """However much is broken, and whatever a record says."""
    topics = Topics()

    topics.judged(*map(topics.predicted, range(0)))

    found = topics.ledger.findings["no_loss"].as_json()
    assert (found["broken"], found["checked"], found["ok"]) == (10, 10, False)
    assert {frozenset(example) for example in found["examples"]} == {
        frozenset({"topic", "partition", "offset", "what"})
    }
    assert {example["what"] for example in found["examples"]} == {"no answer"}
