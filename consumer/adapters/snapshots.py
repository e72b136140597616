"""Snapshots of state in a folder, or wherever fsspec reaches: s3://, gs://, abfs://."""

import glob
import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote

import fsspec
import numpy as np

from consumer import __version__
from consumer.core.snapshot import Contract, Manifest, SnapshotRefusedError, Table
from consumer.core.state import Tables
from consumer.core.windows import CardWindows, spacious_tables
from consumer.errors import ConfigError
from consumer.records import Longs

_SUFFIX: Final = ".snapshot"
_DRAFT_SUFFIX: Final = ".part"
_DRAFT_SECONDS: Final = 3_600.0
"""A draft that was not written to for so long belongs to a process that was killed."""
_CHUNK_BYTES: Final = 4 * 2**20
_FIRST_LINE_BYTES: Final = 2**20
_DIGEST: Final = hashlib.sha256
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that should be a snapshot: where it is, what its name says, how large it is."""

    path: str
    partition: int
    next_offset: int
    size_bytes: int


class SnapshotStore:
    """
    The snapshots of one group and topic.

    Files are named <state.url>/<group>/<topic>/<partition>/<next offset>.snapshot. What is in them
    is told by them alone: a line of JSON, the words of the tables (int64, little endian), and the
    SHA-256 of both.
    """

    def __init__(self, url: str, group: str, topic: str) -> None:
        """Raises ConfigError for a URL that no installed file system answers for."""
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"state.url: {error}") from error
        self._is_local = "file" in _protocols(self._fs)
        self._root = f"{root.rstrip('/')}/{quote(group, safe='')}/{quote(topic, safe='')}"
        self._topic = topic
        self.topic_id: str | None = None
        """The topic's id, where the broker tells it; a snapshot of another is refused."""

    @property
    def scratch_folder(self) -> str | None:
        """Where a large file may lie for a while; None: where the system keeps such files."""
        if not self._is_local:
            return None
        Path(self._root).mkdir(parents=True, exist_ok=True)
        return self._root

    def stored(self, partition: int | None = None) -> list[Stored]:
        """Return what is there of a partition, or of all, the newest first. Raises OSError."""
        root = glob.escape(self._root)
        pattern = f"{root}/{'*' if partition is None else partition}/*{_SUFFIX}"
        self._fs.invalidate_cache()
        found = []
        for path, about in self._fs.glob(pattern, detail=True).items():
            folder, name = path.split("/")[-2:]
            offset = name.removesuffix(_SUFFIX)
            if folder.isascii() and folder.isdigit() and offset.isascii() and offset.isdigit():
                found.append(Stored(path, int(folder), int(offset), int(about["size"])))
        return sorted(found, key=lambda each: (each.partition, -each.next_offset))

    def read(
        self,
        stored: Stored,
        contract: Contract,
        empty: Tables,
        on_progress: Callable[[], None] = lambda: None,
    ) -> Manifest:
        """
        Fill the `empty` tables. Raises SnapshotRefusedError, with nothing to be done with them, for
        one that is damaged or was made under another contract, and OSError. `on_progress` is called
        after each piece.
        """
        with cast(BinaryIO, self._fs.open(stored.path, "rb")) as file:
            line = file.readline(_FIRST_LINE_BYTES)
            manifest = self._manifest(stored, line)
            contract.refuse(manifest.contract)
            if [table.key for table in manifest.tables] != list(empty):
                raise SnapshotRefusedError("damaged", "it has other tables than it should")
            counts = [count for table in manifest.tables for count in table.words]
            # Before anything is allocated: a count that is wrong must not take the memory.
            if min(counts) < 0 or len(line) + 8 * sum(counts) + _DIGEST_BYTES != stored.size_bytes:
                raise SnapshotRefusedError("damaged", "it is not as long as it says")
            digest = _DIGEST(line)
            words = [spacious_tables(table.words) for table in manifest.tables]
            for table, columns in zip(manifest.tables, words, strict=True):
                for count, column in zip(table.words, columns, strict=True):
                    _read_words(file, column[:count], digest, on_progress)
            if file.read(_DIGEST_BYTES) != digest.digest():
                raise SnapshotRefusedError("damaged", "it is not what its digest says")
        for table, columns in zip(manifest.tables, words, strict=True):
            _take_over(empty[table.key], table, columns)
        return manifest

    def write(
        self, partition: int, next_offset: int, contract: Contract, cold_until: int | None,
        tables: list[Table], words: Iterable[np.ndarray[Any, Any]],
    ) -> Stored:  # fmt: skip
        """
        Write a snapshot, so that nobody ever sees a part of it as a whole. Raises OSError.

        `words` are those of the tables, in the order of their counts.
        """
        manifest = Manifest(
            version=__version__, topic=self._topic, topic_id=self.topic_id, partition=partition,
            next_offset=next_offset, written_at=time.time(), cold_until=cold_until,
            contract=contract, tables=tables,
        )  # fmt: skip
        folder = f"{self._root}/{partition}"
        path = f"{folder}/{next_offset:020}{_SUFFIX}"
        self._fs.makedirs(folder, exist_ok=True)
        # An object appears when it is whole; a file is there from its first byte, so it is renamed.
        name = f".{uuid.uuid4().hex}{_DRAFT_SUFFIX}"
        draft = f"{folder}/{name}" if self._is_local else path
        try:
            with self._fs.open(draft, "wb") as file:
                size = _write(file, manifest, words)
                if self._is_local:
                    file.flush()
                    os.fsync(file.fileno())
            if draft != path:
                self._fs.mv(draft, path)
        except BaseException:
            with suppress(OSError):
                self._fs.rm(draft)
            raise
        return Stored(path, partition, next_offset, size)

    def prune(self, written: Stored, keep: int) -> None:
        """
        Keep what was just written and the newest before it, so many in all, and as many of those
        beyond it that are of the same topic: a partition that went has another writer, who may be
        further, and a state at an offset is the same whoever wrote it. Remove what else is there of
        the partition, and drafts that nobody finished. Raises OSError.
        """
        found = self.stored(written.partition)
        before = [each for each in found if each.next_offset < written.next_offset]
        beyond = [each for each in found if each.next_offset > written.next_offset]
        of_this_topic = [each for each in beyond[:keep] if self._is_of_this_topic(each)]
        kept = {written.path, *(each.path for each in [*of_this_topic, *before[: keep - 1]])}
        for old in found:
            if old.path not in kept:
                with suppress(FileNotFoundError):  # another instance was here
                    self._fs.rm(old.path)
        if self._is_local:
            folder = Path(f"{self._root}/{written.partition}")
            for draft in folder.glob(f".*{_DRAFT_SUFFIX}"):
                with suppress(FileNotFoundError):
                    if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                        draft.unlink()

    def _is_of_this_topic(self, stored: Stored) -> bool:
        """Say whether it is known to be; where topics cannot be told apart by ids, it is not."""
        try:
            with cast(BinaryIO, self._fs.open(stored.path, "rb")) as file:
                manifest = self._manifest(stored, file.readline(_FIRST_LINE_BYTES))
        except (SnapshotRefusedError, FileNotFoundError):
            return False
        return self.topic_id is not None and manifest.topic_id == self.topic_id

    def _manifest(self, stored: Stored, line: bytes) -> Manifest:
        manifest = Manifest.from_line(line)
        named = (self._topic, stored.partition, stored.next_offset)
        if (manifest.topic, manifest.partition, manifest.next_offset) != named:
            raise SnapshotRefusedError("damaged", "it is not the one that its name says")
        if self.topic_id and manifest.topic_id and manifest.topic_id != self.topic_id:
            raise SnapshotRefusedError(
                "topic", f"topic {self._topic} was deleted and made anew since: other records"
                " stand at its offsets",
            )  # fmt: skip
        return manifest


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _take_over(windows: CardWindows, table: Table, words: list[Longs]) -> None:
    try:
        windows.take_over(np.array(table.header, np.int64), *words)
    except (ValueError, OverflowError) as error:
        raise SnapshotRefusedError("damaged", str(error)) from error


def _read_words(file: BinaryIO, words: Longs, digest: Any, on_progress: Callable[[], None]) -> None:
    """Fill the words."""
    view = words.view(np.uint8).data
    for begin in range(0, len(view), _CHUNK_BYTES):
        piece = file.read(min(_CHUNK_BYTES, len(view) - begin))
        if len(piece) < min(_CHUNK_BYTES, len(view) - begin):
            raise SnapshotRefusedError("damaged", "it ends too early")
        view[begin : begin + len(piece)] = piece
        digest.update(piece)
        on_progress()
    if sys.byteorder == "big":
        words.byteswap(inplace=True)


def _write(file: BinaryIO, manifest: Manifest, words: Iterable[np.ndarray[Any, Any]]) -> int:
    line = manifest.model_dump_json().encode() + b"\n"
    digest = _DIGEST(line)
    size = file.write(line)
    for column in words:
        view = column.astype("<i8", copy=False).view(np.uint8).data
        for begin in range(0, len(view), _CHUNK_BYTES):
            piece = view[begin : begin + _CHUNK_BYTES]
            digest.update(piece)
            size += file.write(piece)
    return size + file.write(digest.digest())
