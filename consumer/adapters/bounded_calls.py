"""Calls that may never return, on a thread that can be left behind."""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

_Answer = SimpleQueue[Exception | None]


class BoundedCalls:
    """
    Makes calls one after the other, on a thread of its own, and waits for none beyond its time.

    After one that did not return no other is made. What it works on lives as long as it does, and
    no longer: a client that it returns from at last ends with it.
    """

    def __init__(self) -> None:
        self._made: SimpleQueue[tuple[Callable[[], None], _Answer] | None] = SimpleQueue()
        self.is_stuck = False
        """Whether a call did not return in time."""
        threading.Thread(target=self._serve, name="calls", daemon=True).start()

    def make(self, call: Callable[..., None], *args: object, within_seconds: float) -> None:
        """Make a call and raise what it raises. Raises TimeoutError if it does not return."""
        if not self.is_stuck:
            answer: _Answer = SimpleQueue()
            self._made.put((partial(call, *args), answer))
            with suppress(Empty):
                fault = answer.get(timeout=within_seconds)
                try:
                    if fault is not None:
                        raise fault
                finally:
                    del fault  # which holds this frame by its traceback, and the frame the call
                return
        self.is_stuck = True
        raise TimeoutError

    def close(self) -> None:
        """End the thread, after the call that it is in."""
        self._made.put(None)

    def _serve(self) -> None:
        while (made := self._made.get()) is not None:
            call, answer = made
            fault = _fault_of(call)
            del made, call  # nothing of it is held here when its maker goes on
            answer.put(fault)
            del fault


def _fault_of(call: Callable[[], None]) -> Exception | None:
    try:
        call()
    except Exception as fault:  # noqa: BLE001 - raised where the call was made
        return fault.with_traceback(None)
    return None
