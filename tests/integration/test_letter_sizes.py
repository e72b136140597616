import os
from collections import Counter

import pytest

from tests.integration.checker import check
from tests.integration.harness import Scene
from tests.integration.test_dead_letters import committed
from tests.integration.traffic import Input

LARGE = 40_000
SMALL = 20_000


def of_the_client(_: Scene) -> dict[str, dict[str, str]]:
    """The producer of the letters refuses what is larger."""
    return {"kafka": {"message.max.bytes": str(SMALL)}}


def of_the_topic(scene: Scene) -> dict[str, dict[str, str]]:
    """The broker does, as `fraudstream topics` would have said."""
    scene.limit(scene.topics.dead_letters, SMALL)
    return {}


@pytest.mark.parametrize("limit", [of_the_client, of_the_topic], ids=["client", "topic"])
def test_a_letter_that_its_topic_does_not_take_leaves_the_record_out(real, scene, limit):
    """
    However many come in a row, none of them ends the process or is lost: the letter has hash and
    length in place of the record, and its neighbours are scored.
    """
    instance = scene.start(**limit(scene))
    scene.upstream.send_mixed(30)
    for number in range(5):
        paid = scene.upstream.traffic.payment(card_id="large")
        scene.upstream.send(Input(paid.key, (paid.value or b"") + os.urandom(LARGE), "oversize"))
        scene.upstream.send(Input(paid.key, (paid.value or b"")[:40], "decode"))
        scene.upstream.send(scene.upstream.traffic.payment(card_id=f"{number}"))
    scene.upstream.flush()

    scene.wait_done()

    letters = committed(scene, scene.topics.dead_letters)
    reasons = Counter(dict(m.headers())["__fraudstream.errors.reason"] for m in letters)
    assert reasons == {b"oversize": 5, b"decode": 5}
    assert instance.events("record_poisoned") == []
    assert check(scene.history()) == []
    assert instance.stop() == 0
