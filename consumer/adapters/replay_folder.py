"""The folder of a replay: what was asked for, a Parquet file for each segment, and the report."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from consumer.errors import ConfigError

SEGMENT: Final = 200_000
"""Offsets in one file: what is done again when a replay is interrupted."""

_REQUEST: Final = "replay.json"


@dataclass(frozen=True, slots=True)
class Request:
    """
    What a replay was begun with. `ranges` are offsets [begin, end) by partition, and
    `label_offsets` say which labels are known: both are settled once, so that it can go on later.
    """

    topic: str
    begin: int | None
    end: int | None
    model: str
    model_sha256: str
    to_topic: str | None
    ranges: dict[int, tuple[int, int]]
    label_offsets: tuple[int, ...]


class ReplayFolder:
    """Files appear whole or not at all, so those that are there are done."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when the request is written."""
        self._folder = folder

    def request(self) -> Request | None:
        """Return what the replay in the folder was begun with, None where there is none."""
        path = self._folder / _REQUEST
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
            ranges = {int(p): (begin, end) for p, (begin, end) in found.pop("ranges").items()}
            return Request(
                **found | {"ranges": ranges, "label_offsets": (*found["label_offsets"],)}
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no replay's: take another folder for --out") from error

    def begin(self, request: Request) -> None:
        """Write the request down. Raises ConfigError for a folder that cannot be written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(_REQUEST, json.dumps(asdict(request), indent=2).encode())
        except OSError as error:
            raise ConfigError(f"{self._folder} cannot be written: {error.strerror}") from error

    def segments(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the segments of a range, in order."""
        for start in range(begin, end, SEGMENT):
            yield start, min(end, start + SEGMENT)

    def has(self, partition: int, start: int) -> bool:
        """Say whether the segment is done."""
        return (self._folder / _name(partition, start)).exists()

    def write(self, partition: int, start: int, table: pa.Table) -> None:
        """The segment is done: this is what came of it."""
        name = _name(partition, start)
        partial = self._folder / f".{name}"
        pq.write_table(table, partial)
        partial.replace(self._folder / name)

    def read(self, partition: int, start: int) -> pa.Table:
        """Return a segment that is done."""
        return pq.read_table(self._folder / _name(partition, start))

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write the report beside the files."""
        self._write("report.json", json.dumps(report, indent=2).encode())

    def _write(self, name: str, data: bytes) -> None:
        partial = self._folder / f".{name}"
        partial.write_bytes(data)
        partial.replace(self._folder / name)


def _name(partition: int, start: int) -> str:
    return f"partition-{partition:05}-from-{start:020}.parquet"
