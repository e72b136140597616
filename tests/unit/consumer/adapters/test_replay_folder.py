import pyarrow as pa
import pytest

from consumer.adapters.replay_folder import SEGMENT, ReplayFolder, Request
from consumer.errors import ConfigError

REQUEST = Request("topic", None, 5, "m v1", "ab", None, {0: (3, 9), 11: (0, 0)}, (7, 8))


@pytest.fixture
def folder(tmp_path):
    return ReplayFolder(tmp_path / "out")


def test_a_request_is_read_as_it_was_written(folder):
    """Partitions stay numbers, and ranges pairs."""
    assert folder.request() is None

    folder.begin(REQUEST)

    assert folder.request() == REQUEST


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"ranges": {}}'])
def test_a_file_that_is_no_request_is_refused(folder, tmp_path, text):
    """Instead of written over."""
    folder.begin(REQUEST)
    (tmp_path / "out" / "replay.json").write_text(text)

    with pytest.raises(ConfigError, match="take another folder"):
        folder.request()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    """In a sentence."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot be written"):
        ReplayFolder(tmp_path / "file" / "out").begin(REQUEST)


def test_segments_cover_a_range_from_its_own_beginning(folder):
    """So they are the same on each run."""
    end = 10 + 2 * SEGMENT + 1

    found = list(folder.segments(10, end))

    assert found == [(10, 10 + SEGMENT), (10 + SEGMENT, end - 1), (end - 1, end)]
    assert list(folder.segments(10, 10)) == []


def test_a_segment_is_there_when_it_is_whole(folder, tmp_path):
    """One that was being written is not."""
    folder.begin(REQUEST)
    table = pa.table({"a": [1, 2]})
    folder.write(3, 20, table)
    (tmp_path / "out" / ".partition-00003-from-00000000000000000040.parquet").write_bytes(b"PAR1")

    assert folder.read(3, 20) == table
    assert [folder.has(3, start) for start in (0, 20, 40)] == [False, True, False]
