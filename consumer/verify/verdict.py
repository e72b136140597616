"""What only the whole of the evidence can say: what is lost, out of order, or not committed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.verify.evidence import (
    COLD,
    DOUBTFUL,
    FLAGGED,
    HOT,
    LATE,
    MODELS,
    REPLAYED,
    TOMBSTONE,
    KeyOrder,
    Rows,
    Stretch,
)
from consumer.verify.formats import Place
from consumer.verify.ledger import Ledger
from consumer.verify.velocity import (
    DELAY,
    LONGEST,
    NEVER,
    Answer,
    History,
    Payment,
    differing,
    differing_terminal,
)

_CLOCKS_APART: Final = 60_000_000
Offsets = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """
    What the brokers said, by partition of the input.

    `committed_before` was asked for before anything was read, `committed_after` and the `ends` of
    the log when all had been. A record that is older than `answers_since` (milliseconds) may have
    had an answer that retention took, and one older than `alerts_since` an open alert.
    """

    committed_before: Mapping[int, int]
    committed_after: Mapping[int, int]
    ends: Mapping[int, int]
    answers_since: float = 0
    alerts_since: float = 0


def unanswered(ledger: Ledger, committed: Mapping[int, int]) -> bool:
    """Say whether a record below the committed offset has no answer so far."""
    return any(
        bool(_open(rows).any())
        for stretch in ledger.stretches.values()
        for _, rows in stretch.chunks(committed.get(stretch.partition, 0))
    )


def conclude(ledger: Ledger, facts: Circumstances) -> None:
    """Judge all that was entered; what is found goes to the ledger's findings and counts."""
    for stretch in ledger.stretches.values():
        _Partition(ledger, facts, stretch).judge()
        _Velocity(ledger, stretch).judge()
    _judge_replays(ledger, facts.answers_since)
    counts = ledger.counts
    counts["events"] = counts["records"] - counts["superseded"]


class _Partition:
    """One partition of the input, judged in the order of its records."""

    def __init__(self, ledger: Ledger, facts: Circumstances, stretch: Stretch) -> None:
        self._findings: Final = ledger.findings
        self._counts: Final = ledger.counts
        self._promise: Final = ledger.promise
        self._facts: Final = facts
        self._stretch: Final = stretch
        self._due_below: Final = facts.committed_before.get(stretch.partition, 0)
        self._committed: Final = facts.committed_after.get(stretch.partition, 0)
        self._furthest: Final = ledger.furthest.get(stretch.partition, -1)
        self._before: Final = ledger.opened_before
        self._opened: Final[dict[tuple[int, int], int]] = {}
        self._model = 0
        self._model_since = 0
        self._key_order: Final = KeyOrder()
        self._watermarks = (NEVER, earliest_known(ledger, stretch))
        self._letter_offset = -1
        self._in = self._out = 0

    def judge(self) -> None:
        """Judge its records, and the offsets around them."""
        for offsets, rows in self._stretch.chunks():
            self._judge_answers(offsets, rows)
            self._judge_order(offsets, rows)
            self._judge_alerts(offsets, rows)
            self._judge_lateness(offsets, rows)
        self._judge_offsets()
        self._findings.checked("balance", self._in)
        if self._in != self._out:
            self._broken("balance", None, f"{self._in} in, {self._out} out")

    def _broken(self, name: str, offset: int | None, what: str) -> None:
        partition = self._stretch.partition
        self._findings.broken(name, self._promise.topic, partition, offset, what)

    def _all_broken(self, name: str, offsets: Offsets, what: str) -> None:
        partition = self._stretch.partition
        self._findings.all_broken(name, self._promise.topic, partition, offsets.tolist(), what)

    def _judge_answers(self, offsets: Offsets, rows: Rows) -> None:
        predicted, refused = rows["predictions"] > 0, rows["letters"] > 0
        waiting = _open(rows)
        due = offsets < self._due_below
        expired = waiting & due & (rows["timestamp"] < self._facts.answers_since)
        lost = waiting & due & ~expired
        self._findings.checked("no_loss", int(due.sum()))
        self._findings.checked("no_repeat", int((predicted | refused).sum()))
        self._findings["no_loss"].unjudged += int(expired.sum())
        self._all_broken("no_loss", offsets[lost], "no answer")
        self._all_broken("offsets", offsets[lost], "committed, and not published")
        both = predicted & refused
        self._all_broken("no_repeat", offsets[both], "a prediction and a dead letter")
        if self._promise.exactly_once:
            early = (predicted | refused) & (offsets >= self._committed)
            self._all_broken("offsets", offsets[early], "published, and not committed")
        young = rows["timestamp"] >= self._facts.answers_since
        ghosts = (rows["alerts"] > 0) & ~predicted & due & young
        self._all_broken("no_phantom", offsets[ghosts], "an alert of no prediction")
        tombstones = rows["seen"] == TOMBSTONE
        for name, found in (
            ("predictions", predicted),
            ("dead_letters", refused),
            ("tombstones", tombstones),
            ("pending", waiting & ~due),
            ("unjudged", expired),
            ("lost", lost),
        ):
            self._counts[name] += int(found.sum())
            self._out += 0 if name == "lost" else int(found.sum())
        self._in += len(offsets)

    def _judge_order(self, offsets: Offsets, rows: Rows) -> None:
        rows_of = np.flatnonzero(rows["predictions"])
        answered = rows[rows_of]
        self._findings.checked("order", len(answered))
        before, moved = self._key_order.breaches(
            answered["key"], answered["out_partition"], answered["out_offset"]
        )
        at = offsets[rows_of]
        self._all_broken("order", at[before], "a prediction before that of an earlier payment")
        self._all_broken("order", at[moved], "a prediction in another partition than its card's")
        refused = np.flatnonzero(rows["letters"])
        places = rows["letter_offset"][refused]
        self._findings.checked("order", len(places))
        furthest = np.maximum.accumulate(np.concatenate([[self._letter_offset], places]))
        early = places < furthest[:-1]
        self._all_broken(
            "order", offsets[refused][early], "a dead letter before that of an earlier record"
        )
        self._letter_offset = int(furthest[-1])

    def _judge_alerts(self, offsets: Offsets, rows: Rows) -> None:
        raised = rows["alerts"] > 0
        flagged = (rows["predictions"] > 0) & (rows["flags"] & FLAGGED > 0)
        self._counts["alerts"] += int(raised.sum())
        twice = rows["flags"] & MODELS > 0
        stray = raised & ~flagged & (rows["predictions"] > 0) & ~twice
        self._all_broken("alerts", offsets[stray], "an alert of a payment that is not flagged")
        changed = self._changes_of_model(rows)
        for at in np.flatnonzero(flagged | raised | changed):
            if changed[at]:
                self._model_since = int(offsets[at])
            if flagged[at]:
                self._judge_flagged(int(offsets[at]), rows[at])
            elif raised[at]:
                card, window = int(rows[at]["key"]), int(rows[at]["alert_window"])
                self._opened[card, window] = int(offsets[at])

    def _changes_of_model(self, rows: Rows) -> NDArray[np.bool_]:
        """Say which predictions another model or policy decided on than on those before, or too."""
        predicted = np.flatnonzero(rows["predictions"] > 0)
        models = rows["model"][predicted]
        before = np.concatenate(([np.uint64(self._model)], models))
        changed = rows["flags"] & MODELS > 0
        changed[predicted] |= models != before[:-1]
        self._model = int(before[-1])
        return changed

    def _judge_flagged(self, offset: int, row: Any) -> None:
        """
        The first of its card in its window opens an alert; a late or replayed one does so again,
        as does one that another model flags, which need not know what was raised before; and no
        other. Which of two models' decisions on one record counts is not known.
        """
        length = self._promise.alert_window
        window = int(row["event_time"]) // length * length
        card, raised = int(row["key"]), bool(row["alerts"])
        self._findings.checked("alerts")
        if raised and row["alert_window"] != window:
            self._broken("alerts", offset, "an alert of another window than its payment's")
        replayed, twice = bool(row["flags"] & REPLAYED), bool(row["flags"] & MODELS)
        if row["flags"] & LATE:
            is_due, may_be = not twice, True
        else:
            opened = self._opened.get((card, window))
            was_open = (self._stretch.partition, card, window) in self._before
            is_due = (replayed or (opened is None and not was_open)) and not twice
            is_known = opened is not None and opened >= self._model_since
            may_be = not is_known or replayed or twice or bool(row["flags"] & COLD)
            if raised or (opened is None and not twice):
                self._opened[card, window] = offset
        if raised and not may_be:
            self._broken("alerts", offset, "an alert while one was open")
        elif is_due and not raised and offset < self._due_below:
            if row["timestamp"] >= self._facts.alerts_since:
                self._broken("alerts", offset, "no alert, and none was open")
            else:
                self._findings["alerts"].unjudged += 1

    def _judge_lateness(self, offsets: Offsets, rows: Rows) -> None:
        """
        Hold LATE_EVENT against the latest event time before each payment: that of those that were
        scored, or at most that of those which a state may have counted besides.
        """
        predicted, times = rows["predictions"] > 0, rows["event_time"]
        doubtful = (rows["flags"] & DOUBTFUL > 0) | (_open(rows) & (times != 0))
        latest, low = _latest_before(times, predicted, self._watermarks[0])
        at_most, high = _latest_before(times, predicted | doubtful, self._watermarks[1])
        self._watermarks = low, high
        self._stretch.put("watermark", offsets, latest)
        self._stretch.put("watermark_at_most", offsets, at_most)
        judged = predicted & (rows["flags"] & COLD == 0)
        is_late = times < latest - self._promise.grace
        in_time = times >= at_most - self._promise.grace
        says = rows["flags"] & LATE > 0
        self._findings.checked("lateness", int((judged & (is_late | in_time)).sum()))
        self._findings["lateness"].unjudged += int((predicted & ~(is_late | in_time)).sum())
        self._all_broken(
            "lateness", offsets[judged & is_late & ~says], "a late payment without LATE_EVENT"
        )
        self._all_broken(
            "lateness", offsets[judged & in_time & says], "LATE_EVENT of a payment in time"
        )

    def _judge_offsets(self) -> None:
        end = self._facts.ends[self._stretch.partition]
        self._findings.checked("offsets")
        if self._committed > end:
            self._broken("offsets", self._committed, "committed beyond the end of the log")
        if self._committed < self._due_below:
            self._broken("offsets", self._committed, "moved back while it was looked at")
        if self._furthest >= end:
            self._findings.broken(
                "no_phantom", self._promise.topic, self._stretch.partition, self._furthest,
                "an answer of no record",
            )  # fmt: skip


def earliest_known(ledger: Ledger, stretch: Stretch) -> int:
    """
    Return the event time, microseconds, after which all payments are in the stretch.

    A payment is made before its record, or after by input.max_future at most; so those before the
    stretch are no later than that after its first record, if clocks are not further apart.
    """
    if stretch.begin == 0:
        return NEVER
    for _, rows in stretch.chunks():
        if len(rows):
            first = 1_000 * int(rows["timestamp"][0])
            return first + ledger.promise.max_future + _CLOCKS_APART
    return NEVER


def _latest_before(times: Any, counted: Any, before: int) -> tuple[Any, int]:
    """Return for each row the latest time of those that count before it, and the last of all."""
    latest = np.maximum.accumulate(np.concatenate([[before], np.where(counted, times, NEVER)]))
    return latest[:-1], int(latest[-1])


class _Velocity:
    """Computes the features of the sampled payments of one partition, and compares."""

    def __init__(self, ledger: Ledger, stretch: Stretch) -> None:
        self._ledger: Final = ledger
        self._stretch: Final = stretch
        self._known_after: Final = earliest_known(ledger, stretch)

    def judge(self) -> None:
        """Judge cards, and terminals where their payments are counted."""
        for sample, judge in (
            (self._ledger.cards, self._judge_card),
            (self._ledger.terminals, self._judge_terminal),
        ):
            for (partition, _), payments in sample.owners.items():
                if partition == self._stretch.partition:
                    judge(payments)

    def _judge_card(self, payments: Sequence[Payment]) -> None:
        for payment, answer, earlier in self._walk(payments, LONGEST):
            self._judge(payment, answer, earlier, differing)

    def _judge_terminal(self, payments: Sequence[Payment]) -> None:
        for payment, answer, earlier in self._walk(payments, LONGEST + DELAY):
            if answer is not None and answer.frauds is not None:
                self._judge(payment, answer, earlier, differing_terminal)

    def _judge(
        self,
        payment: Payment,
        answer: Answer | None,
        earlier: Sequence[Payment] | None,
        differs: Callable[[Answer, Payment, Sequence[Payment]], bool],
    ) -> None:
        findings = self._ledger.findings
        if answer is None or earlier is None:
            findings["velocity"].unjudged += 1
            return
        findings.checked("velocity")
        if differs(answer, payment, earlier):
            findings.broken(
                "velocity", self._ledger.promise.topic, self._stretch.partition, payment.offset,
                "features that the log does not give",
            )  # fmt: skip

    def _walk(
        self, payments: Sequence[Payment], reach: int
    ) -> Iterator[tuple[Payment, Answer | None, Sequence[Payment] | None]]:
        """
        Yield each payment of an owner that was scored, what was said of it, and the payments that
        it is measured with; None where nobody can tell.
        """
        history = History()
        for payment in payments:
            row = self._stretch.row(payment.offset)
            flags = int(row["flags"])
            if not row["predictions"]:
                history.doubtful |= bool(flags & DOUBTFUL) or not row["letters"]
                continue
            history.doubtful |= bool(flags & HOT)
            late, latest = bool(flags & LATE), max(payment.time, int(row["watermark"]))
            earlier = history.before(payment, latest - reach - self._ledger.promise.grace)
            is_told = row["watermark"] == row["watermark_at_most"] or not late
            is_known = is_told and payment.time - reach >= self._known_after
            is_sure = is_known and not (history.doubtful or flags & COLD)
            answer = self._ledger.answers.get(Place(self._stretch.partition, payment.offset))
            yield payment, answer, earlier if is_sure else None
            history.add(payment, late=late)


def _open(rows: Rows) -> Any:
    answered = (rows["predictions"] > 0) | (rows["letters"] > 0)
    return ~answered & (rows["seen"] != TOMBSTONE)


def _judge_replays(ledger: Ledger, answers_since: float) -> None:
    """A replayed record and its first are one event, which its first place must have refused."""
    for first, attempts in ledger.replays.items():
        stretch = ledger.stretches.get(first.partition)
        if stretch is None or not stretch.has(first.offset):
            ledger.findings["replays"].unjudged += len(attempts)
            continue
        ledger.counts["superseded"] += len(attempts)
        row = stretch.row(first.offset)
        if row["letters"]:
            continue
        if row["timestamp"] < answers_since:
            ledger.findings["replays"].unjudged += len(attempts)
        else:
            for _, place in attempts:
                _not_refused(ledger, place)


def _not_refused(ledger: Ledger, place: Place) -> None:
    ledger.findings.broken(
        "replays", ledger.promise.topic, *place, "replayed, and its first was not refused"
    )
