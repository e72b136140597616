"""The short form of `make chaos`: three telling rows, on three brokers."""

import pytest

from tests.brokers import Rung, why_missing
from tests.chaos import broker_faults, process_faults  # noqa: F401 - they enter their rows
from tests.chaos.cluster import java_hash, open_cluster
from tests.chaos.course import perform
from tests.chaos.plan import ROWS
from tests.integration.bundle import write_model
from tests.integration.conftest import missing


@pytest.fixture(scope="module")
def cluster():
    """Three brokers behind proxies."""
    if why := why_missing(Rung.KAFKA):
        missing(why)
    with open_cluster() as opened:
        yield opened


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that raises alerts on the traffic of these tests."""
    folder = tmp_path_factory.mktemp("bundle") / "model"
    write_model(folder)
    return folder


@pytest.mark.parametrize("id_", ["K9", "B2"])
def test_a_row_of_the_plan(cluster, model, tmp_path, id_):
    """
    Killed in the middle of commits, and the group's coordinator killed: exactly once, nothing is
    lost, nothing is there twice, and what the fault left is worked off.
    """
    row = ROWS[id_]

    run, found = perform(cluster, tmp_path, model, row.act, "exactly-once", 5, **row.options)

    assert found.violations == []
    assert (found.lost, found.twice) == (0, 0)
    assert found.records > 100
    assert run.recovery_seconds is not None


def test_the_naive_consumer_is_found_out(cluster, model, tmp_path):
    """What the verdict says of a consumer that keeps no promise is no clean bill."""
    row = ROWS["K6"]

    _, found = perform(cluster, tmp_path, model, row.act, "naive", 5, **row.options)

    assert found.lost + found.twice > 0
    assert found.wrong > 0


def test_a_hash_is_java_s():
    """As `"hello".hashCode()` and a text whose hash is negative give it."""
    assert java_hash("hello") == 99162322
    assert java_hash("fraudstream-a-0") == _by_definition("fraudstream-a-0")


def _by_definition(text):
    """s[0]*31^(n-1) + ... + s[n-1], in 32 bits, as the Java API documents."""
    total = sum(ord(c) * 31 ** (len(text) - 1 - k) for k, c in enumerate(text)) % 2**32
    return total - 2**32 if total >= 2**31 else total
