"""How long to wait for a batch to fill: as little as keeps the cost of small batches bounded."""

from dataclasses import dataclass
from typing import Final

_SHARE_OF_LAST: Final = 0.25


@dataclass(slots=True)
class BatchControl:
    """
    Chooses the size and the wait of the next batch from the last one.

    A batch that is always full needs no wait; one that is small is let grow for a quarter of the
    time that the last one took, `max_wait_seconds` at most. So batches grow with the backlog, by
    what arrives while one is worked on, and shrink to single records when the stream is quiet.
    """

    max_records: int
    max_wait_seconds: float
    _last_seconds: float = 0.0

    @property
    def wait_seconds(self) -> float:
        """Time to wait for the next batch to fill."""
        return min(self.max_wait_seconds, _SHARE_OF_LAST * self._last_seconds)

    def finished(self, seconds: float) -> None:
        """The last batch took so long from poll to commit."""
        self._last_seconds = seconds
