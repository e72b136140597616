"""Detection quality of a scored stream, by the Handbook's protocol."""

from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from demo.outputs import Scored
from producer_sim import handbook
from training.evaluate import Fold, Quality, quality, rows_to_evaluate

FIRST_DAY: Final = date(2018, 4, 1)


def fold_of(train_first: date, test_first: date) -> Fold:
    """Return the split that trains and tests on a week from these days on, labels 7 days late."""
    return Fold((train_first - FIRST_DAY).days, (test_first - FIRST_DAY).days)


def judge(scored: Scored, fold: Fold) -> Quality | None:
    """Judge what the stream scored of the test week; None where it has no fraud to find."""
    payments = handbook.load()
    days = payments.second // handbook.DAY_SECONDS
    probabilities = _by_payment(scored, len(payments))
    is_fraud = payments.scenario > 0
    cards = payments.customer.astype(np.int64)
    rows = rows_to_evaluate(days, cards, is_fraud, fold)
    rows = rows[~np.isnan(probabilities[rows])]
    if not is_fraud[rows].any():
        return None
    return quality(days[rows], cards[rows], is_fraud[rows], probabilities[rows])


def _by_payment(scored: Scored, count: int) -> NDArray[np.float64]:
    """Return float64[count], NaN where a payment was not scored."""
    probabilities = np.full(count, np.nan)
    known = scored.rows >= 0
    probabilities[scored.rows[known]] = scored.probabilities[known]
    return probabilities
