import signal

import pytest

from tests.integration.conftest import BOTH_IF_SLOW
from tests.integration.harness import Instance, Scene, eventually
from tests.integration.history import decode
from tests.integration.traffic import Upstream


def remake(scene: Scene, topic: str, width: int) -> None:
    """Delete a topic and make another of its name, before anybody asks for it in between."""
    [gone] = scene.admin.delete_topics([topic], operation_timeout=10).values()
    gone.result(20)
    eventually(lambda: topic not in scene.admin.list_topics(timeout=5).topics, 20)
    scene.broker.create_topics({topic: width})


def assert_ends(consumer: Instance, topic: str) -> None:
    """It ends with the code that says that a new process goes on, and says why."""
    assert consumer.wait(30) == 75
    assert f"topic {topic} was deleted and made again" in consumer.tail()


@BOTH_IF_SLOW
def test_all_payments_of_a_topic_that_was_made_anew_are_scored(real, scene):
    """
    By the time they are read, more have come than the deleted topic had: the next offset of old is
    one of another record, and those before it are not passed over.
    """
    scene.upstream.send_mixed(100)
    consumer = scene.start()
    scene.wait_done()
    consumer.signal(signal.SIGSTOP)
    remake(scene, scene.topics.payments, scene.partitions)
    upstream = Upstream(scene.address, scene.topics.payments, scene.topics.labels, seed=2)
    upstream.send_mixed(600, label_every=0)
    consumer.signal(signal.SIGCONT)
    sent = {decode("transaction", each.value)["event_id"] for each in upstream.journal.sent}

    assert_ends(consumer, scene.topics.payments)
    again = scene.start()

    def missing() -> set[str]:
        history = scene.history()
        return sent - {decode("prediction", each.value)["event_id"] for each in history.predictions}

    eventually(lambda: not missing(), 30, again.tail)
    assert again.stop() == 0
    assert scene.start().wait_ready().stop() == 0  # from then on its offsets are of this topic


def test_labels_of_a_topic_that_was_made_anew_are_all_read(real, scene):
    """Those before the offset that the deleted one was read up to, too, by a new process."""
    scene.upstream.send_mixed(60, label_every=2)
    consumer = scene.start()
    scene.wait_done()

    remake(scene, scene.topics.labels, 1)

    assert_ends(consumer, scene.topics.labels)


@pytest.mark.bad_input("g4")
def test_an_offset_beyond_the_end_is_not_waited_for(real, scene):
    """It ends with code 70, and does not speak of retention, which had no part in it."""
    scene.upstream.send_mixed(20)
    scene.commit({0: 10_000})

    consumer = scene.start()

    assert consumer.wait(30) == 70
    assert "ends before offset 10000" in consumer.tail()
    assert scene.committed()[0] == 10_000
