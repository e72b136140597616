import os
from pathlib import Path

import numpy as np
import pytest

from consumer.adapters.snapshots import SnapshotStore, Stored
from consumer.core.feature_sets import ARRIVAL_1, ARRIVAL_4, KeyPlan
from consumer.core.snapshot import Contract, SnapshotRefusedError, StateCopy
from consumer.core.state import VelocityState
from consumer.errors import ConfigError
from tests.builders import DAY, events_of, payment

WINDOWS = (DAY, 30 * DAY)
CONTRACT = Contract(
    feature_set="arrival-1", windows={"card": WINDOWS}, grace=DAY, alert_window=DAY, schemas=["aa"]
)


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    """A store in a folder, and one where nothing can be renamed."""
    url = str(tmp_path / "state") if request.param == "folder" else f"memory://{tmp_path.name}"
    return SnapshotStore(url, "a group/ours", "payments")


@pytest.fixture
def state():
    """A partition that saw 500 payments of 100 cards."""
    state = fresh()
    state.begin(3)
    paid = [payment(k, card_id=f"card-{k % 100}") for k in range(500)]
    observe(state, paid)
    return state


def fresh():
    return VelocityState({"card": KeyPlan(WINDOWS)}, grace=DAY, alert_window=DAY)


def observe(state, paid):
    events = events_of(paid, partitions=3)
    found = state.observe(events, np.ones(len(paid), np.bool_))
    state.settle()
    return found


def write(store, state, next_offset=500, contract=CONTRACT, cold_until=None):
    tables = state.tables(3)
    words = [
        t[:n] for each in tables.values() for t, n in zip(each.tables[1:], each.used, strict=True)
    ]
    return store.write(3, next_offset, contract, cold_until, StateCopy(tables).cut(), words)


def read(store, stored, contract=CONTRACT):
    """Return the manifest and a state that goes on from the snapshot."""
    state = fresh()
    tables = state.empty_tables()
    manifest = store.read(stored, contract, tables)
    state.begin(3, cold_until=manifest.cold_until, tables=tables)
    return manifest, state


def test_a_state_goes_on_from_what_was_written_of_it(store, state):
    """Every window says the same as if nothing had happened."""
    stored = write(store, state, cold_until=7)

    manifest, restored = read(store, stored)

    more = [payment(k, card_id=f"card-{k % 150}") for k in range(500, 900)]
    expected, found = observe(state, more), observe(restored, more)
    found, expected = found.totals["card"], expected.totals["card"]
    assert found.counts.tolist() == expected.counts.tolist()
    assert found.sums.tolist() == expected.sums.tolist()
    assert (manifest.partition, manifest.next_offset, manifest.cold_until) == (3, 500, 7)


def test_payments_and_alerts_that_come_again_are_known(store, state):
    """A repeat counts once, and a card has one alert in a window, whoever was asked first."""
    again = [payment(k, card_id=f"card-{k % 100}") for k in range(400, 500)]
    in_time = np.zeros(len(again), np.bool_)
    assert state.open_alerts(events_of(again, partitions=3), in_time).all()
    state.settle()

    _, restored = read(store, write(store, state))

    assert restored.tables(3)["card"].payment_count == 500
    assert set(observe(restored, again).totals["card"].counts[:, 0].tolist()) == {5}
    assert restored.tables(3)["card"].payment_count == 500
    assert not restored.open_alerts(events_of(again, partitions=3), in_time).any()


def test_a_state_with_words_goes_on_from_what_was_written_of_it(store):
    """A third table follows, of what else is kept of each payment."""
    plan, contract = ARRIVAL_4.plan, CONTRACT.model_copy(update={"feature_set": "arrival-4"})
    whole, restored = (VelocityState(plan, grace=DAY, alert_window=DAY) for _ in range(2))
    whole.begin(3)
    observe(whole, [payment(k, card_id=f"card-{k % 100}") for k in range(500)])
    tables = restored.empty_tables()

    manifest = store.read(write(store, whole, contract=contract), contract, tables)

    restored.begin(3, tables=tables)
    more = [payment(k, card_id=f"card-{k % 50}", terminal_id=str(k % 9)) for k in range(500, 900)]
    expected, found = (observe(state, more).totals["card"] for state in (whole, restored))
    assert len(manifest.tables[0].words) == 3
    assert found.distinct.tolist() == expected.distinct.tolist()
    assert found.distinct[:, 0, 0].max() > 5


@pytest.mark.parametrize("feature_set", [ARRIVAL_1, ARRIVAL_4], ids=["two", "three"])
def test_a_snapshot_with_another_number_of_tables_is_refused_as_damaged(store, feature_set):
    """It is sound in itself, but nobody could have written it."""
    other = ARRIVAL_4 if feature_set is ARRIVAL_1 else ARRIVAL_1
    state = VelocityState(other.plan, grace=DAY, alert_window=DAY)
    state.begin(3)
    observe(state, [payment(k) for k in range(50)])
    empty = VelocityState(feature_set.plan, grace=DAY, alert_window=DAY).empty_tables()

    with pytest.raises(SnapshotRefusedError, match="tables") as refusal:
        store.read(write(store, state), CONTRACT, empty)

    assert refusal.value.reason == "damaged"


def test_an_empty_state_is_a_state(store):
    """A partition of tombstones has one."""
    state = fresh()
    state.begin(3)

    manifest, _ = read(store, write(store, state))

    assert manifest.tables[0].words == (0, 0)


def test_the_newest_comes_first_and_others_are_left_out(store, state):
    """Of one partition or of all; drafts and strangers are no snapshots."""
    for offset in (5, 100, 20):
        write(store, state, next_offset=offset)

    assert [each.next_offset for each in store.stored(3)] == [100, 20, 5]
    assert store.stored(2) == []
    assert [each.partition for each in store.stored()] == [3, 3, 3]


def test_old_ones_are_pruned(store, state):
    """The newest so many stay."""
    for offset in range(5):
        write(store, state, next_offset=offset)

    store.prune(store.stored(3)[0], keep=2)

    assert [each.next_offset for each in store.stored(3)] == [4, 3]


def test_what_was_just_written_stays_though_the_group_was_set_back(store, state):
    """Snapshots beyond it may be of another topic of that name: nobody tells here."""
    for offset in (1_100, 1_200):
        write(store, state, next_offset=offset)

    store.prune(write(store, state, next_offset=300), keep=2)

    assert [each.next_offset for each in store.stored(3)] == [300]


def test_a_late_writer_leaves_the_snapshots_of_the_next_owner(store, state):
    """They are of the same topic, so they are states of the same log."""
    store.topic_id = "A"
    for offset in (300, 1_000, 1_100, 1_200):
        write(store, state, next_offset=offset)

    store.prune(write(store, state, next_offset=500), keep=2)

    assert [each.next_offset for each in store.stored(3)] == [1_200, 1_100, 500, 300]


def test_snapshots_of_a_topic_that_was_made_anew_are_refused_and_pruned(store, state):
    """Other records stand at its offsets."""
    store.topic_id = "A"
    old = [write(store, state, next_offset=offset) for offset in (300, 1_200)]
    store.topic_id = "B"

    with pytest.raises(SnapshotRefusedError, match="made anew") as refusal:
        read(store, old[0])
    store.prune(write(store, state, next_offset=500), keep=2)

    assert refusal.value.reason == "topic"
    assert [each.next_offset for each in store.stored(3)] == [500, 300]


@pytest.mark.parametrize(("then", "now"), [(None, "A"), ("A", None)])
def test_a_broker_that_tells_no_ids_is_believed(store, state, then, now):
    """It is old, or the one before it was."""
    store.topic_id = then
    stored = write(store, state)
    store.topic_id = now

    read(store, stored)


@pytest.mark.parametrize("name", ["\u00b2", "-1", "1.5", "newest"])
def test_a_stranger_among_the_files_is_left_out(tmp_path, state, name):
    """Whatever its name."""
    store = SnapshotStore(str(tmp_path), "g", "payments")
    written = write(store, state)
    Path(written.path).with_name(f"{name}.snapshot").write_bytes(b"")

    assert [each.next_offset for each in store.stored(3)] == [500]


def test_a_folder_whose_name_is_a_pattern(tmp_path, state):
    """It is a name."""
    store = SnapshotStore(str(tmp_path / "state[1]*"), "g", "payments")
    write(store, state)

    assert len(store.stored(3)) == 1


def test_a_header_that_no_table_has_is_damaged(tmp_path, state):
    """Somebody wrote it who knows how to compute a digest."""
    store = SnapshotStore(str(tmp_path), "g", "payments")
    cut = StateCopy(state.tables(3)).cut()
    forged = [cut[0].model_copy(update={"header": [2**63, *cut[0].header[1:]]})]
    words = [t[:n] for t, n in zip(state.tables(3)["card"].tables[1:], cut[0].words, strict=True)]
    stored = store.write(3, 500, CONTRACT, None, forged, words)

    with pytest.raises(SnapshotRefusedError) as refusal:
        read(store, stored)

    assert refusal.value.reason == "damaged"


def test_drafts_that_nobody_finished_are_removed(tmp_path, state):
    """A process that was killed leaves one; a young one may still be written."""
    store = SnapshotStore(str(tmp_path), "g", "payments")
    folder = Path(write(store, state).path).parent
    old, young = folder / ".old.part", folder / ".young.part"
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))

    store.prune(store.stored(3)[0], keep=2)

    assert (old.exists(), young.exists()) == (False, True)
    assert len(store.stored(3)) == 1


def test_groups_do_not_see_each_other(tmp_path, state):
    """Another group has another model, and its own state."""
    write(SnapshotStore(str(tmp_path), "a", "payments"), state)

    assert SnapshotStore(str(tmp_path), "b", "payments").stored() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"feature_set": "other-1"}, "feature_set"),
        ({"windows": {"card": (DAY,)}}, "windows"),
        ({"grace": 2 * DAY}, "windows"),
        ({"alert_window": 2 * DAY}, "windows"),
        ({"schemas": ["bb"]}, "schema"),
    ],
)
def test_a_state_under_another_contract_is_refused(store, state, changes, reason):
    """Its numbers mean something else."""
    stored = write(store, state)

    with pytest.raises(SnapshotRefusedError) as refusal:
        read(store, stored, CONTRACT.model_copy(update=changes))

    assert refusal.value.reason == reason


def test_a_state_of_fewer_schemas_goes_on(store, state):
    """A new version of a schema is no reason to rebuild."""
    stored = write(store, state)

    read(store, stored, CONTRACT.model_copy(update={"schemas": ["aa", "bb"]}))


@pytest.mark.parametrize("place", [0, 1, 30, 400, 2_000, 20_000, -33, -32, -1])
def test_a_flipped_bit_is_found(tmp_path, state, place):
    """Wherever it is."""
    store = SnapshotStore(str(tmp_path), "g", "payments")
    stored = write(store, state)
    whole = bytearray(Path(stored.path).read_bytes())
    whole[place] ^= 1
    Path(stored.path).write_bytes(whole)

    with pytest.raises(SnapshotRefusedError):
        read(store, stored)


@pytest.mark.parametrize("kept", [0, 1, 100, 5_000, -1])
def test_a_snapshot_that_ends_too_early_is_damaged(tmp_path, state, kept):
    """As a copy that was broken off leaves it."""
    store = SnapshotStore(str(tmp_path), "g", "payments")
    stored = write(store, state)
    whole = Path(stored.path).read_bytes()
    Path(stored.path).write_bytes(whole[:kept])
    [stored] = store.stored(3)

    with pytest.raises(SnapshotRefusedError) as refusal:
        read(store, stored)

    assert refusal.value.reason == "damaged"


def test_another_format_is_named(tmp_path, state):
    """An older or a newer release wrote it."""
    store = SnapshotStore(str(tmp_path), "g", "payments")
    stored = write(store, state)
    whole = Path(stored.path).read_bytes()
    Path(stored.path).write_bytes(whole.replace(b'"fraudstream_state":1', b'"fraudstream_state":9'))

    with pytest.raises(SnapshotRefusedError, match="format 1") as refusal:
        read(store, stored)

    assert refusal.value.reason == "format"


def test_a_snapshot_under_another_name_is_damaged(store, state):
    """Its offset would be taken for another."""
    stored = write(store, state)

    with pytest.raises(SnapshotRefusedError, match="name"):
        read(store, Stored(stored.path, 3, 400, stored.size_bytes))


def test_a_write_that_fails_leaves_nothing(tmp_path, state):
    """Neither a draft nor a snapshot."""
    store = SnapshotStore(str(tmp_path), "g", "payments")

    def broken():
        yield np.zeros(1, np.int64)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="space"):
        store.write(3, 1, CONTRACT, None, StateCopy(state.tables(3)).cut(), broken())

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_url_nobody_answers_for_is_refused():
    """With the name of the key, before anything starts."""
    with pytest.raises(ConfigError, match=r"state\.url: .*nonsense"):
        SnapshotStore("nonsense://x", "g", "payments")
