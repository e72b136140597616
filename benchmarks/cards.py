"""
What many cards cost, and what other feature sets: CPU per event of the feature step, and bytes of
state per card. And what one card of very many payments does.

The state is written straight into the tables, since streaming it would take an hour.
"""

import statistics
import time
from collections.abc import Mapping
from typing import Final, TypeVar

import numba
import numpy as np

import schemas
from consumer.core import windows_kernel as kernel
from consumer.core.batch import Events, Text
from consumer.core.feature_sets import ARRIVAL_1, ARRIVAL_3, ARRIVAL_4, FeatureSet
from consumer.core.features import FeatureStep
from consumer.core.labels import TerminalFrauds
from consumer.core.state import Totals, VelocityState
from consumer.core.windows import CardWindows
from consumer.core.words import MASKS, masks_of, words_of
from consumer.records import Longs

SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000)
BATCH: Final = 5_000
PAYMENTS: Final = 20
PAYMENTS_IN_30_DAYS: Final = 78
_SETS: Final = (ARRIVAL_1, ARRIVAL_3, ARRIVAL_4)
_TERMINALS: Final = 40
"""That a card pays at: as many as are distinct among 78 payments of the Handbook's."""
_BATCHES: Final = 12
_DAY: Final = 86_400_000_000
_NOW: Final = 1_577_836_800_000_000  # 2020-01-01
Name = TypeVar("Name", int, str)
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)


def cost_of_cards(rounds: int, sizes: tuple[int, ...] = SIZES) -> dict[int, float]:
    """
    Return CPU microseconds per event of the feature step by number of cards, median of the rounds.

    The states stand side by side and are asked in turn, batches of random cards, so that a busy
    machine is busy for all of them. A first round loads the kernels and is left out.
    """
    return _in_turn({size: Step(size) for size in sizes}, rounds)


def cost_of_sets(rounds: int, cards: int = SIZES[0]) -> dict[str, float]:
    """
    Return CPU microseconds per event of the feature step by feature set, median of the rounds, in
    turn; the sets are those whose kernels differ.
    """
    return _in_turn({each.name: Step(cards, each) for each in _SETS}, rounds)


def _in_turn(steps: Mapping[Name, "Step"], rounds: int) -> dict[Name, float]:
    costs: dict[Name, list[float]] = {name: [] for name in steps}
    for number in range(1 + rounds):
        for name, step in steps.items():
            costs[name].append(step.cost(np.random.default_rng(number)))
    return {name: statistics.median(found[1:]) for name, found in costs.items()}


def bytes_per_card(days: int, cards: int = 10_000, feature_set: FeatureSet = ARRIVAL_1) -> float:
    """
    Return bytes of state, index included, of a card after `days` of 78 payments in 30 days each.

    After 30 days it holds all of them; after more, also blocks that are not yet given back.
    """
    rng = np.random.default_rng(0)
    plan = feature_set.plan["card"]
    windows = CardWindows(plan.windows, _DAY, _DAY, masks=masks_of(plan.of) if plan.of else None)
    n = cards * days * PAYMENTS_IN_30_DAYS // 30
    events = events_of(rng.permutation(np.arange(n) % cards))
    times = _NOW + np.sort(rng.integers(0, days * _DAY, n))
    totals, flags = Totals.empty(plan, n), np.empty(n, np.bool_)
    for begin in range(0, n, BATCH):
        windows.observe(
            np.arange(begin, min(begin + BATCH, n)), events.cards, times, events.amounts,
            events.fingerprints, np.ones(n, np.bool_), totals.counts, totals.sums, totals.since,
            flags, flags, words_of(events, plan.of), totals.distinct,
        )  # fmt: skip
        windows.settle()
    return windows.nbytes / windows.card_count


def cost_of_a_hot_card(rounds: int, payments: int = 100_000) -> dict[str, float]:
    """
    Return CPU microseconds a payment of a card with so many in its 30 days: of one whose older
    payments are known by the hour, of one where all are kept one by one, and of the former where
    terminals and countries are counted too. Median of the rounds, in turn.
    """
    plan = ARRIVAL_4.plan["card"]
    cards = {
        "by_the_hour": CardWindows(plan.windows, _DAY, _DAY),
        "one_by_one": CardWindows(plan.windows, _DAY, _DAY, exact=10**9),
        "distinct": CardWindows(plan.windows, _DAY, _DAY, masks=masks_of(plan.of)),
    }
    n = payments + BATCH
    events = events_of(np.zeros(n, np.int64))
    times = _NOW + np.arange(n) * (30 * _DAY // payments)
    words = _places(np.random.default_rng(0), n)
    totals, flags = Totals.empty(plan, n), np.empty(n, np.bool_)
    costs: dict[str, list[float]] = {way: [] for way in cards}

    def observe(windows: CardWindows, begin: int, end: int) -> float:
        began = time.thread_time()
        windows.observe(
            np.arange(begin, end), events.cards, times, events.amounts,
            np.arange(n) & kernel.FINGERPRINTS, np.ones(n, np.bool_), totals.counts, totals.sums,
            None, flags, flags, words, totals.distinct,
        )  # fmt: skip
        return 1e6 * (time.thread_time() - began) / (end - begin)

    for windows in cards.values():
        for begin in range(0, payments, BATCH):
            observe(windows, begin, min(begin + BATCH, payments))
            windows.settle()
    for _ in range(rounds):
        for way, windows in cards.items():
            costs[way].append(observe(windows, payments, n))
            windows.roll_back()
    return {way: statistics.median(found) for way, found in costs.items()}


class Step:
    """The feature step over one partition of so many cards, 20 payments each within 30 days."""

    def __init__(self, cards: int, feature_set: FeatureSet = ARRIVAL_1) -> None:
        self.cards = cards
        self.state = VelocityState(feature_set.plan, grace=_DAY, alert_window=_DAY)
        self.state.begin(0)
        windows = self.state.tables(0)["card"]
        size = 1 << (2 * (cards + BATCH) - 1).bit_length()
        blocks = -(-PAYMENTS // kernel.ENTRIES)
        windows._cards = np.empty((cards + BATCH) * kernel.CARD_WORDS, np.int64)
        windows._blocks = np.empty((cards * blocks + BATCH) * kernel.BLOCK_WORDS, np.int64)
        if feature_set.attributes:
            rows = len(windows._blocks) // kernel.BLOCK_WORDS
            windows._words = _places(np.random.default_rng(0), rows * kernel.ENTRIES)
        windows._index = np.full(size, kernel.NONE, np.int64)
        windows._header[kernel.WATERMARK] = _NOW
        _fill(windows._header, windows._cards, windows._blocks, cards)
        kernel.rebuild_index(windows._index, windows._cards, cards)
        frauds = TerminalFrauds([schemas.load("label")], settle_seconds=0)
        self.step = FeatureStep(feature_set, self.state, frauds)

    def cost(self, rng: np.random.Generator) -> float:
        """Measure batches of random cards; each is rolled back, so the state stays as it is."""
        spent = []
        for _ in range(_BATCHES):
            events = events_of(rng.integers(0, self.cards, BATCH))
            begin = time.thread_time()
            self.step.measure(events)
            spent.append(time.thread_time() - begin)
            self.state.roll_back()
        return 1e6 * statistics.median(spent) / BATCH


def events_of(cards: Longs) -> Events:
    """Return one payment now of each of these cards."""
    n = len(cards)
    zeros, nothing = np.zeros(n, np.int64), np.empty((0, n), np.int64)
    return Events(
        rows=np.arange(n),
        partitions=zeros,
        offsets=np.arange(n),
        live=np.ones(n, np.bool_),
        times=_NOW + np.arange(n),
        kinds=np.ones(n, np.int64),
        amounts=np.full(n, 500_000),
        amounts_minor=np.full(n, 5_000),
        utc_offset_minutes=zeros,
        cards=_hashes_of(cards),
        terminals=_hashes_of(cards % 10_000),
        fingerprints=cards & kernel.FINGERPRINTS,
        countries=zeros,
        text=Text((), np.zeros(1, np.uint8), nothing, nothing),
    )


def _places(rng: np.random.Generator, n: int) -> Longs:
    """Return the words of n payments at a card's terminals, one in ten of them abroad."""
    terminals = _hashes_of(rng.integers(0, _TERMINALS, n))[:, 0]
    countries = np.where(terminals % 10 == 0, int.from_bytes(b"FR"), int.from_bytes(b"BE"))
    return terminals & MASKS["terminal"] | countries


def _hashes_of(numbers: Longs) -> Longs:
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * _SPREAD
    mixed ^= mixed >> np.uint64(29)
    return np.stack([mixed, ~mixed], axis=1).view(np.int64)


@numba.njit  # not cached: numba would not notice that a table has changed
def _fill(header, cards, blocks, count):  # type: ignore[no-untyped-def] # a kernel
    """Give each card 20 payments in the 30 days before now; its blocks lie far from each other."""
    for row in range(count):
        card = row * kernel.CARD_WORDS
        mixed = np.uint64(row + 1) * _SPREAD
        mixed ^= mixed >> np.uint64(29)
        cards[card + kernel.HASH_A] = np.int64(mixed)
        cards[card + kernel.HASH_B] = np.int64(~mixed)
        cards[card + kernel.NEWEST] = kernel.NONE
        cards[card + kernel.FILL] = 0
        cards[card + kernel.TOTAL] = 0
        cards[card + kernel.ALERT_WINDOW] = kernel.NEVER
        cards[card + kernel.ALERT_MASK] = 0
        block = kernel.NONE
        for number in range(PAYMENTS):
            at = number % kernel.ENTRIES
            if at == 0:
                block = number // kernel.ENTRIES * count + row
                blocks[block * kernel.BLOCK_WORDS + kernel.OLDER] = cards[card + kernel.NEWEST]
                cards[card + kernel.NEWEST] = block
            place = block * kernel.BLOCK_WORDS + kernel.FIRST + at * kernel.ENTRY_WORDS
            ago = (PAYMENTS - number) * (30 * _DAY // PAYMENTS) - np.int64(mixed % np.uint64(_DAY))
            blocks[place + kernel.STAMP] = (_NOW - ago) << kernel.FINGERPRINT_BITS | number
            blocks[place + kernel.BEFORE] = cards[card + kernel.TOTAL]
            cards[card + kernel.TOTAL] += 500_000
            cards[card + kernel.FILL] = at + 1
    header[kernel.CARD_COUNT] = count
    header[kernel.BLOCK_COUNT] = -(-PAYMENTS // kernel.ENTRIES) * count
    header[kernel.ENTRY_COUNT] = PAYMENTS * count
