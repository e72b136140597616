"""Tells the state which partitions it has, and finds in the log where each must start."""

from collections.abc import Callable
from typing import Final

from consumer.adapters.log_reader import LogReader
from consumer.adapters.message_columns import as_records
from consumer.core.decode import PaymentDecoder
from consumer.core.restore import SAMPLE, Plan, Reach, plan_restore
from consumer.core.state import ALWAYS, VelocityState
from consumer.telemetry import Telemetry

_REQUEST_SECONDS: Final = 5.0


class StateRestorer:
    """Observes assignments for a VelocityState."""

    def __init__(
        self, reader: LogReader, decoder: PaymentDecoder, state: VelocityState, telemetry: Telemetry
    ) -> None:
        """`reader` reads the input topic, beside the group."""
        self._reader = reader
        self._decoder = decoder
        self._state = state
        self._telemetry = telemetry

    def plan(self, partition: int, committed: int | None) -> Plan:
        """Return where to start the partition. Raises KafkaException when the broker is away."""
        low = self._reader.beginnings([partition], _REQUEST_SECONDS)[partition]
        reach = Reach(self._state.longest_window, self._state.grace, self._state.score_from)
        return plan_restore(low, committed, self._latest_time_from(partition), reach)

    def begin(self, partition: int, plan: Plan) -> None:
        """Start the partition's state empty; the records of the plan will fill it."""
        self._state.begin(partition, score_from=plan.score_from, cold_until=plan.cold_until)
        cold = plan.cold_until != ALWAYS
        self._telemetry.restore_planned(partition, plan.start, plan.live_from, cold=cold)

    def drop(self, partition: int) -> None:
        """Forget the partition's state."""
        self._state.drop(partition)

    def _latest_time_from(self, partition: int) -> Callable[[int], int | None]:
        """A record that is refused says nothing of the time: one from 2099 would hide history."""

        def latest_time(offset: int) -> int | None:
            messages = self._reader.read(partition, offset, SAMPLE)
            payments, _ = self._decoder.decode(as_records(self._reader.topic, messages))
            return int(payments.times.max()) if len(payments) else None

        return latest_time
