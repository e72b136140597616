"""What must hold, by name, and what was found of each: how often looked at, how often broken."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

MOST_EXAMPLES: Final = 10


class Meaning(NamedTuple):
    """What an invariant says, and its numbers in the fault plan."""

    rule: str
    text: str


MEANINGS: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        "no_loss": Meaning(
            "I1",
            "every record below the committed offset has a prediction or a dead letter, or is a"
            " tombstone",
        ),
        "no_repeat": Meaning(
            "I2 I3",
            "no record is answered twice; at least once: only by the same prediction, alert or dead"
            " letter",
        ),
        "no_phantom": Meaning(
            "I4",
            "every prediction, alert and dead letter is of a record that is there, and repeats its"
            " ids and key",
        ),
        "order": Meaning(
            "I6", "answers of one key follow each other as their records do, in one partition"
        ),
        "dead_letters": Meaning(
            "I4",
            "a dead letter is its record untouched, in its partition; `oversize` and `card_number`"
            " have its hash and length",
        ),
        "offsets": Meaning(
            "I5 I9", "offsets are committed for what is published, and for nothing beyond the log"
        ),
        "transactions": Meaning("I11", "no transaction is left open on a topic of outputs"),
        "alerts": Meaning(
            "I5 I8",
            "a flagged payment opens the alert of its card and window, or one is open; another"
            " model may open it again",
        ),
        "labels": Meaning(
            "I7", "frauds are counted from labels that were known, and had settled by the payment"
        ),
        "lateness": Meaning(
            "I7",
            "LATE_EVENT is said of payments older than the latest before them by more than the"
            " grace, and of no others",
        ),
        "velocity": Meaning(
            "I7",
            "features of payments are what a plain fold of the log gives, for a sample of cards",
        ),
        "replays": Meaning(
            "I2",
            "a record replayed from a dead letter names one that was refused, each attempt once",
        ),
        "balance": Meaning("I1 I2", "events in = predictions + dead letters + skipped tombstones"),
        "state": Meaning(
            "I7", "the newest snapshots of velocity state are equal to a fold of the log"
        ),
    }
)
"""Every invariant, in the order of the report. A name never changes its meaning."""


@dataclass(frozen=True, slots=True)
class Example:
    """Where an invariant is broken, and how: coordinates and fixed words, nothing of a record."""

    topic: str
    partition: int
    offset: int | None
    what: str


@dataclass(slots=True)
class Finding:
    """
    What became of one invariant.

    `checked` counts what was looked at, `unjudged` what could not be told, as the log does not
    reach far enough; `reason` says why all of it was left out.
    """

    name: str
    checked: int = 0
    broken: int = 0
    unjudged: int = 0
    reason: str = ""
    examples: list[Example] = field(default_factory=list)

    @property
    def ok(self) -> bool | None:
        """Whether it holds, None where it was not checked."""
        return None if self.reason else self.broken == 0

    def as_json(self) -> dict[str, Any]:
        """Return it as the report has it."""
        return {
            "name": self.name,
            "rule": MEANINGS[self.name].rule,
            "ok": self.ok,
            "checked": self.checked,
            "broken": self.broken,
            "unjudged": self.unjudged,
            "reason": self.reason,
            "examples": [
                {"topic": e.topic, "partition": e.partition, "offset": e.offset, "what": e.what}
                for e in self.examples
            ],
        }


class Findings:
    """One finding for each invariant."""

    def __init__(self) -> None:
        """Nothing is checked yet."""
        self._found: Final = {name: Finding(name) for name in MEANINGS}

    def __getitem__(self, name: str) -> Finding:
        """Return the finding of an invariant."""
        return self._found[name]

    def __iter__(self) -> Iterator[Finding]:
        """Return all, in the order of the report."""
        return iter(self._found.values())

    def checked(self, name: str, count: int = 1) -> None:
        """So much more of it was looked at."""
        self._found[name].checked += count

    def broken(self, name: str, topic: str, partition: int, offset: int | None, what: str) -> None:
        """It does not hold there; the first places are kept as examples."""
        finding = self._found[name]
        finding.broken += 1
        if len(finding.examples) < MOST_EXAMPLES:
            finding.examples.append(Example(topic, int(partition), _int(offset), what))

    def all_broken(
        self, name: str, topic: str, partition: int, offsets: Iterable[int], what: str
    ) -> None:
        """It does not hold at any of these."""
        for offset in offsets:
            self.broken(name, topic, partition, offset, what)

    def left_out(self, name: str, reason: str) -> None:
        """It was not checked at all."""
        self._found[name].reason = reason

    @property
    def broken_names(self) -> list[str]:
        """Those that do not hold."""
        return [finding.name for finding in self._found.values() if finding.ok is False]


def _int(offset: int | None) -> int | None:
    return None if offset is None else int(offset)
