"""A partition's state as it is written down: what it says of itself, and how it is copied."""

from typing import Final, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from consumer.core.feature_sets import Key
from consumer.core.pages import Pages
from consumer.core.state import Tables
from consumer.core.windows_kernel import HEADER_WORDS

FORMAT: Final = 1

RefusalReason = Literal["damaged", "format", "topic", "feature_set", "windows", "schema"]


class SnapshotRefusedError(Exception):
    """A snapshot is of no use here; the text says what was found."""

    def __init__(self, reason: RefusalReason, text: str) -> None:
        self.reason = reason
        super().__init__(text)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Contract(_Part):
    """
    What the numbers in a state mean. Lengths are microseconds; `schemas` are the fingerprints of
    the writer schemas whose payments may have entered it.
    """

    feature_set: str
    windows: dict[Key, tuple[int, ...]]
    grace: int
    alert_window: int
    schemas: list[str]

    def refuse(self, other: "Contract") -> None:
        """Raise SnapshotRefusedError if a state made under the other contract cannot go on here."""
        if other.feature_set != self.feature_set:
            raise SnapshotRefusedError(
                "feature_set", f"it holds {other.feature_set}, wanted is {self.feature_set}"
            )
        if other.model_copy(update={"schemas": self.schemas}) != self:
            raise SnapshotRefusedError(
                "windows", "it was made with another windows.grace or alerts.window"
            )
        if unknown := sorted(set(other.schemas) - set(self.schemas)):
            raise SnapshotRefusedError(
                "schema", f"it holds payments of schemas unknown here: {', '.join(unknown)}"
            )


class Table(_Part):
    """
    The tables of one key: the header, and how many words of cards, of blocks and, where the feature
    set has any kept of each payment, of words follow.
    """

    key: Key
    header: list[int] = Field(min_length=HEADER_WORDS, max_length=HEADER_WORDS)
    words: tuple[int, int] | tuple[int, int, int]


class Manifest(_Part):
    """
    The first line of a snapshot; behind it come the words of its tables, and a digest of it all.

    `next_offset` is that of the first record which the state does not hold. `written_at` is Unix
    time, seconds. `cold_until` is as VelocityState.begin takes it. `topic_id` tells topics of one
    name apart (KIP-516), None where the broker does not tell it.
    """

    fraudstream_state: Literal[1] = FORMAT
    version: str
    topic: str
    topic_id: str | None = None
    partition: int = Field(ge=0)
    next_offset: int = Field(ge=0)
    written_at: float
    cold_until: int | None
    contract: Contract
    tables: list[Table]

    @classmethod
    def from_line(cls, line: bytes) -> "Manifest":
        """Raises SnapshotRefusedError for what is none, or of another format."""
        try:
            return cls.model_validate_json(line)
        except pydantic.ValidationError as error:
            if any(fault["loc"] == ("fraudstream_state",) for fault in error.errors()):
                raise SnapshotRefusedError("format", f"it is not of format {FORMAT}") from error
            raise SnapshotRefusedError("damaged", "it does not begin as a snapshot does") from error


class StateCopy:
    """
    A partition's tables, followed while they change, until a copy holds them as they are.

    For the thread that changes the tables, between two batches.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._changed = {key: windows.follow() for key, windows in tables.items()}

    @property
    def missing(self) -> int:
        """Pages that the copy does not have."""
        return sum(changed.count for changed in self._changed.values())

    def take(self) -> list[Pages]:
        """
        Return what is missing, an entry for each table of each key, in the order they are written.

        Pages are read where they lie, so those that a batch changes meanwhile are missing again.
        """
        pages = []
        for key, changed in self._changed.items():
            _, *tables = self._tables[key].tables
            pages += [
                Pages(words, flags, gathered=False)
                for words, flags in zip(tables, changed.take(), strict=True)
            ]
        return pages

    def cut(self) -> list[Table]:
        """Return what the tables are at this moment."""
        return [
            Table(key=key, header=windows.tables[0].tolist(), words=windows.used)
            for key, windows in self._tables.items()
        ]

    def is_of(self, tables: Tables) -> bool:
        """Say whether these are the tables that are followed."""
        return all(self._tables.get(key) is windows for key, windows in tables.items())

    def release(self) -> None:
        """Follow the tables no longer, and let go of them."""
        for windows in self._tables.values():
            windows.unfollow()
        self._tables = {}
        self._changed = {}
