"""The loop around the pipeline: what follows when a batch fails, and when to stop."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from consumer.core.batching import BatchControl
from consumer.core.score import ScoreInvalidError
from consumer.core.state import VelocityState
from consumer.errors import (
    BatchAbortedError,
    FatalError,
    OutageError,
    OutputRefusedError,
    PartitionsHeldError,
)
from consumer.pipeline import Pipeline
from consumer.records import Records, Refused, Status
from consumer.telemetry import Telemetry

MOST_POISONED_IN_A_ROW: Final = 1
_SECONDS_BETWEEN_HOUSEKEEPING: Final = 5.0
_PAUSE_AFTER_ABORT_SECONDS: Final = 0.05


class Source(Protocol):
    """Where batches come from."""

    def poll(self) -> Records:
        """Return the next records, none when there are none."""

    def settled(self, records: Records, refused: Refused) -> None:
        """The batch is committed, these of it as dead letters or skips: go on after it."""

    def rewind(self, held: Sequence[int] = ()) -> None:
        """Go back to what is not settled; the partitions that are held wait there."""


class Loop:
    """
    Polls and processes until told to stop.

    A batch that fails is rolled back as a whole, and every partition still owned goes back to our
    own next offset. A failure that is no broker's is sought record by record.
    """

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline,
        state: VelocityState,
        control: BatchControl,
        telemetry: Telemetry,
        outage_limit_seconds: float,
    ) -> None:
        self._source = source
        self._pipeline = pipeline
        self._state = state
        self._control = control
        self._telemetry = telemetry
        self._outage_limit = outage_limit_seconds
        self._last_progress = self._last_poll = self._last_commit = time.monotonic()
        self._poisoned_in_a_row = 0
        self._housekeeping_due = 0.0

    @property
    def seconds_since_poll(self) -> float:
        """Time since the loop last asked for records: what liveness means."""
        return time.monotonic() - self._last_poll

    @property
    def seconds_since_progress(self) -> float:
        """Time since a batch was committed, or none was waiting."""
        return time.monotonic() - self._last_progress

    @property
    def seconds_since_commit(self) -> float:
        """Time since a batch was committed, or since the start."""
        return time.monotonic() - self._last_commit

    def run(self, keep_going: Callable[[], bool]) -> None:
        """
        Go on until `keep_going` says no, between two batches. Raises FatalError.

        Python's collector of cycles is off in here but for a run between polls: every batch makes
        tens of thousands of objects and no cycle, and the passes over them cost more than scoring.
        """
        gc.freeze()
        gc.disable()
        try:
            self._run(keep_going)
        finally:
            gc.enable()

    def _run(self, keep_going: Callable[[], bool]) -> None:
        while keep_going():
            records = self._source.poll()
            self._last_poll = time.monotonic()
            begin = time.monotonic()
            if len(records) == 0:
                self._last_progress = begin
            else:
                self._carry(records)
                self._control.finished(time.monotonic() - begin)
            self._keep_house()

    def _carry(self, records: Records) -> None:
        try:
            refused = self._pipeline.process(records)
        except BatchAbortedError as fault:
            self._take_back(fault, records)
        except FatalError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, one record of the batch brought it about
            self._state.roll_back()
            self._find_culprit(records)
        else:
            self._poisoned_in_a_row = 0
            self._done(records, refused)

    def _find_culprit(self, records: Records) -> None:
        """Process the batch again record by record; the one that fails is a dead letter."""
        for record in records.singly():
            refused: Refused | None
            try:
                refused = self._pipeline.process(record)
                self._poisoned_in_a_row = 0
            except BatchAbortedError as fault:
                self._take_back(fault, records)
                return
            except FatalError:
                raise
            except MemoryError as fault:
                self._state.roll_back()
                raise FatalError("the memory left does not suffice for one record") from fault
            except Exception as fault:  # noqa: BLE001 - this one, then
                self._state.roll_back()
                refused = self._refuse(record, fault)
                if refused is None:
                    return
            self._done(record, refused)

    def _refuse(self, record: Records, fault: Exception) -> Refused | None:
        """Dead-letter a culprit; None when even that was aborted and the batch is rewound."""
        status = Status.SCORE_INVALID if isinstance(fault, ScoreInvalidError) else Status.POISON
        before = self._poisoned_in_a_row
        if self._is_of_a_letter(fault):
            status = Status.OVERSIZE
        else:
            self._telemetry.record_poisoned(record, status, fault)
            self._poisoned_in_a_row += 1
        if self._poisoned_in_a_row > MOST_POISONED_IN_A_ROW:
            raise FatalError(
                f"two records in a row were refused as {status.reason}: the fault is not theirs"
            ) from fault
        try:
            return self._put_aside(record, status)
        except BatchAbortedError as aborted:
            self._poisoned_in_a_row = before  # it will come again
            self._take_back(aborted, record)
            return None

    def _is_of_a_letter(self, fault: Exception) -> bool:
        """Say whether what was refused is a dead letter: the record was refused before it."""
        letters = self._pipeline.dead_letter_topic
        return isinstance(fault, OutputRefusedError) and fault.topic == letters

    def _put_aside(self, record: Records, status: Status) -> Refused:
        """
        Write the letter: of a record that cannot be measured as well, and with hashes in place of
        the record where its topic takes none so large, whatever was promised of the topic.
        """
        observe = True
        while True:
            bare = status is Status.OVERSIZE
            try:
                return self._pipeline.refuse(record, status, observe=observe, bare=bare)
            except (BatchAbortedError, FatalError):
                raise
            except Exception as fault:
                self._state.roll_back()
                if not self._is_of_a_letter(fault):
                    if not observe:
                        raise
                    observe = False  # it fails before it could be observed
                elif bare:
                    raise FatalError(
                        f"not even a dead letter without its record is taken, {fault}: raise"
                        " max.message.bytes of that topic (`fraudstream topics` says how far)"
                    ) from fault
                else:
                    status = Status.OVERSIZE

    def _done(self, records: Records, refused: Refused) -> None:
        self._source.settled(records, refused)
        self._last_progress = self._last_commit = time.monotonic()

    def _take_back(self, fault: BatchAbortedError, records: Records) -> None:
        self._state.roll_back()
        held = fault.partitions if isinstance(fault, PartitionsHeldError) else ()
        self._source.rewind(held)
        if held:
            self._telemetry.partitions_held(held, str(fault))
        self._telemetry.batch_aborted(type(fault).__name__, len(records))
        if time.monotonic() - self._last_progress > self._outage_limit:
            raise OutageError(self._outage_limit)
        time.sleep(_PAUSE_AFTER_ABORT_SECONDS)

    def _keep_house(self) -> None:
        if time.monotonic() > self._housekeeping_due:
            self._housekeeping_due = time.monotonic() + _SECONDS_BETWEEN_HOUSEKEEPING
            gc.collect()
            state = self._state
            self._telemetry.state_measured(state.card_count, state.nbytes, state.evicted_count)
