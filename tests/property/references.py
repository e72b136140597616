"""
What state must hold, in plain Python: slow, obvious, and written from the rules alone.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

NEVER = -(2**62)
Parts = tuple[int, ...]


@dataclass
class ReferenceWindows:
    """
    Each card's payments, all of them, in a list; every question is answered by walking it.

    They stand in the order of their times, and of the log where times are equal. A payment that is
    there already, with the same event id, time and amount, is measured over those before the first.

    Only the newest `exact` of them are told apart. Of the others a window knows in which hour they
    were, `pane` long, and takes an hour that begins inside it whole; of what else was kept of them
    it knows nothing.

    Alerts are a set of (card, window); one that is asked for after the grace is always opened and
    never kept, since no state has to reach back that far.
    """

    windows: Sequence[int]
    grace: int
    alert_window: int = 100
    exact: int = 10**9
    pane: int = 1
    watermark: int = NEVER
    distinct_windows: int = 0
    payments: dict[Hashable, list[tuple[int, int, Hashable, Parts]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    alerts: set[tuple[Hashable, int]] = field(default_factory=set)

    def observe(
        self, card: Hashable, time: int, amount: int, event: Hashable = None, *,
        enters: bool = True, parts: Parts = (),
    ) -> tuple[list[int], list[int], int, bool, bool, list[list[int]]]:  # fmt: skip
        """
        Return counts and sums of each window, this payment included, the time since the one before
        (the longest window where there is none, and at most), whether it is late, whether the
        longest window has `exact` payments or more between its begin and now, and of each of its
        parts how many different ones each of the shortest `distinct_windows` windows has.

        An event that is None has no id, and repeats no other. A part that is 0 is none.
        """
        is_late = time < self.watermark - self.grace
        self.watermark = max(self.watermark, time)
        gone = self.watermark - max(self.windows) - self.grace
        this, held = (time, amount, event, parts), self.payments[card]
        told_apart, folded = held[-self.exact :], held[: -self.exact]
        is_repeat = enters and event is not None and this in told_apart
        first = told_apart.index(this) if is_repeat else None
        earlier = [p for p in told_apart[:first] if p[0] <= time]
        distinct: list[list[int]] = [[] for _ in parts]
        for window in sorted(self.windows)[: self.distinct_windows]:
            begin = max(time - window, gone)
            seen = [parts, *(kept for t, *_, kept in earlier if t > begin)]
            for number, counts_of_part in enumerate(distinct):
                counts_of_part.append(len({kept[number] for kept in seen} - {0}))
        begins = [(t - t % self.pane, a, e, p) for t, a, e, p in folded]
        earlier += [p for p in begins if p[0] <= time]
        start = max(time - max(self.windows), gone)
        is_hot = len(told_apart) == self.exact and told_apart[0][0] > start
        counts, sums = [], []
        for window in sorted(self.windows):
            inside = [a for t, a, *_ in earlier if t > max(time - window, gone)]
            counts.append(len(inside) + 1)
            sums.append(sum(inside) + amount)
        lasted = [time - t for t, *_ in earlier if t > gone]
        since = min([*lasted, max(self.windows)])
        if enters and not is_late and not is_repeat:
            held.append(this)
            held.sort(key=lambda payment: payment[0])
        return counts, sums, since, is_late, is_hot, distinct

    def opens_alert(self, card: Hashable, time: int) -> bool:
        """Say whether this is the first flagged payment of its card in its window."""
        alert = (card, time // self.alert_window)
        if alert in self.alerts:
            return False
        self.alerts.add(alert)
        return True


@dataclass
class _Span:
    """From when until when a payment counts as a fraud, and at which terminal."""

    terminal: str
    start: int
    end: int = -NEVER


@dataclass
class ReferenceFrauds:
    """
    Each payment's spans as a fraud, in a list; every question is answered by walking all of them.

    A claim opens a span, or moves the start of the one that is open; a label of another verdict
    ends the span of the label that it supersedes. Spans of a payment do not overlap, and a label
    that was seen before says nothing.
    """

    settle: int
    spans: dict[str, list[_Span]] = field(default_factory=lambda: defaultdict(list))
    span_of_label: dict[str, _Span] = field(default_factory=dict)

    def add(
        self, label: str, payment: str, terminal: str, verdict: str, supersedes: str, published: int
    ) -> None:
        """Fold in a label, in log order."""
        arrival = published + self.settle
        if verdict != "FRAUD":
            if supersedes in self.span_of_label:
                span = self.span_of_label[supersedes]
                span.end = min(span.end, arrival)
            return
        if label in self.span_of_label:
            return
        spans = self.spans[payment]
        if not spans or spans[-1].end < -NEVER:
            spans.append(_Span(terminal, arrival))
        span = spans[-1]
        span.start = min(span.start, arrival)
        if len(spans) > 1:
            span.start = max(span.start, spans[-2].end)
        self.span_of_label[label] = span

    def count(self, terminal: str, time: int, window: int) -> int:
        """Count the payments that stand as frauds at the time, and have since within the window."""
        return sum(
            span.terminal == terminal and time - window < span.start <= time < span.end
            for spans in self.spans.values()
            for span in spans
        )
