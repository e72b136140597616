"""How fast the clock of the payments runs, and how many of them may be produced in a second."""

import math
import time
from collections.abc import Callable
from typing import Final

from producer_sim.timeline import FOREVER

_BURST_SECONDS: Final = 0.05


class Pace:
    """
    Says up to when payments are due and how many may go now.

    `speed` is seconds of the payments' clock per second of ours, inf for as fast as the broker
    takes them; `rate` bounds payments per second, inf for no bound.
    """

    def __init__(
        self, speed: float, rate: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._speed = speed
        self._rate = rate
        self._clock = clock
        self._burst_seconds = max(_BURST_SECONDS, 1 / rate)
        self._started = clock()
        self._start_time = 0
        self._paid_until = self._started - self._burst_seconds

    def start(self, event_time: int) -> None:
        """Let the clock of the payments run from `event_time` (microseconds), now."""
        self._started = self._clock()
        self._start_time = event_time

    def horizon(self) -> int:
        """Return what the clock of the payments shows, in microseconds."""
        if math.isinf(self._speed):
            return FOREVER
        elapsed_seconds = self._clock() - self._started
        return self._start_time + int(elapsed_seconds * self._speed * 1_000_000)

    def allowance(self) -> float:
        """Return how many payments the rate allows now."""
        if math.isinf(self._rate):
            return math.inf
        unused_seconds = min(self._clock() - self._paid_until, self._burst_seconds)
        return math.floor(unused_seconds * self._rate + 1e-9)

    def spend(self, payments: int) -> None:
        """Count payments against the rate; time that nobody used is not saved up."""
        earliest = self._clock() - self._burst_seconds
        self._paid_until = max(self._paid_until, earliest) + payments / self._rate


def parse_speed(text: str) -> float:
    """
    Read `1` (real time), `60` (60 times real time) or `max`, as seconds per second.

    Raises ValueError with a sentence for anything else.
    """
    if text == "max":
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < math.inf:
        raise ValueError(f"{text!r} is not a speed: write 1 for real time, 60 for 60 times, or max")
    return speed
