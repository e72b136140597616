"""
What the brokers let us do, asked at start and when they refuse something later: what is missing is
named with the ACL that gives it.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented, not in __all__
    AclOperation,
    AdminClient,
)
from cryptography import x509

from consumer.adapters import kafka_clients
from consumer.adapters.kafka_errors import is_denial, kafka_error
from consumer.errors import ConfigError, DeniedError, FatalError
from consumer.kafka_properties import announced_exposures, protocol_of
from consumer.settings import Settings

_METADATA_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 5.0
_NOT_THERE: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND}
)  # fmt: skip
_TLS_FAULT: Final = "SSL routines"
"""
In the words of OpenSSL. A broker that refuses our certificate does so after the handshake, and
librdkafka tells of it as of a lost connection.
"""


@dataclass(frozen=True, slots=True)
class Right:
    """An operation on a resource, in the words of Kafka's ACLs; Describe is implied by both."""

    operation: str
    resource: str
    name: str
    pattern: str = "literal"

    def sentence(self, principal: str) -> str:
        """Say which ACL is missing, as a command of Kafka's too."""
        options = f"--{self.resource} {self.name}"
        if self.pattern != "literal":
            options += f" --resource-pattern-type {self.pattern}"
        return (
            f"{principal} lacks {self.operation} on {self.resource} {self.name}: allow it with"
            f" kafka-acls --add --allow-principal {principal} --operation {self.operation}"
            f" {options}"
        )


def rights(settings: Settings) -> list[Right]:
    """Return all that `fraudstream run` needs to be allowed, and nothing else."""
    topics = settings.topics
    needed = [
        Right("Read", "topic", topics.input),
        Right("Read", "topic", topics.labels),
        Right("Write", "topic", topics.predictions),
        Right("Write", "topic", topics.alerts),
        Right("Write", "topic", settings.dead_letter_topic),
        Right("Read", "group", settings.group),
    ]
    if settings.processing.guarantee == "exactly-once":
        needed.append(_transactions(settings))
    return needed


def require_access(settings: Settings) -> None:
    """
    Return when the brokers know us and let us read and write all that we must.

    A right to transactions cannot be asked for; `transactions_required` names it if it is refused.
    A broker that tells no rights, as librdkafka's in-process cluster, is taken at its word.

    Raises ConfigError with a sentence for each ACL that is missing, and what `require_trust` does.
    """
    admin = require_trust(settings, _METADATA_SECONDS)
    if missing := list(_missing(admin, settings)):
        principal = _principal(settings.kafka)
        raise ConfigError([right.sentence(principal) for right in missing])


def require_trust(settings: Settings, timeout_seconds: float) -> AdminClient:
    """
    Return a client of the brokers once they and we trust each other.

    Raises ConfigError with a sentence that says why we do not, or that they name others beyond
    loopback to go on with in clear; and KafkaException when no broker answers.
    """
    refusals: list[KafkaError] = []
    config = kafka_clients.admin_config(settings) | {"error_cb": refusals.append}
    admin = AdminClient(config)
    try:
        brokers = admin.list_topics(timeout=timeout_seconds).brokers.values()
    except KafkaException:
        admin.poll(0)  # which calls error_cb
        if faults := list(_mistrust(refusals, settings.kafka)):
            raise ConfigError(faults) from None
        raise
    announced = [(str(broker.host), int(broker.port)) for broker in brokers]
    faults = list(announced_exposures(settings.kafka, announced))
    if faults and not settings.security.insecure:
        raise ConfigError([f"kafka: {sentence}" for sentence in faults])
    return admin


@contextmanager
def transactions_required(settings: Settings) -> Iterator[None]:
    """Raise ConfigError with the ACL that is missing when our transactional ids are refused."""
    try:
        yield
    except DeniedError as denied:
        sentence = _transactions(settings).sentence(_principal(settings.kafka))
        raise ConfigError(sentence) from denied


@contextmanager
def losses_named(settings: Settings) -> Iterator[None]:
    """
    Let FatalError say which ACLs are missing when a right is refused that we had at the start.

    Where the brokers cannot tell, or give it again meanwhile, it says what they said first.
    """
    try:
        yield
    except DeniedError as denied:
        raise FatalError("\n".join([str(denied), *_lost(settings, denied)])) from denied


def _lost(settings: Settings, denied: DeniedError) -> Iterator[str]:
    principal = _principal(settings.kafka)
    if denied.resource == "transactional-id":
        yield _transactions(settings).sentence(principal)
    with suppress(KafkaException):
        admin = AdminClient(kafka_clients.admin_config(settings))
        yield from [right.sentence(principal) for right in _missing(admin, settings)]


def _transactions(settings: Settings) -> Right:
    return Right("Write", "transactional-id", f"{settings.group}-", "prefixed")


def _missing(admin: AdminClient, settings: Settings) -> Iterator[Right]:
    needed = [right for right in rights(settings) if right.resource != "transactional-id"]
    groups = [right.name for right in needed if right.resource == "group"]
    topics = [right.name for right in needed if right.resource == "topic"]
    options: dict[str, Any] = {
        "include_authorized_operations": True, "request_timeout": _REQUEST_SECONDS,
    }  # fmt: skip
    try:
        allowed = {
            ("group", name): _allowed(future)
            for name, future in admin.describe_consumer_groups(groups, **options).items()
        }
    except KafkaException as exception:
        if kafka_error(exception).code() == KafkaError._UNSUPPORTED_FEATURE:
            return
        raise
    for name, future in admin.describe_topics(TopicCollection(topics), **options).items():
        allowed["topic", name] = _allowed(future)
    for right in needed:
        operations = allowed[right.resource, right.name]
        if operations is not None and AclOperation[right.operation.upper()] not in operations:
            yield right


def _allowed(description: "Future[Any]") -> frozenset[AclOperation] | None:
    """Return the operations that a description says are ours, None where it cannot say."""
    try:
        operations = description.result(_REQUEST_SECONDS + 1).authorized_operations
    except TimeoutError as error:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from error
    except KafkaException as exception:
        fault = kafka_error(exception)
        if is_denial(fault):
            return frozenset()
        if fault.code() in _NOT_THERE:
            return None
        raise
    return frozenset(operations) if operations else None


def _mistrust(refusals: list[KafkaError], kafka: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence if the brokers refused us, or we them: waiting does not mend that."""
    for error in refusals:
        if error.code() == KafkaError._AUTHENTICATION:
            yield (
                f"the brokers refuse our credentials, those of {_principal(kafka)}, see"
                f' kafka."sasl.…": {error.str()}'
            )
        elif error.code() == KafkaError._SSL or _TLS_FAULT in error.str():
            yield (
                f'no trusted TLS with the brokers, see kafka."ssl.…": {error.str()}'
                + _expiry(kafka.get("ssl.certificate.location"))
            )
        else:
            continue
        return


def _principal(kafka: Mapping[str, str]) -> str:
    """Return how a broker names us by default, as far as the properties tell."""
    protocol = protocol_of(kafka)
    if protocol == "plaintext":
        return "User:ANONYMOUS"
    if protocol == "ssl":
        return _subject(kafka.get("ssl.certificate.location"))
    mechanism = kafka.get("sasl.mechanism", kafka.get("sasl.mechanisms", "GSSAPI")).upper()
    if mechanism == "OAUTHBEARER":
        return "User:<sub of the token>"
    return f"User:{kafka.get('sasl.username', '<our Kerberos principal>')}"


def _subject(certificate: str | None) -> str:
    """Return the principal that a client certificate makes, its subject (RFC 4514)."""
    found = _read(certificate)
    return (
        f"User:{found.subject.rfc4514_string()}" if found else "User:<subject of our certificate>"
    )


def _expiry(certificate: str | None) -> str:
    """Say that a client certificate has expired; a broker may only call it unknown."""
    found = _read(certificate)
    if found is None or found.not_valid_after_utc > datetime.now(UTC):
        return ""
    return f" (our certificate {certificate} was valid until {found.not_valid_after_utc})"


def _read(certificate: str | None) -> x509.Certificate | None:
    """Return a client certificate; None where it is no PEM file."""
    try:
        return x509.load_pem_x509_certificate(Path(certificate or "").read_bytes())
    except (OSError, ValueError):
        return None
