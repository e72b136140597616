"""Frauds known at terminals, by label records in log order: plain lists, folded anew when asked."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

_DAY: Final = 86_400_000_000
_COUNTED: Final = {9: 1, 10: 7, 11: 30}

COUNTS: Final[Mapping[str, Mapping[int, int]]] = MappingProxyType(
    {
        name: MappingProxyType({at: days * _DAY for at, days in positions.items()})
        for name, positions in (
            ("arrival-1", _COUNTED),
            ("arrival-2", _COUNTED | {14: 3, 15: 14, 16: 21, 17: 28}),
            ("arrival-3", _COUNTED),
            ("arrival-4", _COUNTED),
        )
    }
)
"""Feature set -> position of a feature that counts frauds -> its window, microseconds."""


SHARES: Final[Mapping[str, Sequence[int]]] = MappingProxyType(
    {"handbook-1": (_DAY, 7 * _DAY, 30 * _DAY)}
)
"""Feature set whose frauds are a share of payments -> windows of the frauds, microseconds."""


@dataclass(slots=True)
class _Claim:
    """One span of time in which a payment stands as a fraud at a terminal."""

    terminal: str
    since: float
    until: float = math.inf


@dataclass(slots=True)
class _Payment:
    """The labels of one payment in log order: (partition, offset, fields)."""

    labels: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)


class KnownFrauds:
    """
    Which payments were known as frauds at which time.

    A payment counts from published_at + settle of the earliest label that calls it a fraud, until
    a label that is no fraud supersedes one of them; labels after that may claim it anew. A label
    delivered again says nothing.
    """

    def __init__(self, settle: int) -> None:
        """`settle` is in microseconds."""
        self._settle: Final = settle
        self._payments: Final[dict[str, _Payment]] = defaultdict(_Payment)
        self._payment_of_label: Final[dict[str, str]] = {}
        self._at_terminal: Final[dict[str, dict[str, None]]] = defaultdict(dict)

    def add(self, partition: int, offset: int, label: dict[str, Any]) -> None:
        """Take in the next label of its partition."""
        if label["verdict"] == "FRAUD":
            payment = label["transaction_id"]
            if label["label_id"] in self._payment_of_label:
                return
            self._payment_of_label[label["label_id"]] = payment
            self._at_terminal[label["terminal_id"]][payment] = None
        elif (superseded := self._payment_of_label.get(label["supersedes"])) is not None:
            payment = superseded
        else:
            return
        self._payments[payment].labels.append((partition, offset, label))

    def counts(
        self, terminal: str, time: int, below: Sequence[int], windows: Sequence[int]
    ) -> list[int]:
        """
        Return, for each window (microseconds), the frauds at the terminal whose label arrived in
        it before the time, of labels below these next offsets, one for each partition.
        """
        since = [
            claim.since
            for payment in self._at_terminal.get(terminal, ())
            for claim in self._claims(self._payments[payment], below)
            if claim.terminal == terminal and claim.since <= time < claim.until
        ]
        return [sum(arrival > time - window for arrival in since) for window in windows]

    def _claims(self, payment: _Payment, below: Sequence[int]) -> list[_Claim]:
        claims: list[_Claim] = []
        claim_of: dict[str, _Claim] = {}
        for partition, offset, label in payment.labels:
            if partition >= len(below) or offset >= below[partition]:
                continue
            arrival = label["published_at"] + self._settle
            if label["verdict"] != "FRAUD":
                if (superseded := claim_of.get(label["supersedes"])) is not None:
                    superseded.until = min(superseded.until, arrival)
                continue
            if not claims or claims[-1].until < math.inf:
                claims.append(_Claim(label["terminal_id"], math.inf))
            revoked = claims[-2].until if len(claims) > 1 else -math.inf
            claims[-1].since = max(min(claims[-1].since, arrival), revoked)
            claim_of[label["label_id"]] = claims[-1]
        return claims
