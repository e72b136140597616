import math

import pytest

from producer_sim.pace import Pace, parse_speed
from producer_sim.timeline import FOREVER


class ManualClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(("speed", "shown"), [(1, 1_000_000 + 10_000_000), (60, 601_000_000)])
def test_the_clock_of_the_payments_runs_at_its_speed(speed, shown):
    """Speed is their seconds per second of ours, from the start on."""
    clock = ManualClock()
    pace = Pace(speed, clock=clock)
    clock.seconds = 5
    pace.start(1_000_000)

    clock.seconds += 10

    assert pace.horizon() == shown


def test_at_full_speed_everything_is_due():
    """`max` waits for no time, only for the broker."""
    pace = Pace(math.inf)

    assert pace.horizon() == FOREVER
    assert pace.allowance() == math.inf


def test_the_rate_bounds_every_second():
    """However often it is asked, no more payments are allowed than the rate gives."""
    clock = ManualClock()
    pace = Pace(math.inf, rate=1_000, clock=clock)
    payments = 0
    for _ in range(10_000):
        allowed = int(pace.allowance())
        pace.spend(allowed)
        payments += allowed
        clock.seconds += 0.001

    assert payments == pytest.approx(10_000, rel=0.01)


def test_a_pause_is_not_made_up_for():
    """After a pause the rate holds as before: a bound that bursts is none."""
    clock = ManualClock()
    pace = Pace(math.inf, rate=1_000, clock=clock)

    clock.seconds += 3_600

    assert pace.allowance() == 50


def test_a_rate_below_one_a_second_lets_single_payments_through():
    """Half a payment a second is one every two seconds."""
    clock = ManualClock()
    pace = Pace(math.inf, rate=0.5, clock=clock)
    pace.spend(int(pace.allowance()))
    assert pace.allowance() == 0

    clock.seconds += 2

    assert pace.allowance() == 1


@pytest.mark.parametrize(("text", "speed"), [("1", 1), ("60", 60), ("0.5", 0.5), ("max", math.inf)])
def test_a_speed_is_read(text, speed):
    """A speed is a number of times real time, or max."""
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "fast"])
def test_what_is_not_a_speed_is_refused(text):
    """The message says what to write."""
    with pytest.raises(ValueError, match="write 1 for real time"):
        parse_speed(text)
