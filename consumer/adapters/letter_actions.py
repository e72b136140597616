"""Dead letters are replayed or discarded: each with its line of the audit, in one transaction."""

import contextlib
import getpass
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.adapters.dead_letter_log import Filed
from consumer.adapters.kafka_clients import letters_producer_config
from consumer.adapters.kafka_errors import kafka_error
from consumer.core.card_numbers import masked
from consumer.errors import FatalError
from consumer.settings import Settings

MOST_IN_A_TRANSACTION: Final = 500
_START_SECONDS: Final = 30.0
_TRANSACTION_SECONDS: Final = 10.0

Action: TypeAlias = Literal["replayed", "discarded"]
Line: TypeAlias = dict[str, Any]
"""A line of the audit, as it stands in its topic."""


class LetterActions:
    """
    Marks letters, and sends those that are replayed to the input topic once more.

    A letter's new record and its line are in one transaction, so there is never the one without
    the other, whenever this process is killed. Only one can be open in a group: the next ends it.
    """

    def __init__(self, settings: Settings, rate: float = float("inf")) -> None:
        """
        Fence whoever is at it, and finish what it left open: the audit is to be read after this.

        `rate` is the most letters a second. Raises FatalError.
        """
        self._input = settings.topics.input
        self._audit = settings.audit_topic
        self._rate = rate
        self._by = f"{_user()}@{socket.gethostname()}"
        self._producer = Producer(letters_producer_config(settings, lambda _: None))
        with _named_faults():
            self._producer.init_transactions(_START_SECONDS)

    def take(
        self, action: Action, letters: Iterable[Filed], because: str | None = None
    ) -> Iterator[Line]:
        """
        Yield the lines of what is done, when its transaction is committed.

        Readers of the input wait for an open transaction, so each is short, and a slow rate makes
        many of them. Raises FatalError: what was yielded is done, the rest is not or is marked.
        """
        most = int(max(1, min(MOST_IN_A_TRANSACTION, self._rate)))
        waiting = iter(letters)
        while batch := list(islice(waiting, most)):
            began = time.monotonic()
            yield from self._commit(action, batch, because)
            time.sleep(max(0.0, began + len(batch) / self._rate - time.monotonic()))

    def _commit(self, action: Action, batch: Sequence[Filed], because: str | None) -> list[Line]:
        with _named_faults():
            self._producer.begin_transaction()
            try:
                offsets = self._resend(batch) if action == "replayed" else [None] * len(batch)
                lines = [
                    self._line(action, filed, because, offset)
                    for filed, offset in zip(batch, offsets, strict=True)
                ]
                for line in lines:
                    key = f"{line['topic']}/{line['partition']}/{line['offset']}"
                    self._producer.produce(self._audit, json.dumps(line), key, 0)
                self._producer.commit_transaction(_TRANSACTION_SECONDS)
            except BaseException:
                self._abort()
                raise
        return lines

    def _abort(self) -> None:
        """
        Abort, else readers of the input would wait for the time-out. Raises KafkaException where
        the producer is fenced, of which produce() and the reports say only that something is fatal.
        """
        try:
            self._producer.abort_transaction(_TRANSACTION_SECONDS)
        except KafkaException as exception:
            if kafka_error(exception).code() == KafkaError._FENCED:
                raise

    def _resend(self, batch: Sequence[Filed]) -> list[int]:
        """Return the offsets of the new records, which the transaction does not show yet."""
        offsets: list[int] = [-1] * len(batch)
        failed: list[tuple[Filed, KafkaError]] = []
        for row, filed in enumerate(batch):

            def delivered(
                error: KafkaError | None, message: Message, row: int = row, filed: Filed = filed
            ) -> None:
                if error is not None:
                    failed.append((filed, error))
                else:
                    offsets[row] = message.offset() or 0

            self._producer.produce(
                self._input, filed.value, filed.key, filed.letter.place.partition,
                headers=list(filed.letter.replay_headers()), on_delivery=delivered,
            )  # fmt: skip
        if self._producer.flush(_TRANSACTION_SECONDS) > 0:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        if failed:
            filed, error = failed[0]
            raise FatalError(
                f"the record of letter {filed.letter.place} cannot be sent again ({error.str()});"
                " nothing of its transaction was"
            )
        return offsets

    def _line(self, action: Action, filed: Filed, because: str | None, offset: int | None) -> Line:
        letter = filed.letter
        return {
            "action": action,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "by": self._by,
            "because": because,
            "topic": letter.place.topic,
            "partition": letter.place.partition,
            "offset": letter.place.offset,
            "value_sha256": filed.identity[1],
            "reason": letter.reason,
            "letter": str(filed.at),
            "first": masked(str(letter.first).encode()).decode(),
            "attempt": letter.attempt + (action == "replayed"),
            "replayed_to": offset,
        }


@contextlib.contextmanager
def _named_faults() -> Iterator[None]:
    try:
        yield
    except KafkaException as exception:
        error = kafka_error(exception)
        if error.code() == KafkaError._FENCED:
            raise FatalError(
                "somebody else began to replay or discard dead letters of this group; what was not"
                " reported is left to them"
            ) from exception
        raise FatalError(
            f"the broker refuses or does not answer: {error.str()}; run the command again, what"
            " went through is marked"
        ) from exception


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())
