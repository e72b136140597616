from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclOperation

from consumer.adapters import access
from consumer.adapters.access import (
    Right,
    _allowed,
    _mistrust,
    _principal,
    losses_named,
    transactions_required,
)
from consumer.errors import ConfigError, DeniedError, FatalError
from consumer.settings import Settings

SASL = {"security.protocol": "SASL_SSL", "sasl.username": "scorer"}


class Description:
    """What a broker says of a resource."""

    def __init__(self, operations):
        self.authorized_operations = operations


def answered(value):
    """Return a future with an answer, or with an error of this code."""
    future = Future()
    if isinstance(value, int):
        future.set_exception(KafkaException(KafkaError(value)))
    else:
        future.set_result(Description(value))
    return future


@pytest.mark.parametrize(
    ("kafka", "principal"),
    [
        ({}, "User:ANONYMOUS"),
        (SASL | {"sasl.mechanism": "SCRAM-SHA-512"}, "User:scorer"),
        (SASL | {"sasl.mechanisms": "PLAIN"}, "User:scorer"),
        (SASL | {"sasl.mechanism": "OAUTHBEARER"}, "User:<sub of the token>"),
        ({"security.protocol": "sasl_ssl"}, "User:<our Kerberos principal>"),
        ({"security.protocol": "ssl"}, "User:<subject of our certificate>"),
        (
            {"security.protocol": "ssl", "ssl.certificate.location": "/nowhere"},
            "User:<subject of our certificate>",
        ),
    ],
)
def test_a_principal_is_named_as_far_as_the_properties_tell(kafka, principal):
    """What only the broker knows is described."""
    assert _principal(kafka) == principal


def test_a_missing_right_is_a_command_to_run():
    """Of Kafka's own tools, with the pattern where it is not the name itself."""
    right = Right("Write", "transactional-id", "fraudstream-", "prefixed")

    assert right.sentence("User:scorer").endswith(
        "kafka-acls --add --allow-principal User:scorer --operation Write"
        " --transactional-id fraudstream- --resource-pattern-type prefixed"
    )


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        ({AclOperation.READ, AclOperation.DESCRIBE}, {AclOperation.READ, AclOperation.DESCRIBE}),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, set()),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, set()),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, None),
        (set(), None),
        (None, None),
    ],
)
def test_what_a_broker_says_of_our_rights(answer, allowed):
    """None where it says nothing, as of a topic that does not exist."""
    assert _allowed(answered(answer)) == allowed


def test_a_broker_that_is_not_ready_is_asked_again():
    """The error goes up to who waits for brokers."""
    with pytest.raises(KafkaException, match="NOT_COORDINATOR"):
        _allowed(answered(KafkaError.NOT_COORDINATOR))


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (KafkaError._AUTHENTICATION, "invalid credentials", "credentials, those of User:scorer,"),
        (KafkaError._SSL, "certificate verify failed", "no trusted TLS"),
        (KafkaError._TRANSPORT, "SSL routines::tls alert bad certificate", "no trusted TLS"),
        (KafkaError._TRANSPORT, "Connection refused", None),
        (KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down", None),
    ],
)
def test_only_what_waiting_does_not_mend_is_refused(code, text, said):
    """A broker that is away may come back."""
    kafka = {"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN", "sasl.username": "scorer"}
    sentences = list(_mistrust([KafkaError(code, text), KafkaError(code, text)], kafka))

    assert len(sentences) == (said is not None)
    assert all(said in sentence and text in sentence for sentence in sentences)


SETTINGS = Settings(kafka={"bootstrap.servers": "127.0.0.1:1", "group.id": "g"})


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (DeniedError("refused", "transactional-id"), ConfigError, "--transactional-id g- "),
        (FatalError("fenced"), FatalError, "fenced"),
    ],
)
def test_only_a_denied_transaction_is_a_missing_acl(fault, kind, said):
    """Another fault of the coordinator stays what it is."""
    with pytest.raises(kind, match=said), transactions_required(SETTINGS):
        raise fault


@pytest.mark.parametrize("resource", ["topic", "group"])
def test_a_loss_that_brokers_cannot_name_is_told_as_they_told_it(resource, monkeypatch):
    """None answers here: no right is called missing, and nothing else is raised."""
    monkeypatch.setattr(access, "_REQUEST_SECONDS", 0.1)

    with pytest.raises(FatalError) as caught, losses_named(SETTINGS):
        raise DeniedError("the group consumer cannot go on: denied", resource)

    assert str(caught.value) == "the group consumer cannot go on: denied"


def test_a_lost_transactional_id_is_named_without_brokers(monkeypatch):
    """They could not be asked for it anyway."""
    monkeypatch.setattr(access, "_REQUEST_SECONDS", 0.1)

    with (
        pytest.raises(
            FatalError, match="refused\nUser:ANONYMOUS lacks Write on transactional-id g-"
        ),
        losses_named(SETTINGS),
    ):
        raise DeniedError("refused", "transactional-id")
