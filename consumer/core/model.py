"""The Model port: what scores rows."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Model(Protocol):
    """What scores rows: QuickScorer, or an engine of the adapters."""

    @property
    def engine(self) -> str:
        """Name of the engine, as manifest and metrics have it."""

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return float64[n], the probability of fraud of each row of float32[n, features]."""
