"""Rows -> probabilities, through the Model port."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.core.model import Model

_ROUNDING: Final = 1e-6


class ScoreInvalidError(Exception):
    """The model answered something that is no probability."""


def score(rows: NDArray[np.float32], model: Model) -> NDArray[np.float64]:
    """
    Return the probability of each row; what rounding put beside 0 or 1 is put on it.

    Raises ScoreInvalidError when one is no number from 0 to 1: the caller finds the row by
    replaying the batch record by record.
    """
    if len(rows) == 0:
        return np.empty(0, np.float64)
    probabilities = np.asarray(model.score(rows), np.float64)
    if probabilities.shape != (len(rows),):
        raise ScoreInvalidError(f"{len(rows)} rows gave {probabilities.shape} probabilities")
    lowest, highest = probabilities.min(), probabilities.max()
    if not (lowest >= -_ROUNDING and highest <= 1 + _ROUNDING):
        raise ScoreInvalidError("the model gave a probability outside 0 to 1, or NaN")
    return probabilities if lowest >= 0 and highest <= 1 else probabilities.clip(0, 1)
