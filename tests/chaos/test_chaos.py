"""The short form of `make chaos`, on three brokers."""

import json
from contextlib import contextmanager
from functools import partial

import pytest

from consumer.adapters.log_reader import LogReader
from tests.brokers import Rung, why_missing
from tests.chaos import clocks
from tests.chaos.broker_faults import dead
from tests.chaos.cluster import java_hash, open_cluster
from tests.chaos.course import perform
from tests.chaos.plan import ROWS, Task, left, tasks
from tests.chaos.process_faults import die_while_committing
from tests.chaos.report import JSON, Result, merged, read, rules, seeds, write
from tests.chaos.stage import Stage, play
from tests.integration.bundle import write_model
from tests.integration.conftest import missing
from tests.integration.harness import SLOW, eventually


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


def test_a_reader_finds_who_leads_now(cluster):
    """Ends are known again once a dead leader's partitions have another, and while it is dead."""
    cluster.broker.create_topics({"led": 3})
    config = {"bootstrap.servers": cluster.broker.bootstrap_servers, "group.id": "g"}
    reader = LogReader({**config, "log_level": 0, "reconnect.backoff.max.ms": 500}, "led")
    assert reader.ends([0, 1, 2], 10) == {0: 0, 1: 0, 2: 0}

    with dead(cluster.leader("led", 1).node):
        known = eventually(lambda: reader.ends([0, 1, 2], 2), 20)

    assert known == {0: 0, 1: 0, 2: 0}
    reader.close()


def test_a_row_of_the_plan(cluster, model, tmp_path):
    """
    Killed in the middle of commits: exactly once, nothing is lost, nothing is there twice, and what
    the fault left is worked off.
    """
    act = partial(die_while_committing, 3 if SLOW else 1)

    run, found = perform(cluster, tmp_path, model, act, "exactly-once", 5)

    assert found.violations == []
    assert (found.lost, found.twice) == (0, 0)
    assert {"no_loss", "no_repeat", "features", "probability"} <= set(found.checked)
    assert found.records > 100
    assert run.recovery_seconds is not None


@pytest.mark.skipif(not SLOW, reason="FRAUDSTREAM_SLOW=1 runs it")
def test_the_naive_consumer_is_found_out(cluster, model, tmp_path):
    """What the verdict says of a consumer that keeps no promise is no clean bill."""
    row = ROWS["K6"]

    _, found = perform(cluster, tmp_path, model, row.act, "naive", 5, **row.options)

    assert found.lost + found.twice > 0
    assert found.wrong > 0


def test_a_stage_has_one_cluster_at_a_time():
    """Rows that want the same one share it; another one is opened when it is closed."""
    seen = []

    @contextmanager
    def opener(name):
        seen.append(f"open {name}")
        yield name
        seen.append(f"close {name}")

    plain, guarded = partial(opener, "plain"), partial(opener, "guarded")
    stage = Stage()

    assert [stage.cluster(wanted) for wanted in (plain, plain, guarded)] == [
        "plain", "plain", "guarded",
    ]  # fmt: skip
    stage.close()
    assert stage.cluster(guarded) == "guarded"
    assert seen == ["open plain", "close plain", "open guarded", "close guarded", "open guarded"]


def result(id_, guarantee="exactly-once", seed=1, commit="new", checked=()):
    """A line of the report."""
    return Result(
        id=id_, fault="", guarantee=guarantee, seed=seed, ok=True, commit=commit, checked=checked
    )


def test_a_line_replaces_its_own_and_those_of_other_commits():
    """Of one commit a row may have lines with several seeds."""
    lines = [result("K1", seed=1), result("K1", seed=2), result("K2", commit="old")]

    lines = merged(merged(lines, result("K1", seed=2)), result("K2", seed=3))

    assert [(line.id, line.seed, line.commit) for line in lines] == [
        ("K1", 1, "new"), ("K1", 2, "new"), ("K2", 3, "new"),
    ]  # fmt: skip


def test_the_report_says_by_what_and_with_which_seeds():
    """Rules once, and what rows lack of them; a run that was not judged says nothing of them."""
    lines = [
        result("K1", checked=["order", "features"]), result("K1", seed=2),
        result("E1", checked=["order"]), result("E2", checked=["order"], seed=3),
        result("K2", guarantee="naive", checked=["no_loss"]),
    ]  # fmt: skip

    assert rules(lines) == "Checked: `order`, `features`.\nNot of E1, E2: `features`.\n"
    assert seeds(lines) == "Seeds 1, 2: K1.\nSeed 1: E1, K2.\nSeed 3: E2.\n"
    assert (rules([]), seeds([])) == ("", "")


def test_lines_are_read_again(tmp_path, monkeypatch):
    """Also those of a report that did not say which rules judged."""
    monkeypatch.chdir(tmp_path)
    write([result("K1"), result("K2", checked=["order"])])
    lines = json.loads(JSON.read_text())
    del lines[0]["checked"]
    JSON.write_text(json.dumps(lines))

    assert [(line.id, list(line.checked)) for line in read()] == [("K1", []), ("K2", ["order"])]


def test_an_interrupted_run_is_gone_on_with():
    """What has a line is left out: with its seed, or with any where none is asked for."""
    planned = list(tasks(["K1", "R1"], ["exactly-once", "naive"], [7]))
    done = [Task("K1", "naive", 3), Task("R1")]

    assert left(planned, done, of_any_seed=True) == [Task("K1", "exactly-once", 7)]
    assert left(planned, done, of_any_seed=False) == planned[:2]


def test_a_row_that_lacks_something_says_what_to_install(monkeypatch, tmp_path):
    """No broker is started for it."""
    monkeypatch.setattr(clocks, "_PLACES", ())

    line = play(Task("T1c", "exactly-once", 7), str(tmp_path), "new")

    assert line.ok is None
    assert "Debian's package libfaketime" in line.note


def test_a_hash_is_java_s():
    """As `"hello".hashCode()` and a text whose hash is negative give it."""
    assert java_hash("hello") == 99162322
    assert java_hash("fraudstream-a-0") == _by_definition("fraudstream-a-0")


def _by_definition(text):
    """s[0]*31^(n-1) + ... + s[n-1], in 32 bits, as the Java API documents."""
    total = sum(ord(c) * 31 ** (len(text) - 1 - k) for k, c in enumerate(text)) % 2**32
    return total - 2**32 if total >= 2**31 else total
