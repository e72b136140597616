from collections import Counter

from confluent_kafka.admin import NewPartitions

from tests.builders import payment
from tests.integration.checker import check
from tests.integration.harness import Scene, eventually
from tests.integration.test_commands import command
from tests.integration.test_dead_letters import ahead, desk  # noqa: F401 - a fixture
from tests.integration.traffic import Input, encode

RATIO = {
    "batch": {"max_records": 10},
    "dead_letters": {"max_consecutive": 0, "max_ratio": 0.4, "ratio_records": 20},
}


def all_done_but(scene: Scene, *held: int) -> bool:
    """Say whether everything of the other partitions is committed."""
    sent = Counter(sent.partition for sent in scene.upstream.journal.sent)
    committed = scene.committed()
    return all(committed[p] == count for p, count in sent.items() if p not in held)


def test_a_partition_with_a_large_share_of_dead_letters_waits_and_the_others_go_on(desk):  # noqa: F811
    """
    Every second record of a card is refused: its partition is paused, again after `resume` and
    after a restart, each time with the next record; in the end none of them was skipped.
    """
    instance = desk.start(**RATIO).wait_ready()
    for number in range(50):
        refused = ahead(0, 2 + number / 1_000)
        desk.upstream.send(desk.upstream.traffic.payment(card_id=(refused.key or b"").decode()))
        desk.upstream.send(refused)
    desk.upstream.send_mixed(100)
    [bad] = {sent.partition for sent in desk.upstream.journal.sent if sent.outcome == "future"}
    mine = f'partition="{bad}"'

    def standing() -> int:
        eventually(lambda: instance.total("partition_paused", mine) == 1, 20, instance.tail)
        assert instance.events("partition_paused")[-1]["limit"] == "ratio"
        return desk.committed()[bad]

    first = standing()
    eventually(lambda: all_done_but(desk, bad), 20, instance.tail)
    assert instance.total("partition_paused") == 1
    assert instance.ready()
    assert command("resume", instance.pid)[0] == 0
    eventually(lambda: instance.events("partition_resumed"), 20, instance.tail)
    second = standing()
    assert instance.stop() == 0
    instance = desk.start(**RATIO)
    third = standing()

    assert [20 <= first < 30, 20 <= second - first < 30, 20 <= third - second < 30] == [True] * 3
    eventually(lambda: all_done_but(desk, bad), 20, instance.tail)
    assert instance.stop() == 0
    desk.start(dead_letters={"max_consecutive": 0, "max_ratio": 1})
    desk.wait_done()
    assert check(desk.history()) == []


def of_new_cards(count: int) -> list[Input]:
    """Return payments and what cannot be read, of cards that never paid before, by turns."""
    cards = [f"new-{number}" for number in range(count)]
    good = [encode("transaction", payment(9_000 + k, card_id=c)) for k, c in enumerate(cards)]
    return [
        Input(card.encode(), value[:40], "decode") if k % 2 else Input(card.encode(), value)
        for k, (card, value) in enumerate(zip(cards, good, strict=True))
    ]


def test_partitions_that_only_the_input_got_wait_for_their_dead_letters(desk):  # noqa: F811
    """
    The input grows alone: what is new is held at the first batch with a dead letter, by name, the
    others go on, and a start is refused; `fraudstream topics` makes the places, `resume` goes on.
    """
    refresh = {"kafka": {"topic.metadata.refresh.interval.ms": "1000"}}
    instance = desk.start(**refresh).wait_ready()
    desk.upstream.send_mixed(60, refused_every=30)
    desk.wait_done()
    grown = desk.admin.create_partitions([NewPartitions(desk.topics.payments, 6)])
    grown[desk.topics.payments].result(30)
    desk.partitions = 6
    eventually(lambda: desk.upstream.partitions() == 6, 20)
    for paid in of_new_cards(60):
        desk.upstream.send(paid)
    desk.upstream.flush()

    eventually(lambda: instance.total("partition_paused") == 2, 30, instance.tail)
    eventually(lambda: all_done_but(desk, 4, 5), 20, instance.tail)
    held = instance.events("partitions_held")
    narrow = f"topic {desk.topics.dead_letters} has 4 partitions"
    assert {p for entry in held for p in entry["partitions"]} == {4, 5}
    assert all(entry["cause"].startswith(narrow) for entry in held)
    assert all("run `fraudstream topics`" in entry["do"] for entry in held)
    assert instance.ready()
    refused = desk.start("two")
    assert refused.wait(30) == 78
    assert f"{narrow}, and {desk.topics.payments} 6: a dead letter keeps" in refused.tail()

    _, lines = command("topics", "--config", desk.config("one"))
    assert f"{desk.topics.dead_letters} has 6 partitions now" in lines
    assert command("resume", instance.pid)[0] == 0
    desk.wait_done()
    assert check(desk.history()) == []
