"""The label topic as it is now, or as it was at some offsets, read once from its beginning."""

from collections.abc import Callable, Sequence
from typing import Final

from confluent_kafka import Message

from consumer.adapters.log_reader import LogReader
from consumer.core.batch import LabelsKnown
from consumer.core.labels import TerminalFrauds

_REQUEST_SECONDS: Final = 10.0


def fold_labels(
    reader: LogReader,
    frauds: TerminalFrauds,
    below: Sequence[int] | None = None,
    see: Callable[[list[Message]], None] = lambda _: None,
) -> LabelsKnown:
    """
    Fold in all labels, or those below these next offsets, one for each partition in their order.

    `see` is shown each of them. Raises KafkaException.
    """
    partitions = reader.partitions(_REQUEST_SECONDS)
    begins = reader.beginnings(partitions, _REQUEST_SECONDS)
    ends = reader.ends(partitions, _REQUEST_SECONDS)
    if below is not None:  # a partition that is newer than they are held no label then
        ends = begins | dict(zip(partitions, below, strict=False))
    for messages in reader.between({p: (begins[p], ends[p]) for p in partitions}):
        see(messages)
        frauds.add([m.value() for m in messages], [m.timestamp()[1] for m in messages])
    return LabelsKnown(tuple(ends[partition] for partition in partitions), stale=False)
