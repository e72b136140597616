import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.adapters import topic_identity
from consumer.adapters.offset_metadata import OffsetMetadata
from consumer.adapters.topic_identity import TopicIdentity
from consumer.errors import TopicRemadeError


@pytest.fixture
def told(monkeypatch):
    """What brokers say of each topic: an id, None where they have none, or an error's code."""
    told = {"payments": "a", "labels": "b", "cluster": "k"}

    def ask(_, topic):
        if isinstance(told[topic], int):
            raise KafkaException(KafkaError(told[topic]))
        return told[topic]

    monkeypatch.setattr(topic_identity, "ask_topic_id", ask)
    monkeypatch.setattr(topic_identity, "ask_cluster_id", lambda _: told["cluster"])
    return told


@pytest.fixture
def identity():
    return TopicIdentity({}, "payments", "labels")


@pytest.mark.parametrize("topic", ["payments", "labels"])
def test_another_id_is_another_topic(told, identity, topic):
    """It stays so; what is gone for a time, or not told, is no other topic."""
    identity.look()
    for nothing in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._TIMED_OUT, None):
        told[topic] = nothing
        identity.require_same_now()

    told[topic] = "c"

    identity.require_same()
    with pytest.raises(TopicRemadeError, match=f"topic {topic} was deleted"):
        identity.require_same_now()
    with pytest.raises(TopicRemadeError):
        identity.require_same()


def test_offsets_say_which_topic_they_are_of(told, identity):
    """Those of others, and those that an operator set, say nothing and hold."""
    by_hand = OffsetMetadata.parse("by hand")
    assert identity.metadata("s", 3) == OffsetMetadata(scorer="s", since=3)
    identity.look()
    ours = identity.metadata("s", 3)

    assert identity.believed(ours) == ours == OffsetMetadata("k", "a", "s", 3)
    assert identity.believed(by_hand) == OffsetMetadata()
    told["payments"] = "c"
    assert TopicIdentity({}, "payments").believed(ours) is None


def test_offsets_that_a_mirror_brought_hold(told, identity):
    """They are those of this cluster's topic; who decided since when is told of the other's."""
    identity.look()
    ours = identity.metadata("s", 3)
    told |= {"payments": "c", "cluster": "other"}

    assert TopicIdentity({}, "payments").believed(ours) == OffsetMetadata()


def test_an_id_that_is_out_of_date_is_doubted_before_an_offset_is(told, identity):
    """Another member may have noticed before us that the topic is another one."""
    identity.look()
    told["payments"] = "c"
    other = TopicIdentity({}, "payments")
    other.look()

    with pytest.raises(TopicRemadeError):
        identity.believed(other.metadata("s", 3))


def test_offsets_are_not_believed_before_the_topic_is_known(told, identity):
    """The brokers are asked until they answer; those without ids have nothing to say."""
    identity.look()
    ours = identity.metadata("s", 3)
    later = TopicIdentity({}, "payments")
    told["payments"] = KafkaError._TRANSPORT

    with pytest.raises(KafkaException):
        later.believed(ours)

    told["payments"] = None
    assert later.believed(ours) == ours
