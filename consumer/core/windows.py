"""
Velocity state of one partition: each card's payments in exact sliding windows, with a way back.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.core import windows_kernel as kernel
from consumer.core.pages import ChangedPages
from consumer.records import Bools, Longs

_FIRST_CARDS: Final = 1_024
_INDEX_BYTES: Final = 32  # of a card, at most: four slots
_EVICTED_AT_ONCE: Final = 8  # one in so many cards
_ROW_WORDS: Final = (kernel.CARD_WORDS, kernel.BLOCK_WORDS, kernel.ENTRIES)
"""Of a row of each table but the header; the last has a row for each block."""

HOUR: Final = 3_600_000_000
EXACT_PAYMENTS: Final = 315 * kernel.ENTRIES
"""
4,095 payments of a card are kept one by one: some 130 a day for a month. A state that was made with
another number, or another hour, measures otherwise: to change them is to change snapshot.FORMAT.
"""


class CardWindows:
    """
    A fold over the log: what it holds depends on the payments observed and on nothing else.

    `windows` and `grace` are microseconds; a payment older than the latest one by more than the
    grace is measured but not added. Everything since the last `settle` can be taken back. With
    `max_bytes` the cards that paid longest ago are evicted between batches; 0 is no limit.

    Of each card the newest `exact` payments that are held, a multiple of kernel.ENTRIES, are told
    apart. Those before them are known by the hour they were made in, `pane` microseconds long, and
    are in a window if their whole hour is: so such a window begins up to an hour later.

    `masks` int64[v] are the parts of a word that is kept of each payment, of which those that are
    distinct can be counted; None: no word is kept.
    """

    def __init__(  # noqa: PLR0913 - what may differ between tables, and for tests
        self,
        windows: tuple[int, ...],
        grace: int,
        alert_window: int,
        max_bytes: int = 0,
        *,
        exact: int = EXACT_PAYMENTS,
        pane: int = HOUR,
        masks: Longs | None = None,
    ) -> None:
        self._windows = np.array(sorted(windows), np.int64)
        self._grace = grace
        self._alert_window = alert_window
        self._max_bytes = max_bytes
        self._exact = exact
        self._pane = pane
        self._masks = masks
        self._header = np.zeros(kernel.HEADER_WORDS, np.int64)
        self._header[kernel.WATERMARK] = kernel.NEVER
        self._header[kernel.FREE_BLOCK] = kernel.NONE
        self._header[kernel.COLD_UNTIL] = kernel.NEVER
        # Zeroed, since snapshots hold what was never written too: it may not be anybody's memory.
        self._cards = np.zeros(_FIRST_CARDS * kernel.CARD_WORDS, np.int64)
        self._blocks = np.zeros(_FIRST_CARDS * kernel.BLOCK_WORDS, np.int64)
        self._words = np.zeros(0 if masks is None else _FIRST_CARDS * kernel.ENTRIES, np.int64)
        self._seen = np.zeros(0 if masks is None else 1 + 2 * _slots(exact, len(masks)), np.int64)
        self._index = np.full(2 * _FIRST_CARDS, kernel.NONE, np.int64)
        self._undo = np.empty((16 * _FIRST_CARDS, 2), np.int64)
        self._logged = 0
        self._index_rebuilt = False
        self._followed: ChangedPages | None = None

    @property
    def watermark(self) -> int:
        """Latest event time observed, microseconds; far in the past before the first."""
        return int(self._header[kernel.WATERMARK])

    @property
    def card_count(self) -> int:
        """Cards that the state holds a row for."""
        return int(self._header[kernel.CARD_COUNT])

    @property
    def payment_count(self) -> int:
        """Payments that the state holds one by one, some of them older than every window."""
        return int(self._header[kernel.ENTRY_COUNT])

    @property
    def pane(self) -> int:
        """Length of the hours that older payments of a hot card are counted by, microseconds."""
        return self._pane

    @property
    def exact(self) -> int:
        """How many payments of a card are told apart."""
        return self._exact

    @property
    def cold_until(self) -> int:
        """
        Event time, microseconds, from which on no window reaches back to a payment that was
        evicted.
        """
        return int(self._header[kernel.COLD_UNTIL])

    @property
    def nbytes(self) -> int:
        """
        Bytes in use: rows, blocks that hold payments, index; not what is ready to be grown into.
        """
        blocks = int(self._header[kernel.BLOCK_COUNT] - self._header[kernel.FREE_COUNT])
        card_bytes = 8 * kernel.CARD_WORDS + _INDEX_BYTES
        block_bytes = 8 * sum(_ROW_WORDS[1 : self._table_count])
        return self.card_count * card_bytes + blocks * block_bytes

    @property
    def used(self) -> tuple[int, ...]:
        """
        Words in use of each table but the header, those of blocks given back included.
        """
        blocks = int(self._header[kernel.BLOCK_COUNT])
        rows = self.card_count, blocks, blocks
        return tuple(
            count * words
            for count, words in zip(rows, _ROW_WORDS[: self._table_count], strict=False)
        )

    @property
    def tables(self) -> tuple[Longs, ...]:
        """
        Header, cards, blocks and, where any are kept, words, which are all of the state: the index
        follows from the cards.

        Of each but the header the first `used` words mean something. They change with every batch,
        and now and then make way for larger ones.
        """
        tables = self._cards, self._blocks, self._words
        return self._header, *tables[: self._table_count]

    @property
    def _table_count(self) -> int:
        """How many tables there are behind the header."""
        return 2 if self._masks is None else 3

    def observe(  # noqa: PLR0913 - the columns of one batch
        self, rows: NDArray[np.intp], cards: Longs, times: Longs, amounts: Longs,
        fingerprints: Longs, enters: Bools, counts: Longs, sums: Longs, since: Longs | None,
        late: Bools, hot: Bools, words: Longs | None = None, distinct: Longs | None = None,
    ) -> None:  # fmt: skip
        """
        Measure and add the payments at `rows` of the columns, in that order.

        cards int64[n, 2], times (microseconds, at most LATEST_TIME) and amounts int64[n],
        fingerprints int64[n] of the event ids, or NO_FINGERPRINT, enters bool[n]. Fills the same
        rows of counts and sums int64[n, windows], the payment itself included, of since int64[n],
        microseconds from the one before, the longest window at most, unless it is None, and of late
        bool[n]; sets hot bool[n] where the longest window reaches back to the oldest payment that
        is told apart, or beyond.

        With masks, `words` int64[n] are kept of the payments too, and `distinct` int64[n, v, d] is
        filled: how many different parts of words, the payment's own among them, the d shortest
        windows have. A part that is 0 is none; payments that are not told apart have none.

        A card's payment of equal time, amount and fingerprint as one that is told apart is the same
        one, come again: it is measured over the payments before the first, and is not added.
        """
        self._make_room_for_cards(len(rows))
        done = 0
        while done < len(rows):
            done, self._logged = kernel.observe(
                self._header, self._index, self._cards, self._blocks, self._undo, self._logged,
                done, rows, cards, times, amounts, fingerprints, enters, self._windows,
                self._grace, self._exact, self._pane, counts, sums, since,
                None if self._masks is None
                else (self._words, words, self._masks, self._seen, distinct),
                late, hot,
            )  # fmt: skip
            self._grow_what_is_full(len(rows) - done)

    def open_alerts(self, cards: Longs, times: Longs, late: Bools) -> Bools:
        """
        Say which of these payments, in log order, raise an alert: the first of a card in a window.

        Windows are aligned to multiples of their length since 1970, so that a replay which starts
        later finds the same ones. A late payment always raises one, with the id of the first: idle
        cards are dropped, so nobody can tell any more. cards int64[k, 2], times int64[k], late
        bool[k].
        """
        opened = np.zeros(len(times), np.bool_)
        self._make_room_for_cards(len(times))
        done = 0
        while done < len(times):
            done, self._logged = kernel.open_alerts(
                self._header, self._index, self._cards, self._blocks, self._undo, self._logged,
                done, cards, times // self._alert_window, late, opened,
            )  # fmt: skip
            self._grow_what_is_full(len(times) - done)
        return opened

    @property
    def oldest_that_count(self) -> tuple[int, int]:
        """The least stamp of a payment, and window of an alert, that one in time can still meet."""
        oldest_kept = self.watermark - int(self._windows[-1]) - self._grace
        oldest_stamp = max(oldest_kept, kernel.EARLIEST_TIME) + 1 << kernel.FINGERPRINT_BITS
        return oldest_stamp, (self.watermark - self._grace) // self._alert_window

    @property
    def is_settled(self) -> bool:
        """Say whether nothing was observed since the last `settle` or `roll_back`."""
        return self._logged == 0

    def take_over(self, header: Longs, *tables: Longs) -> None:
        """
        Go on in the tables of another, of the same windows and masks, which are ours from now on.

        Raises ValueError if they cannot be a state: tables too many or too few, counts beyond them,
        or chains that lead out of them.
        """
        if len(tables) != self._table_count:
            raise ValueError(f"there are {len(tables)} tables and not {self._table_count}")
        cards, blocks, words = (*tables, self._words)[: len(_ROW_WORDS)]
        used = header[kernel.CARD_COUNT], header[kernel.BLOCK_COUNT], header[kernel.BLOCK_COUNT]
        for count, table, row_words in zip(used, tables, _ROW_WORDS, strict=False):
            if not 0 <= count <= len(table) // row_words:
                raise ValueError("the tables are not as long as the header says")
        rows = len(words) // kernel.ENTRIES, len(blocks) // kernel.BLOCK_WORDS
        if self._masks is not None and rows[0] < rows[1]:
            raise ValueError("the table of words has not a row for each block")
        if not kernel.is_sound(header, cards, blocks):
            raise ValueError("a chain of blocks leads out of its table, or round in a circle")
        self._header, self._cards, self._blocks, self._words = header, cards, blocks, words
        size = 2 * _FIRST_CARDS
        while 2 * self.card_count > size:
            size *= 2
        self._rebuild_index(size)

    def follow(self) -> ChangedPages:
        """Return the pages that a copy does not have, noted from now on until `unfollow`."""
        self._followed = ChangedPages(self.used)
        return self._followed

    def unfollow(self) -> None:
        """Note no changes any more."""
        self._followed = None

    def settle(self) -> int:
        """
        Forget the way back: what was observed is committed. Return how many cards were evicted,
        since the state was larger than it may be.
        """
        self._forget_the_way_back()
        return self._evict() if 0 < self._max_bytes < self.nbytes else 0

    def roll_back(self) -> None:
        """Return to the state of the last `settle`, bit for bit."""
        kernel.take_back(
            self._header, self._index, self._cards, self._blocks, self._words, self._undo,
            self._logged,
        )  # fmt: skip
        if self._index_rebuilt:  # the log names slots of the index before it
            self._rebuild_index(len(self._index))
        self._forget_the_way_back()

    def _forget_the_way_back(self) -> None:
        if self._followed is not None:
            self._followed.note(self._undo, self._logged, self.used)
        self._logged = 0
        self._index_rebuilt = False

    def _make_room_for_cards(self, arriving: int) -> None:
        """Keep the index at most half full; idle cards go before it grows."""
        if 2 * (self.card_count + arriving) <= len(self._index):
            return
        if self._logged == 0:
            self._drop_idle()
        size = len(self._index)
        while 2 * (self.card_count + arriving) > size:
            size *= 2
        self._rebuild_index(size)
        self._index_rebuilt = self._logged > 0

    def _drop_idle(self) -> None:
        """Remove cards whose payments and alerts no payment in time can meet any more."""
        oldest_stamp, oldest_alert = self.oldest_that_count
        rows = self._cards[: self.card_count * kernel.CARD_WORDS].reshape(-1, kernel.CARD_WORDS)
        self._keep(
            (self._newest() >= oldest_stamp) | (rows[:, kernel.ALERT_WINDOW] >= oldest_alert)
        )

    def _evict(self) -> int:
        """
        Remove the cards that paid longest ago, an eighth of them at a time, until the rest fits.

        Which ones depends on nothing but what the state holds; idle ones are not counted.
        """
        self._drop_idle()
        before = self.card_count
        while self.card_count > 0 and self.nbytes > self._max_bytes:
            newest = self._newest()
            share = len(newest) // _EVICTED_AT_ONCE
            last = int(np.partition(newest, share)[share])
            self._keep(newest > last)
            reached = (last >> kernel.FINGERPRINT_BITS) + int(self._windows[-1])
            self._header[kernel.COLD_UNTIL] = max(self.cold_until, reached)
        self._rebuild_index(len(self._index))
        return before - self.card_count

    def _newest(self) -> Longs:
        newest = np.empty(self.card_count, np.int64)
        kernel.newest_stamps(self._cards, self._blocks, newest)
        return newest

    def _keep(self, keep: Bools) -> None:
        kernel.keep_cards(self._header, self._cards, self._blocks, keep)
        if self._followed is not None:  # rows moved up, and no log says so
            self._followed.note_all(self.used)

    def _rebuild_index(self, size: int) -> None:
        self._index = np.full(size, kernel.NONE, np.int64)
        kernel.rebuild_index(self._index, self._cards, self.card_count)

    def _grow_what_is_full(self, remaining: int) -> None:
        if remaining == 0:
            return
        full = False
        if self.card_count * kernel.CARD_WORDS >= len(self._cards):
            self._cards, full = _larger(self._cards, kernel.CARD_WORDS), True
        if not kernel.has_blocks(self._header, self._blocks):
            self._blocks, full = _larger(self._blocks, kernel.BLOCK_WORDS), True
            if self._masks is not None:  # it has a row for each block
                self._words = _larger(self._words, kernel.ENTRIES)
        if not full:
            self._undo = _larger(self._undo, 1)


def _larger(table: Longs, row_words: int) -> Longs:
    """Return a copy with half as many rows again, whole ones: the kernel counts in rows."""
    rows = len(table) // row_words * 3 // 2
    grown = np.zeros((rows * row_words, *table.shape[1:]), table.dtype)
    grown[: len(table)] = table
    return grown


def _slots(exact: int, parts: int) -> int:
    """Return how many slots parts of words need to be told apart: the kernel fills half of them."""
    return 1 << (2 * (1 + parts) * (1 + exact)).bit_length()


def spacious_tables(used: tuple[int, ...]) -> list[Longs]:
    """
    Return tables of cards, blocks and words for so many words in use, with an eighth more to grow
    into. Raises ValueError for more of them than there are.
    """
    if len(used) > len(_ROW_WORDS):
        raise ValueError(f"there are {len(used)} tables")
    return [
        np.zeros((words // row_words * 9 // 8 + _FIRST_CARDS) * row_words, np.int64)
        for words, row_words in zip(used, _ROW_WORDS, strict=False)
    ]
