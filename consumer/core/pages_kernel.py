"""Pages of a table of words: which ones a batch has changed, and copying them."""

from typing import Final

import numba

from consumer.core.windows_kernel import BLOCKS, CARDS, TABLE_SHIFT, WORDS

PAGE_WORDS: Final = 64
"""Words of int64 that are copied together, 512 bytes: a payment changes two or three pages."""


@numba.njit(cache=True)
def mark(undo, logged, cards_changed, blocks_changed, words_changed):
    """Set the flag of each page that the first `logged` entries of the undo log touch."""
    address = (1 << TABLE_SHIFT) - 1
    for k in range(logged):
        table = undo[k, 0] >> TABLE_SHIFT
        page = (undo[k, 0] & address) // PAGE_WORDS
        if table == CARDS and page < cards_changed.shape[0]:
            cards_changed[page] = True
        elif table == BLOCKS and page < blocks_changed.shape[0]:
            blocks_changed[page] = True
        elif table == WORDS and page < words_changed.shape[0]:
            words_changed[page] = True


@numba.njit(cache=True, nogil=True)
def copy(words, changed, target):
    """Copy the flagged pages to where they lie in `target`, as far as both reach."""
    end = min(words.shape[0], target.shape[0])
    for page in range(changed.shape[0]):
        if changed[page]:
            for word in range(page * PAGE_WORDS, min((page + 1) * PAGE_WORDS, end)):
                target[word] = words[word]


@numba.njit(cache=True, nogil=True)
def gather(words, changed, gathered):
    """Copy the flagged pages one behind the other; what a page lacks at the end stays as it is."""
    at = 0
    for page in range(changed.shape[0]):
        if changed[page]:
            begin = page * PAGE_WORDS
            for word in range(begin, min(begin + PAGE_WORDS, words.shape[0])):
                gathered[at + word - begin] = words[word]
            at += PAGE_WORDS


@numba.njit(cache=True, nogil=True)
def scatter(gathered, changed, target):
    """Put pages that were gathered where they lie in `target`, as far as it reaches."""
    at = 0
    for page in range(changed.shape[0]):
        if changed[page]:
            begin = page * PAGE_WORDS
            for word in range(begin, min(begin + PAGE_WORDS, target.shape[0])):
                target[word] = gathered[at + word - begin]
            at += PAGE_WORDS
