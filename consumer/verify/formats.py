"""What the topics hold, read by this package's own means: records, and what their bytes say."""

import hashlib
import io
import marshal
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import fastavro

import schemas

ERRORS: Final = "__fraudstream.errors."
REPLAY: Final = "__fraudstream.replay."
_HEADER_SIZES: Final = (10, 5, 17)
"""Of single-object encoding, and of a registry's number or GUID."""
_DIGEST_BYTES: Final = 8
_FEWEST_DIGITS: Final = 12
_DIGIT: Final = re.compile(rb"\d")

Headers = tuple[tuple[str, bytes | None], ...]


class UnreadableError(Exception):
    """A value that no version of its schema reads, or a header that is missing."""


class Place(NamedTuple):
    """Where a record of the input topic is."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """
    A record as a consumer gave it; `timestamp` is in milliseconds, and says when the broker took
    it, not the sender, where `appended`.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp: int = 0
    appended: bool = False


def _bare(schema: Any) -> Any:
    """Return the schema without logical types: times stay numbers, ids stay text."""
    if isinstance(schema, dict):
        return {key: _bare(part) for key, part in schema.items() if key != "logicalType"}
    return [_bare(part) for part in schema] if isinstance(schema, list) else schema


class Decoder:
    """Reads values in Avro single-object encoding, of any version of one schema, or registered."""

    def __init__(
        self, name: str, registry: Mapping[bytes, schemas.Schema] = MappingProxyType({})
    ) -> None:
        """`name` is the schema's: transaction, label, prediction or alert."""
        self._name: Final = name
        written = {schemas.single_object_header(each): each for each in schemas.versions(name)}
        self._parsed: Final = {
            header: fastavro.parse_schema(_bare(schema))
            for header, schema in {**written, **registry}.items()
        }

    def read(self, value: bytes | None) -> dict[str, Any]:
        """Return the fields. Raises UnreadableError."""
        content = value or b""
        headers = (content[:size] for size in _HEADER_SIZES)
        header = next((each for each in headers if each in self._parsed), None)
        if header is None:
            raise UnreadableError(f"no {self._name}")
        body = io.BytesIO(content[len(header) :])
        try:
            record: Any = fastavro.schemaless_reader(body, self._parsed[header], None)
        except Exception as error:  # fastavro raises whatever it stumbles over
            raise UnreadableError(f"a damaged {self._name}") from error
        if body.read(1):
            raise UnreadableError(f"bytes after the {self._name}")
        return record  # type: ignore[no-any-return] # the schema is a record's


def digest(*content: Any) -> int:
    """
    Return 64 bits of a hash of plain values, never 0: equal for equal bits, and so for nothing
    else that an accident makes.
    """
    packed = marshal.dumps(content, 2)  # version 2 knows no references: equal values, equal bytes
    found = hashlib.blake2b(packed, digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(found, "little") or 1


def sha256_start(value: bytes | None) -> int:
    """Return the first 64 bits of the SHA-256 of a value, of none as of an empty one."""
    return int.from_bytes(hashlib.sha256(value or b"").digest()[:_DIGEST_BYTES], "big")


def key_digest(key: bytes | None) -> int:
    """Return what is remembered of a key: 0 of none, else the start of its SHA-256."""
    return 0 if key is None else sha256_start(key)


def without_numbers(headers: Headers) -> Headers:
    """Return the headers that cannot hold a card number: those of fewer than 12 digits."""
    return tuple(
        (name, content)
        for name, content in headers
        if len(_DIGIT.findall(name.encode() + (content or b""))) < _FEWEST_DIGITS
    )


def same_sha256(text: str | None, start: int) -> bool:
    """Say whether a SHA-256 in hexadecimal starts with these 64 bits."""
    return text is not None and len(text) == 64 and text.startswith(f"{start:016x}")  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class LetterFacts:
    """What the headers of a dead letter say: where its record was, and why it was refused."""

    topic: str
    place: Place
    reason: str
    said: Mapping[str, str]
    """All of it, by name: of what is left out, `value.sha256` and `value.length` for instance."""
    own_headers: Headers
    """Those that the record came with."""


def letter_facts(headers: Headers) -> LetterFacts:
    """
    Return what a dead letter says of its record. Raises UnreadableError.

    The pipeline's headers are the last; a record may have come with some of the same names.
    """
    first = next(
        (k for k in reversed(range(len(headers))) if headers[k][0] == f"{ERRORS}topic"), None
    )
    if first is None:
        raise UnreadableError("no coordinates")
    facts = _facts(headers[first:], ERRORS)
    return LetterFacts(
        topic=facts["topic"],
        place=Place(_number(facts, "partition"), _number(facts, "offset")),
        reason=facts.get("reason", ""),
        said=facts,
        own_headers=headers[:first],
    )


@dataclass(frozen=True, slots=True)
class ReplayFacts:
    """Where a record that was replayed from a dead letter was at first, and how often since."""

    topic: str
    first: Place
    attempt: int


def replay_facts(headers: Headers) -> ReplayFacts | None:
    """Return what a replayed record says of its first; None of others. Raises UnreadableError."""
    facts = _facts(headers, REPLAY)
    if not facts:
        return None
    numbers = [_number(facts, name) for name in ("partition", "offset", "attempt")]
    return ReplayFacts(facts.get("topic", ""), Place(*numbers[:2]), numbers[2])


def _facts(headers: Sequence[tuple[str, bytes | None]], prefix: str) -> dict[str, str]:
    return {
        name.removeprefix(prefix): (content or b"").decode("utf-8", "replace")
        for name, content in headers
        if name.startswith(prefix)
    }


def _number(facts: Mapping[str, str], name: str) -> int:
    try:
        return int(facts[name])
    except (KeyError, ValueError) as error:
        raise UnreadableError(f"no {name} in the headers") from error
