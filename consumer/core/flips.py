"""How the decisions of two models on the same payments differ: counts, amounts, and quality."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.core.symbols import DECISIONS
from consumer.records import Bools, Longs

_CHALLENGE: Final = DECISIONS.index("CHALLENGE")


@dataclass(frozen=True, slots=True)
class Flip:
    """
    Payments that went from one decision to another.

    `amount` is in ten-thousandths of the major unit, currencies added as the windows add them.
    `reasons` counts the strongest reason of each: that of the decision which has one, the later
    where both do.
    """

    was: str
    now: str
    payments: int
    amount: int
    reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's: probabilities float64[n], decisions int64[n] of DECISIONS, reasons S3[n]."""

    probabilities: NDArray[np.float64]
    decisions: Longs
    reasons: NDArray[np.bytes_]

    def take(self, rows: NDArray[np.intp]) -> "Answers":
        """Return the answers for these rows."""
        return Answers(self.probabilities[rows], self.decisions[rows], self.reasons[rows])

    @classmethod
    def concatenate(cls, parts: Sequence["Answers"]) -> "Answers":
        """Return the answers one after the other."""
        return cls(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.decisions for part in parts]),
            np.concatenate([part.reasons for part in parts]),
        )


def matrix(was: Answers, now: Answers, amounts: Longs) -> list[Flip]:
    """
    Return every pair of decisions that occurs among n payments, those that did not change too.
    """
    reasons = np.where(now.reasons == b"", was.reasons, now.reasons)
    found = []
    for pair in np.unique(was.decisions * len(DECISIONS) + now.decisions).tolist():
        before, after = divmod(pair, len(DECISIONS))
        rows = np.flatnonzero((was.decisions == before) & (now.decisions == after))
        counted = Counter(code.decode() for code in reasons[rows].tolist() if code)
        found.append(
            Flip(
                DECISIONS[before], DECISIONS[after], len(rows), int(amounts[rows].sum()),
                dict(counted.most_common()),
            )
        )  # fmt: skip
    return found


def recalls(answers: Answers, is_fraud: Bools) -> dict[str, float]:
    """Return the share of frauds that reach each decision or a stricter one, by its name."""
    decisions = answers.decisions[is_fraud]
    return {
        DECISIONS[least]: float((decisions >= least).mean())
        for least in range(_CHALLENGE, len(DECISIONS))
    }
