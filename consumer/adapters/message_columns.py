"""Messages of the client -> columns."""

from operator import itemgetter
from typing import cast

import numpy as np
from confluent_kafka import Message

from consumer.records import Headers, Records

_MILLIS = itemgetter(1)  # a timestamp is (type, milliseconds)


def as_records(topic: str, messages: list[Message]) -> Records:
    """Return the records of consumed messages that carry no error, all of them live."""
    n = len(messages)

    def headers(row: int) -> Headers:
        return cast(Headers, messages[row].headers() or [])

    return Records(
        topic=topic,
        values=list(map(Message.value, messages)),
        keys=list(map(Message.key, messages)),
        partitions=np.fromiter(map(Message.partition, messages), np.int64, n),
        offsets=np.fromiter(map(Message.offset, messages), np.int64, n),
        timestamps=np.fromiter(map(_MILLIS, map(Message.timestamp, messages)), np.int64, n),
        live=np.ones(n, np.bool_),
        headers=headers,
    )
