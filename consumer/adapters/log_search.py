"""Find one record in a topic that has no index: outwards from where it should be."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from confluent_kafka import Message

from consumer.adapters.log_reader import LogReader

REQUEST_SECONDS: Final = 10.0
_CHUNK: Final = 20_000

Progress = Callable[[int, int], None]
"""Told how many offsets were looked at, and how many there are."""


class SearchTimeoutError(Exception):
    """Time was up before all was looked at."""


def search(
    reader: LogReader,
    is_wanted: Callable[[Message], bool],
    origins: Mapping[int, int],
    tell: Progress,
    within_seconds: float = float("inf"),
) -> Message | None:
    """
    Return the first record found that is wanted, looking outwards from an offset of each partition.

    None when there is none. Raises SearchTimeoutError, and KafkaException.
    """
    deadline = time.monotonic() + within_seconds
    begins = reader.beginnings(origins, REQUEST_SECONDS)
    ends = reader.ends(origins, REQUEST_SECONDS)
    total, seen = sum(ends[p] - begins[p] for p in origins), 0
    for ranges in _outwards(origins, begins, ends):
        for messages in reader.between(ranges):
            for message in messages:
                if is_wanted(message):
                    return message
            if time.monotonic() > deadline:
                raise SearchTimeoutError
        seen += sum(end - begin for begin, end in ranges.values())
        tell(seen, total)
    return None


def _outwards(
    origins: Mapping[int, int], begins: Mapping[int, int], ends: Mapping[int, int]
) -> Iterator[dict[int, tuple[int, int]]]:
    """Yield ranges that cover all there is, those near the origins first, on both sides in turn."""
    reach = max((max(ends[p] - origins[p], origins[p] - begins[p]) for p in origins), default=0)
    for distance in range(0, reach, _CHUNK):
        for near, far in ((distance, distance + _CHUNK), (-distance - _CHUNK, -distance)):
            ranges = {
                p: (max(begins[p], at + near), min(ends[p], at + far)) for p, at in origins.items()
            }
            ranges = {p: (begin, end) for p, (begin, end) in ranges.items() if begin < end}
            if ranges:
                yield ranges
