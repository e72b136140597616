"""Tables copied page by page while they go on changing, as a live migration copies memory."""

from dataclasses import dataclass

import numpy as np

from consumer.core import pages_kernel as kernel
from consumer.records import Bools, Longs


class ChangedPages:
    """
    Which pages of a partition's tables a copy does not have yet.

    Whoever changes the tables notes it after each batch, and hands the flags to whoever copies.
    What that one reads in the middle of a batch is worthless, and noted when the batch ends.
    """

    def __init__(self, used: tuple[int, ...]) -> None:
        """`used` are the words in use of each table: all their pages are yet to be copied."""
        self._used: tuple[int, ...] = (0,) * len(used)
        self._changed = [np.zeros(0, np.bool_) for _ in used]
        self.note_all(used)

    @property
    def count(self) -> int:
        """Pages that are yet to be copied."""
        return sum(int(np.count_nonzero(changed)) for changed in self._changed)

    def note(self, undo: Longs, logged: int, used: tuple[int, ...]) -> None:
        """
        Add what a batch changed, by its undo log, done or taken back.

        Words beyond those in use before need no entry in the log.
        """
        for table, (before, now) in enumerate(zip(self._used, used, strict=True)):
            self._widen(table, now)
            if now > before:
                self._changed[table][before // kernel.PAGE_WORDS : _pages(now)] = True
        self._used = used
        cards, blocks, words = (*self._changed, np.zeros(0, np.bool_))[:3]
        kernel.mark(undo, logged, cards, blocks, words)

    def note_all(self, used: tuple[int, ...]) -> None:
        """Everything may have changed."""
        for table, now in enumerate(used):
            self._widen(table, now)
            self._changed[table][:] = True
        self._used = used

    def take(self) -> list[Bools]:
        """Return the flags of each table's pages, and begin anew."""
        taken = self._changed
        self._changed = [np.zeros_like(changed) for changed in taken]
        return taken

    def _widen(self, table: int, used: int) -> None:
        missing = _pages(used) - len(self._changed[table])
        if missing > 0:
            wider = np.concatenate([self._changed[table], np.zeros(missing, np.bool_)])
            self._changed[table] = wider


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages of one table to copy: from the words as they lie there, or as they were gathered."""

    words: Longs
    changed: Bools
    gathered: bool

    @property
    def reach(self) -> int:
        """How many words the table of a copy must have."""
        return len(self.changed) * kernel.PAGE_WORDS

    def copy_to(self, target: Longs) -> None:
        """Copy them to their places; anyone may run meanwhile."""
        (kernel.scatter if self.gathered else kernel.copy)(self.words, self.changed, target)

    def gather(self) -> "Pages":
        """Return them as they are now, in memory of their own."""
        count = int(np.count_nonzero(self.changed))
        gathered = np.zeros(count * kernel.PAGE_WORDS, np.int64)
        kernel.gather(self.words, self.changed, gathered)
        return Pages(gathered, self.changed, gathered=True)


def _pages(words: int) -> int:
    return -(-words // kernel.PAGE_WORDS)
