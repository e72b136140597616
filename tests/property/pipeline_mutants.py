"""
Payments tampered with, by the hundred, through decoder, pipeline and loop: counts must add up, and
the payments between them be scored as if they were alone.

A module of its own, so that a crash of a kernel ends a child process and not the test run:
`python -m tests.property.pipeline_mutants SEED RECORDS`.
"""

import json
import random
import sys
from collections import Counter
from typing import Any

import numpy as np

from consumer.records import Records
from tests.builders import JANUARY, decoded, encoded, payment, records_of
from tests.fakes import FixedModel, taken
from tests.property.avro_random import mutated
from tests.unit.consumer.rig import AMOUNT, Rig

HEADER = 10
BATCH = 500
GOOD_EVERY = 25
GOOD_CARD = b"good"
ODD_KEYS = (None, b"", b"another", b"\xff" * 300)


class _ByAmount(FixedModel):
    """The fixed model of the rig for a whole column."""

    def __init__(self) -> None:
        super().__init__(lambda _: 0.0)

    def score(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, AMOUNT].astype(np.float64) / 254


def survives(seed: int, count: int) -> Counter[str]:
    """Process so many tampered records; return how many came to what. Raises AssertionError."""
    draw = random.Random(seed)
    whole, alone = Rig(_ByAmount()), Rig(_ByAmount())
    valid = [_valid(draw, number) for number in range(40)]
    outcomes: Counter[str] = Counter()
    tampered = offset = 0
    while tampered < count:
        batch, good = _batch(draw, valid, offset)
        whole.run(batch, batch=len(batch))
        alone.pipeline.process(taken(batch, good))
        assert _of_good_card(whole) == _of_good_card(alone), f"seed {seed}, offset {offset}"
        tombstones = batch.values.count(None)
        found = Counter(whole.dead_letters.values())
        found["scored"] = len(whole.sink.to("transactions.scored")) - len(good)
        found["tombstone"] = tombstones
        assert found.total() + len(good) == len(batch), f"seed {seed}, offset {offset}: {found}"
        assert whole.sink.committed == {0: offset + len(batch)}
        outcomes += found
        offset += len(batch)
        tampered += len(batch) - len(good)
        whole.sink.batches.clear()
        alone.sink.batches.clear()
    assert whole.value("messages_skipped_total", reason="tombstone") == outcomes["tombstone"]
    return outcomes


def _of_good_card(rig: Rig) -> list[dict[str, Any]]:
    """Return the predictions of the payments that nobody tampered with."""
    sent = rig.sink.to("transactions.scored")
    return [decoded("prediction", one.value) for one in sent if one.key == GOOD_CARD]


def _valid(draw: random.Random, number: int) -> bytes:
    optional = {
        "merchant_id": "m" * draw.randrange(20), "local_utc_offset_minutes": 60,
        "billing_amount_minor": draw.randrange(10**6), "card_present": True,
        "geo": {"lat": 1.5, "lon": -2.5}, "attributes": {"k": "v", "l": "w"},
        "device": {"device_id": "d"},
    }  # fmt: skip
    chosen = {name: value for name, value in optional.items() if draw.random() < 0.5}
    return encoded("transaction", payment(number, card_id=f"card-{number % 3}", **chosen))


def _batch(draw: random.Random, valid: list[bytes], offset: int) -> tuple[Records, list[int]]:
    """Return the next records, and which rows of them nobody tampered with."""
    values: list[bytes | None] = []
    keys: list[bytes | None] = []
    for number in range(offset, offset + BATCH):
        now = JANUARY + number * 1_000_000
        if number % GOOD_EVERY == 0:
            card = GOOD_CARD.decode()
            fields = {"card_id": card, "terminal_id": card, "event_time": now}
            values.append(encoded("transaction", payment(number, **fields)))
            keys.append(GOOD_CARD)
            continue
        at = draw.randrange(len(valid))
        is_tombstone, is_odd = draw.random() < 0.01, draw.random() < 0.02
        values.append(None if is_tombstone else mutated(valid[at], valid, draw, HEADER))
        keys.append(draw.choice(ODD_KEYS) if is_odd else f"card-{at % 3}".encode())
    offsets = list(range(offset, offset + BATCH))
    # The time of the good ones: by it is judged what a tampered one says of the future.
    timestamps = [(JANUARY + number * 1_000_000) // 1_000 for number in offsets]
    good = [row for row, number in enumerate(offsets) if number % GOOD_EVERY == 0]
    return records_of(values, keys, offsets=offsets, timestamps=timestamps), good


if __name__ == "__main__":
    sys.stdout.write(json.dumps(survives(int(sys.argv[1]), int(sys.argv[2]))))
