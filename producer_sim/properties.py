"""Kafka client properties: what the user gives, and what the simulator's promises rest on."""

from pathlib import Path
from typing import Final

Properties = dict[str, str]

IN_FLIGHT_MAX: Final = 100_000
"""Records that a producer may hold unacknowledged: what a kill can leave unpublished at most."""

PRODUCER: Final[Properties] = {
    "acks": "all",
    "enable.idempotence": "true",
    # A new leader that refuses one request may take the next of a producer that it does not know;
    # the client then counts both as delivered.
    "max.in.flight.requests.per.connection": "1",
    # A record that fails for good ends the producer, so that none after it is published either:
    # a partition always holds the first so many of its records, and resuming rests on that.
    "enable.gapless.guarantee": "true",
    "message.timeout.ms": "0",  # a record that timed out alone would be such a gap
    "partitioner": "murmur2_random",
    "queue.buffering.max.messages": str(IN_FLIGHT_MAX),
}
"""Producer properties that cannot be set otherwise."""


def read_properties(path: Path) -> Properties:
    """
    Read a client properties file as Kafka's own tools do: `key=value` lines and # comments.

    Raises ValueError with a sentence for a line that is neither, for a property that the
    simulator sets itself, and for a file that cannot be read.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    properties: Properties = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line[0] in "#!":
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key:
            raise ValueError(f"{path}, line {number}: expected key=value")
        if PRODUCER.get(key, value) != value:
            raise ValueError(
                f"{path}, line {number}: {key} must be {PRODUCER[key]}; leave the line out"
            )
        properties[key] = value
    return properties
