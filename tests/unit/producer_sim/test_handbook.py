from pathlib import Path

import numpy as np
import pytest

from producer_sim import handbook
from producer_sim.handbook import CONTENT_HASH, Payments, content_hash


@pytest.fixture
def kept(payments, tmp_path) -> Path:
    """A cache file as `load` keeps it."""
    path = tmp_path / handbook._CACHE_FILE
    handbook._keep(payments, path)
    return path


def test_the_published_data_set_comes_back_row_by_row(payments):
    """Rules and seeds of the Handbook give exactly the rows that its authors published."""
    assert content_hash(payments) == CONTENT_HASH


def test_the_scenarios_are_as_frequent_as_published(payments):
    """The last scenario to mark a payment names it: 973, 9,077 and 4,631 of 1,754,155."""
    assert np.bincount(payments.scenario).tolist() == [1_739_474, 973, 9_077, 4_631]


def test_rows_are_in_event_time_order_and_ties_in_customer_order(payments):
    """A row number is an identity, so the order of rows leaves nothing to chance."""
    place = payments.second * handbook.CUSTOMERS + payments.customer

    assert (np.diff(place) >= 0).all()


def test_the_content_hash_does_not_depend_on_the_order_of_rows(payments):
    """Two data sets of equal rows are equal, whichever comes first in a tie."""
    order = np.random.RandomState(0).permutation(len(payments))

    shuffled = Payments(**{name: column[order] for name, column in payments.columns().items()})

    assert content_hash(shuffled) == CONTENT_HASH


def test_kept_payments_are_read_back_as_they_were(payments, kept):
    """The cache saves time and changes nothing."""
    again = handbook._read(kept)

    for name, column in payments.columns().items():
        np.testing.assert_array_equal(again.columns()[name], column)
        assert again.columns()[name].dtype == column.dtype


def test_keeping_leaves_nothing_but_the_whole_file(kept):
    """The cache is written beside its place and moved there: no half is left or ever seen."""
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"not an archive",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:5_000_000] + b"\xff" + whole[5_000_001:],
    ],
    ids=["empty", "not an archive", "cut off", "one byte changed"],
)
def test_a_damaged_cache_is_not_believed(kept, damage):
    """What is read from the cache is checked, whatever happened to the file."""
    kept.write_bytes(damage(kept.read_bytes()))

    assert handbook._read(kept) is None


def test_a_sound_cache_of_other_rows_is_not_believed(payments, kept):
    """The check is of the content, not of the file."""
    other = Payments(**payments.columns() | {"cents": payments.cents + 1})
    handbook._keep(other, kept)

    assert handbook._read(kept) is None


def test_a_damaged_cache_is_replaced(payments, cache):
    """A cache that is damaged costs the time to draw the payments again, once."""
    again = handbook._read(cache / handbook._CACHE_FILE)

    assert again is not None
    assert len(again) == len(payments)


def test_a_cache_that_cannot_be_written_is_no_hindrance(payments, tmp_path):
    """Where nothing can be kept, payments are drawn every time, and that is all."""
    (tmp_path / "file").touch()

    handbook._keep(payments, tmp_path / "file" / "handbook.npz")

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_cache_folder_can_be_chosen(monkeypatch):
    """$FRAUDSTREAM_CACHE goes before the user's cache folder, and XDG's before the home's."""
    monkeypatch.setenv("FRAUDSTREAM_CACHE", "/chosen")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert handbook.default_cache() == Path("/chosen")

    monkeypatch.delenv("FRAUDSTREAM_CACHE")
    assert handbook.default_cache() == Path("/xdg/fraudstream")

    monkeypatch.delenv("XDG_CACHE_HOME")
    assert handbook.default_cache() == Path.home() / ".cache" / "fraudstream"
