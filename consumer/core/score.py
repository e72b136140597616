"""Rows -> probabilities, through the Model port."""

import numpy as np
from numpy.typing import NDArray

from consumer.core.model import Model


class ScoreInvalidError(Exception):
    """The model answered something that is no probability."""


def score(rows: NDArray[np.float32], model: Model) -> NDArray[np.float64]:
    """
    Return the probability of each row.

    Raises ScoreInvalidError when one is no number from 0 to 1: the caller finds the row by
    replaying the batch record by record.
    """
    if len(rows) == 0:
        return np.empty(0, np.float64)
    probabilities = np.asarray(model.score(rows), np.float64)
    if probabilities.shape != (len(rows),):
        raise ScoreInvalidError(f"{len(rows)} rows gave {probabilities.shape} probabilities")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ScoreInvalidError("the model gave a probability outside 0 to 1, or NaN")
    return probabilities
