import pytest

from tests.builders import DAY, JANUARY, payment
from tests.integration.harness import Scene, eventually
from tests.integration.traffic import Input, Upstream, encode

CARDS = 400


def pay(upstream: Upstream, count: int, first: int) -> None:
    """Let cards pay by turns."""
    for number in range(first, first + count):
        card, at = f"card-{number % CARDS}", JANUARY + number * DAY // 5_000
        fields = payment(number, card_id=card, event_time=at)
        upstream.send(Input(card.encode(), encode("transaction", fields)))
    upstream.flush()


def other_upstream(scene: Scene) -> Upstream:
    """Return an application with librdkafka's own partitioner, where the scene's has Java's."""
    names = scene.topics.payments, scene.topics.labels
    return Upstream(scene.address, *names, partitioner="consistent_random")


@pytest.mark.bad_input("c8")
def test_two_partitioners_of_one_topic_are_told(real, scene):
    """One is nobody's fault, whichever it is; from the second on, a metric and the log say so."""
    instance = scene.start(batch={"max_records": 1_000}).wait_ready()
    pay(scene.upstream, 5_000, first=0)
    scene.wait_done()
    alone = instance.total("partitioners_mixed"), instance.events("partitioners_mixed")
    other = other_upstream(scene)
    for turn in range(10):
        pay(scene.upstream, 600, first=5_000 + 1_200 * turn)
        pay(other, 600, first=5_600 + 1_200 * turn)

    eventually(lambda: instance.total("partitioners_mixed") == 1, 30, instance.tail)

    assert alone == (0, [])
    [told] = instance.events("partitioners_mixed")
    assert min(told["murmur2"], told["crc32"]) >= 3
    assert "murmur2_random" in told["do"]
    assert instance.ready()
