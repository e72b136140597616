import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.adapters import topic_identity
from consumer.adapters.topic_identity import TopicIdentity
from consumer.errors import TopicRemadeError


@pytest.fixture
def told(monkeypatch):
    """What brokers say of each topic: an id, None where they have none, or an error's code."""
    told = {"payments": "a", "labels": "b"}

    def ask(_, topic):
        if isinstance(told[topic], int):
            raise KafkaException(KafkaError(told[topic]))
        return told[topic]

    monkeypatch.setattr(topic_identity, "ask_topic_id", ask)
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
    assert identity.topic_id == ""
    identity.look()
    ours = identity.topic_id

    assert not identity.is_of_another(ours)
    assert not identity.is_of_another("")
    told["payments"] = "c"
    assert TopicIdentity({}, "payments").is_of_another(ours)


def test_offsets_are_not_believed_before_the_topic_is_known(told, identity):
    """The brokers are asked until they answer; those without ids have nothing to say."""
    identity.look()
    ours = identity.topic_id
    later = TopicIdentity({}, "payments")
    told["payments"] = KafkaError._TRANSPORT

    with pytest.raises(KafkaException):
        later.is_of_another(ours)

    told["payments"] = None
    assert not later.is_of_another(ours)
