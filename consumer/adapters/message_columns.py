"""Messages of the client -> columns."""

from collections.abc import Callable
from operator import itemgetter, methodcaller
from typing import Final

import numpy as np
from confluent_kafka import Message

from consumer.records import Headers, Records

_MILLIS = itemgetter(1)  # a timestamp is (type, milliseconds)
_HEADERS: Final[Callable[[Message], Headers | None]] = methodcaller("headers")


def as_records(topic: str, messages: list[Message]) -> Records:
    """Return the records of consumed messages that carry no error, all of them live."""
    n = len(messages)
    unreadable: set[int] = set()

    def headers(row: int) -> Headers | None:
        found = None if row in unreadable else headers_of(messages[row])
        if found is None:
            unreadable.add(row)
        return found

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


def headers_of(message: Message) -> Headers | None:
    """
    Return a record's headers; None where a name is no UTF-8, which the client cannot give us.

    confluent-kafka 2.16 then sets an exception and answers all the same, with a list that has a
    hole: whoever walks it crashes the process. A method that is called by its name from C is held
    to one of the two, and the exception is raised; a call that the interpreter has specialised is
    not. Such a message must not be asked again: it has only the list left.
    """
    try:
        return _HEADERS(message) or []
    except (SystemError, UnicodeDecodeError):
        return None
