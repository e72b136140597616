import json
import random
from dataclasses import replace
from functools import partial

import pyarrow.parquet as pq
import pytest

from consumer.adapters.snapshots import SnapshotStore
from consumer.core.feature_sets import ARRIVAL_1
from consumer.core.snapshot import Manifest
from consumer.core.state import VelocityState
from consumer.core.windows import EXACT_PAYMENTS
from tests.builders import DAY, JANUARY
from tests.integration.checker import check
from tests.integration.conftest import BOTH, BOTH_IF_SLOW
from tests.integration.harness import SLOW, eventually
from tests.integration.history import decode
from tests.integration.test_commands import command
from tests.integration.test_kills import SMALL, work_a_while

ROUNDS = 20 if SLOW else 2
PER_SECOND = 60
"""A payment moves the event clock by ten minutes: at this rate 30 days take more than a minute."""

MINUTE = 60_000_000


@pytest.fixture
def kept(scene):
    """Settings of consumers that write snapshots all the time, to one folder."""
    return {**SMALL, "state": {"url": str(scene.folder / "state"), "snapshot_interval": "200ms"}}


def snapshots(scene):
    """Return the files, by partition, the newest first."""
    found = {}
    for path in sorted(scene.folder.glob("state/*/*/*/*.snapshot"), reverse=True):
        found.setdefault(int(path.parent.name), []).append(path)
    return found


def from_snapshots(instance):
    """Return how many records it replayed for each partition that it found a snapshot of."""
    planned = instance.events("restore_planned")
    return {each["partition"]: each["records"] for each in planned if each["from_snapshot"]}


def has_published(instance, count):
    return instance.total("predictions_committed_total") >= count


def send_one_a_minute(upstream, payments):
    """Send payments with these fields; a minute is what lies between two on average."""
    for fields in payments:
        upstream.send(upstream.traffic.payment(**fields))
        upstream.traffic.clock -= 9 * MINUTE
    upstream.flush()


def replayed(instance):
    return sum(each["records"] for each in instance.events("restore_planned"))


@BOTH_IF_SLOW
def test_killed_again_and_again_state_comes_from_snapshots(real, scene, kept):
    """
    SIGKILL at any moment: state is the newest snapshot and the log behind it, and every prediction
    is the oracle's, as in a run that nobody interrupted.
    """
    draw = random.Random(ROUNDS)
    with scene.feed(PER_SECOND):
        for _ in range(ROUNDS):
            instance = scene.start(**kept)
            work_a_while(instance, draw)
            eventually(lambda: len(snapshots(scene)) == 4, 20, instance.tail)
            instance.kill()
    last = scene.start(**kept)

    scene.wait_done(60)

    assert from_snapshots(last)
    assert last.events("snapshot_refused") == []
    assert check(scene.history()) == []


@BOTH_IF_SLOW
def test_instances_join_and_leave_and_hand_their_state_over(real, scene, kept):
    """Two and three of them, one folder: a partition's new owner goes on from what the old left."""
    with scene.feed(PER_SECOND):
        first = scene.start("0", **kept)
        first.go_on(50)
        others = [scene.start(name, **kept) for name in ("1", "2")]
        for other in others:
            other.go_on(50)
        assert first.stop() == 0
        for other in others:
            other.go_on(50)
        again = scene.start("0", **kept)
        again.go_on(50)
        others[0].kill()
        eventually(lambda: again.total("assigned_partitions") == 2, 20, again.tail)

    scene.wait_done()

    found = {name for one in (*others, again) for name in from_snapshots(one)}
    assert found
    assert check(scene.history()) == []


def test_a_clean_stop_leaves_nothing_to_replay(scene, kept):
    """Revoked partitions are written on the way out, however long the interval."""
    kept["state"]["snapshot_interval"] = "1h"
    scene.upstream.send_mixed(400)
    first = scene.start(**kept)
    scene.wait_done()
    assert first.stop() == 0
    scene.upstream.send_mixed(100)

    second = scene.start(**kept).wait_ready()

    scene.wait_done()
    assert from_snapshots(second) == dict.fromkeys(range(4), 0)
    assert check(scene.history()) == []


def test_a_damaged_snapshot_gives_way_to_the_one_before(scene, kept):
    """And where all are damaged, the log is enough; each refusal is told with its reason."""

    def both_hold_something():
        found = snapshots(scene)
        return len(found) == 4 and all(len(s) > 1 and int(s[1].stem) for s in found.values())

    first = scene.start(**kept)
    with scene.feed(PER_SECOND):
        eventually(both_hold_something, 30, first.tail)
    first.kill()
    found = snapshots(scene)
    for partition, paths in found.items():
        for path in paths[: 2 if partition == 0 else 1]:
            path.write_bytes(path.read_bytes()[:-1])

    second = scene.start(**kept).wait_ready()
    scene.wait_done()

    assert set(from_snapshots(second)) == {1, 2, 3}
    refused = second.events("snapshot_refused")
    assert {each["reason"] for each in refused} == {"damaged"}
    assert second.total("snapshots_refused_total", 'reason="damaged"') == len(refused) >= 4
    assert check(scene.history()) == []


def test_a_topic_made_anew_has_a_state_of_its_own(real, scene, kept):
    """Its records stand at the offsets of others: no snapshot of those is of use."""
    scene.upstream.send_mixed(400)
    first = scene.start(**kept)
    scene.wait_done()
    assert first.stop() == 0
    topic = scene.topics.payments
    [gone] = scene.admin.delete_topics([topic], operation_timeout=10).values()
    gone.result(20)
    eventually(lambda: topic not in scene.admin.list_topics(timeout=5).topics, 20)
    scene.broker.create_topics({topic: 4})
    before = snapshots(scene)
    scene.upstream.send_mixed(800)
    scene.commit({partition: int(paths[0].stem) for partition, paths in before.items()})

    second = scene.start(**kept).wait_ready()

    assert from_snapshots(second) == {}
    assert {each["reason"] for each in second.events("snapshot_refused")} == {"topic"}
    assert replayed(second) == sum(int(paths[0].stem) for paths in before.values())


def test_snapshots_beyond_the_committed_offset_are_left_alone(scene, kept):
    """Operations set the group back: the state must not know what it is to see again."""
    scene.upstream.send_mixed(400)
    first = scene.start(**kept)
    scene.wait_done()
    eventually(lambda: len(snapshots(scene)) == 4, 20, first.tail)
    first.stop()
    scene.commit(dict.fromkeys(range(4), 10))
    usable = [[int(file.stem) for file in files] for files in snapshots(scene).values()]
    held = sum(max([0, *(at for at in offsets if at <= 10)]) for offsets in usable)

    second = scene.start(**kept).wait_ready()

    scene.wait_done()
    assert replayed(second) == 40 - held


def test_a_folder_that_cannot_be_written_stops_nobody(scene, kept):
    """State can always be rebuilt from the log."""
    (scene.folder / "state").write_text("a file, where a folder should be")
    instance = scene.start(**kept)
    with scene.feed(PER_SECOND):
        instance.go_on(100)
        eventually(lambda: instance.total("snapshots_total", 'result="failed"'), 20, instance.tail)

    scene.wait_done()

    assert check(scene.history()) == []


def test_snapshots_are_inspected_verified_and_exported(scene, kept):
    """Each is equal to a fold over the log; one that is damaged or forged is said to be."""
    scene.upstream.send_mixed(400, refused_every=100)
    consumer = scene.start(**kept)
    scene.wait_done()
    assert consumer.stop() == 0
    config = scene.config("state", **kept)

    code, lines = command("state", "verify", "--config", config, "--json")

    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert (code, [row["differences"] for row in rows]) == (0, [[]] * 4)
    assert sum(row["payments"] for row in rows) > 300
    assert {row["partition"]: row["next_offset"] for row in rows} == scene.committed()
    out = scene.folder / "state.parquet"
    assert command("state", "export", str(out), "--config", config)[0] == 0
    table = pq.read_table(out)
    assert table.num_rows == sum(row["payments"] for row in rows)
    assert set(table["partition"].to_pylist()) == {0, 1, 2, 3}

    newest = snapshots(scene)[2][0]
    newest.write_bytes(newest.read_bytes()[:-1])
    code, lines = command("state", "inspect", "--config", config, "--json")

    rows = [json.loads(line) for line in lines if line.startswith("{")]
    refused = [row["refused"] for row in rows if row["refused"]]
    assert (code, refused) == (1, ["damaged: it is not as long as it says"])
    exported = sorted(scene.folder.iterdir()), out.read_bytes()
    assert command("state", "export", str(out), "--config", config)[0] == 78
    assert (sorted(scene.folder.iterdir()), out.read_bytes()) == exported, "a part of an export"


def test_a_hot_card_is_told_by_the_hour_from_a_snapshot_and_from_the_log(scene, kept):
    """More payments than are told apart: a restart does not matter, and the log says the same."""
    send = scene.upstream.send
    paid = [
        scene.upstream.traffic.payment(
            card_id="hot",
            kind="ADVICE",
            amount_minor=1_000 + k,
            event_time=JANUARY + (k - 700 * (k % 9 == 8)) * MINUTE,
        )
        for k in range(4_900)
    ]
    first = scene.start(**kept)
    for each in paid[:4_400]:
        send(each)
    scene.upstream.flush()
    scene.wait_done()
    assert first.stop() == 0
    second = scene.start(**kept)
    for each in paid[4_400:]:
        send(each)
    scene.upstream.flush()
    scene.wait_done()
    assert second.stop() == 0

    config = scene.config("state", **kept)
    code, lines = command("state", "verify", "--config", config, "--json")

    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert (code, [row["differences"] for row in rows if row["payments"]]) == (0, [[]])
    assert list(from_snapshots(second).values()) == [0]
    out = scene.folder / "state.parquet"
    assert command("state", "export", str(out), "--config", config)[0] == 0
    payments, ids = (pq.read_table(out)[name] for name in ("payments", "event_fingerprint"))
    assert (sum(payments.to_pylist()), ids.null_count) == (len(paid), len(ids) - EXACT_PAYMENTS)
    [hot] = [str(row["partition"]) for row in rows if row["payments"]]
    place = "--partition", hot, "--offset", str(len(paid) - 1)
    code, lines = command("explain", "--config", config, "--json", *place)
    [answer] = [json.loads(line) for line in lines if line.startswith("{")]
    assert (code, answer["differences"]) == (0, [])
    assert answer["prediction"]["degraded"] == ["HOT_KEY"]


@pytest.mark.skipif(not SLOW, reason="FRAUDSTREAM_SLOW=1 runs it")
@BOTH
def test_a_full_state_with_a_hot_card_moves_from_hand_to_hand(real, scene, kept):
    """
    Of three instances one leaves, one dies, and both come back, while cards that pay once fill the
    state and are evicted: what does not say STATE_COLD is the oracle's, the hot card's as well.
    """
    kept |= {"batch": {"max_records": 50}}
    kept["state"]["max_bytes"] = 150_000
    traffic, names = scene.upstream.traffic, ("0", "1", "2")
    running = {name: scene.start(name, **kept) for name in names}
    send = partial(send_one_a_minute, scene.upstream)
    hot = {"card_id": "hot", "kind": "ADVICE", "amount_minor": 1_234}

    for number in range(2):
        leaving, dying = names[number], names[number - 1]
        for one in running.values():
            eventually(partial(one.total, "assigned_partitions"), 30, one.tail)
        first = running[leaving]
        before = first.total("predictions_committed_total")
        send({"card_id": f"once-{number}-{k}"} for k in range(3_000))
        eventually(partial(has_published, first, before + 1), 30, first.tail)
        assert first.stop() == 0
        send(hot for _ in range(500))
        running[dying].kill()
        for name in (leaving, dying):
            running[name] = scene.start(name, **kept)
        scene.wait_done(120)
        traffic.clock += 40 * DAY
        send(hot if k % 9 else {} for k in range(5_200))
        running[dying].stop()
        running[dying] = scene.start(dying, **kept)
        scene.wait_done(120)

    history = replace(scene.history(), allowed=frozenset({"LATE_EVENT", "STATE_COLD", "HOT_KEY"}))
    flags = [decode("prediction", read.value)["degraded"] for read in history.predictions]
    assert flags.count(["STATE_COLD"]) > 1_000
    assert flags.count(["HOT_KEY"]) > 500
    assert any(from_snapshots(instance) for instance in running.values())
    assert check(history) == []


def test_a_state_that_the_log_does_not_say_is_found(scene, kept):
    """Somebody put the state of another offset there."""
    scene.upstream.send_mixed(400)
    consumer = scene.start(**kept)
    scene.wait_done()
    assert consumer.stop() == 0
    newest = snapshots(scene)[1][0]
    offset = int(newest.stem)
    forged = newest.with_name(f"{offset - 5:020}.snapshot")
    store = SnapshotStore(kept["state"]["url"], scene.topics.group, scene.topics.payments)
    [stored] = [each for each in store.stored(1) if each.next_offset == offset]
    manifest = Manifest.from_line(newest.read_bytes().split(b"\n")[0])
    state = VelocityState(ARRIVAL_1.plan, manifest.contract.grace, DAY)
    tables = state.empty_tables()
    store.read(stored, manifest.contract, tables)
    words = [
        t[:n] for each in tables.values() for t, n in zip(each.tables[1:], each.used, strict=True)
    ]
    for path in snapshots(scene)[1]:
        path.unlink()
    store.write(1, offset - 5, manifest.contract, None, manifest.tables, words)
    assert forged.exists()

    code, lines = command(
        "state", "verify", "--config", scene.config("state", **kept), "--partition", 1
    )

    assert code == 1
    assert "payments" in "".join(lines)
