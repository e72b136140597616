"""
Where an interrupted run goes on: told by the topics themselves, no state is kept elsewhere.

An idempotent producer fills each partition in order, so a partition holds the first so many of
the records that belong there, and its last record tells which come next.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producer_sim.errors import SimulationError
from producer_sim.events import row_of
from producer_sim.properties import IN_FLIGHT_MAX
from producer_sim.publish import Writer
from producer_sim.timeline import Lane, Numbers, Times


@dataclass(frozen=True, slots=True)
class Series:
    """All records that belong in one topic; a column has an entry for each of their numbers."""

    topic: str
    lane: Lane
    """Those of them that are asked for."""
    writer: Writer
    row: Numbers
    """The row of the payment that the record speaks of."""
    time: Times
    partition: NDArray[np.int32]
    """Where the record's key puts it."""
    partition_count: int


def rest_of(
    payments: Series,
    labels: Series,
    last_payments: dict[int, bytes],
    last_labels: dict[int, bytes],
) -> tuple[Lane, Lane]:
    """
    Return which payments and labels are still to be published, given each partition's last value.

    Raises SimulationError where the topics cannot be one interrupted run of this simulation.
    """
    payments_done = _last_numbers(payments, last_payments)
    payments_left = payments.lane.after(payments_done, payments.partition)
    labels_left = labels.lane.after(_last_numbers(labels, last_labels), labels.partition)
    newest = int(payments_done.max())
    passed_over = np.count_nonzero(payments_left.numbers < newest)
    # A kill loses no more than was in flight, and no payment is out before a label of its time.
    too_late = labels_left.through(int(payments.time[newest])) if newest >= 0 else 0
    if passed_over > IN_FLIGHT_MAX or too_late:
        raise SimulationError(
            f"{payments.topic} and {labels.topic} hold other records than one interrupted run "
            "leaves: give the --from of that run, or use new topics"
        )
    return payments_left, labels_left


def _last_numbers(series: Series, last_values: dict[int, bytes]) -> NDArray[np.int64]:
    """Return the number of each partition's last record, -1 where it holds none."""
    last = np.full(series.partition_count, -1, np.int64)
    for partition, value in last_values.items():
        last[partition] = _number(series, partition, value)
    return last


def _number(series: Series, partition: int, value: bytes) -> int:
    """Return which record of the series this is, if this run would write it just so."""
    [numbers] = np.nonzero(series.row == row_of(value))
    if not len(numbers) or series.writer.values(numbers) != [value]:
        raise SimulationError(
            f"{series.topic} was written with another --seed or --labels, or by another version: "
            "give the options of that run, or use new topics"
        )
    number = int(numbers[0])
    if series.partition[number] != partition:
        raise SimulationError(
            f"{series.topic} was written with another number of partitions or another partitioner "
            "than murmur2: use new topics"
        )
    return number
