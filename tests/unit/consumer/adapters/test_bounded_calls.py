"""Calls that may never return."""

import gc
import threading
import weakref
from contextlib import suppress

import pytest

from consumer.adapters.bounded_calls import BoundedCalls


@pytest.fixture
def calls():
    """Ended after the test, whatever became of its calls."""
    made = BoundedCalls()
    yield made
    made.close()


def test_a_call_is_made_with_its_arguments(calls):
    """When `make` returns, it is done."""
    done = []

    calls.make(done.extend, [1, 2], within_seconds=10)

    assert done == [1, 2]


def test_what_a_call_raises_is_raised_where_it_was_made(calls):
    """And another call may follow."""
    with pytest.raises(ValueError, match="invalid literal"):
        calls.make(int, "x", within_seconds=10)  # type: ignore[arg-type]

    calls.make(str, within_seconds=10)  # type: ignore[arg-type]


def test_a_call_that_does_not_return_is_left_behind(calls):
    """Nor is another one made, which would have to wait for it, or be taken for it."""
    let_go = threading.Event()
    with pytest.raises(TimeoutError):
        calls.make(let_go.wait, within_seconds=0.05)

    done = []
    with pytest.raises(TimeoutError):
        calls.make(done.append, 1, within_seconds=10)

    assert calls.is_stuck
    let_go.set()
    assert done == []


class Client:
    """What calls are made of."""

    def fail(self) -> None:
        raise ValueError("refused")


def test_nothing_of_a_call_is_held_when_it_is_over(calls):
    """A client ends when its owner drops it, even if its last call failed: no cycle keeps it."""
    client = Client()
    alive = weakref.ref(client)
    gc.disable()
    try:
        with suppress(ValueError):
            calls.make(client.fail, within_seconds=10)
        del client

        assert alive() is None
    finally:
        gc.enable()
