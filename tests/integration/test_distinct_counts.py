"""Feature set arrival-4 as a user meets it: its state is killed, found again, and explained."""

import json
import random
from collections import Counter

import pyarrow.parquet as pq
import pytest

from consumer.core.feature_sets import ARRIVAL_4
from tests.integration.bundle import write_model
from tests.integration.checker import check
from tests.integration.harness import eventually
from tests.integration.history import decode, source
from tests.integration.test_commands import command
from tests.integration.test_kills import work_a_while
from tests.integration.test_snapshots import PER_SECOND, from_snapshots, kept, snapshots

__all__ = ["kept"]
ROUNDS = 2


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A model of arrival-4; other tests have one of arrival-1."""
    folder = tmp_path_factory.mktemp("distinct") / "model"
    write_model(folder, ARRIVAL_4)
    return folder


def answers(*arguments):
    """Return what a command says as lines of JSON."""
    code, lines = command(*arguments)
    assert code == 0, lines
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_terminals_and_countries_are_counted_whatever_becomes_of_the_instance(real, scene, kept):
    """
    SIGKILL at any moment: every prediction is the oracle's, the snapshots are equal to the log, say
    what was kept of each payment, and explain any of the predictions.
    """
    draw = random.Random(ROUNDS)
    with scene.feed(PER_SECOND):
        for _ in range(ROUNDS):
            instance = scene.start(**kept)
            work_a_while(instance, draw)
            eventually(lambda: len(snapshots(scene)) == 4, 20, instance.tail)
            instance.kill()
        last = scene.start(**kept).wait_ready()
    scene.wait_done()
    assert from_snapshots(last)
    assert last.stop() == 0

    history = scene.history()
    assert check(history) == []
    published = [decode("prediction", read.value) for read in history.predictions]
    spread = Counter(tuple(each["features"][-4:]) for each in published)
    assert len(spread) > 5
    config = scene.config("state", **kept)
    rows = answers("state", "verify", "--config", config, "--json")
    assert [row["differences"] for row in rows] == [[]] * 4
    out = scene.folder / "state.parquet"
    answers("state", "export", str(out), "--config", config)
    held = pq.read_table(out)
    assert set(held["merchant_country"].to_pylist()) == {"BE", "FR", None}
    assert {len(terminal) for terminal in held["terminal"].to_pylist()} == {12}
    for prediction in published[:: len(published) // 4]:
        partition, offset = source(prediction)
        place = "--partition", partition, "--offset", offset
        [answer] = answers("explain", "--config", config, "--json", *place)
        assert answer["differences"] == []
        assert [each["value"] for each in answer["features"]] == prediction["features"]
