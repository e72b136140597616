"""
A Kafka that lets in only those it knows: a listener for each way to prove who one is, and ACLs.

The first listener, PLAINTEXT on loopback, is the tests' own, who may do everything. All keys and
certificates are made anew and are worth nothing elsewhere.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from consumer.adapters.access import Right, rights
from consumer.settings import load_settings
from tests.brokers import Broker, Listener, Rung, choose, open_broker
from tests.integration.harness import Scene
from tests.kafka.processes import admin_client

SCRAM_USER = "scorer"
FAR_BROKER = "kafka.bank.example"
WAYS = {
    "SCRAM": "SASL_SSL", "OAUTH": "SASL_SSL", "MTLS": "SSL", "EXPIRED": "SASL_SSL",
    "TUNNEL": "PLAINTEXT",
}  # fmt: skip
"""Listeners and their protocols; EXPIRED has a certificate that is, TUNNEL leads to FAR_BROKER."""
SECRET = "canary-3f9c1d"  # noqa: S105 - what no output may hold
_PEM = "org.apache.kafka.common.security"
_DAY = timedelta(days=1)
_YEAR = 365 * _DAY


class Authority:
    """A certificate authority of the tests, and the folder where its files are."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(self._name, self._key, _YEAR, is_authority=True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *, valid: timedelta = _YEAR, password: str = "") -> Path:
        """Write `<name>.pem`, the key and then the certificate of 127.0.0.1; return where."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bank"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        path = self._folder / f"{name}.pem"
        part = path.with_suffix(".part")
        part.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
            + self._signed(subject, key, valid).public_bytes(Encoding.PEM)
        )
        return part.replace(path)  # who starts meanwhile finds the old one or the new one

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, valid: timedelta,
        *, is_authority: bool = False,
    ) -> x509.Certificate:  # fmt: skip
        now = datetime.now(UTC)
        address = x509.IPAddress(ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + min(valid, timedelta()) - 2 * _DAY)
            .not_valid_after(now + valid)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )


@dataclass(frozen=True)
class Way:
    """A way to prove who one is: the properties it takes, and the principal it makes."""

    principal: str
    properties: dict[str, str]


@dataclass(frozen=True)
class Guarded:
    """The broker, the ways in (listener -> addresses), and the authority that all trust."""

    broker: Broker
    addresses: Mapping[str, str]
    authority: Authority

    def scram(self, password: str = SECRET) -> Way:
        """By a password, in the beginning SECRET."""
        properties = self._trusting("SCRAM", "SASL_SSL") | {
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": SCRAM_USER,
            "sasl.password": password,
        }
        return Way(f"User:{SCRAM_USER}", properties)

    def mtls(self, certificate: Path) -> Way:
        """By a certificate that the authority issued, whose key SECRET opens."""
        properties = self._trusting("MTLS", "ssl") | {
            "ssl.certificate.location": str(certificate),
            "ssl.key.location": str(certificate),
            "ssl.key.password": SECRET,
        }
        return Way(f"User:CN={certificate.stem},O=Bank", properties)

    def oauth(self, token_endpoint: str) -> Way:
        """By tokens that an endpoint gives to who knows SECRET."""
        properties = self._trusting("OAUTH", "sasl_ssl") | {
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": token_endpoint,
            "sasl.oauthbearer.client.id": "fraudstream",
            "sasl.oauthbearer.client.secret": SECRET,
        }
        return Way("User:token-scorer", properties)

    def _trusting(self, way: str, protocol: str) -> dict[str, str]:
        return {
            "bootstrap.servers": self.addresses[way],
            "security.protocol": protocol,
            "ssl.ca.location": str(self.authority.certificate),
        }

    def set_password(self, password: str) -> None:
        """Let SCRAM_USER have this password, and no other, from now on."""
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4_096)
        upsertion = UserScramCredentialUpsertion(SCRAM_USER, credential, password.encode())
        admin = admin_client(self.broker.bootstrap_servers)  # the futures are given up with it
        for done in admin.alter_user_scram_credentials([upsertion]).values():
            done.result(10)

    def allow(self, acls: Sequence[AclBinding]) -> None:
        """Add these ACLs; return when the broker goes by them."""
        admin = admin_client(self.broker.bootstrap_servers)
        for added in admin.create_acls(list(acls)).values():
            added.result(10)
        self._await(lambda held: set(acls) <= held)

    def forbid(self, acls: Sequence[AclBinding]) -> None:
        """Remove these ACLs; return when the broker goes by that."""
        admin = admin_client(self.broker.bootstrap_servers)
        filters = [
            AclBindingFilter(
                acl.restype, acl.name, acl.resource_pattern_type, acl.principal, acl.host,
                acl.operation, acl.permission_type,
            )
            for acl in acls
        ]  # fmt: skip
        for removed in admin.delete_acls(filters).values():
            removed.result(10)
        self._await(lambda held: not set(acls) & held)

    def _await(self, holds: Callable[[set[AclBinding]], bool]) -> None:
        admin = admin_client(self.broker.bootstrap_servers)
        every = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None,
            AclOperation.ANY, AclPermissionType.ANY,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while not holds(set(admin.describe_acls(every).result(10))):
            assert time.monotonic() < deadline, "the broker does not go by the ACLs"
            time.sleep(0.02)


def binding(right: Right, principal: str) -> AclBinding:
    """Return the ACL that gives this right, from everywhere."""
    resource = {
        "topic": ResourceType.TOPIC, "group": ResourceType.GROUP,
        "transactional-id": ResourceType.TRANSACTIONAL_ID,
    }[right.resource]  # fmt: skip
    pattern = ResourcePatternType[right.pattern.upper()]
    operation = AclOperation[right.operation.upper()]
    return AclBinding(
        resource, right.name, pattern, principal, "*", operation, AclPermissionType.ALLOW
    )


def needed(scene: Scene, way: Way) -> list[Right]:
    """Return what the consumer says that it needs."""
    return rights(load_settings(scene.config("rights", kafka=way.properties)))


@contextmanager
def open_guarded(
    folder: Path,
    nodes: int = 1,
    ways: Collection[str] = tuple(WAYS),
    *,
    advertise: Callable[[str], str] = str,
    before: Callable[[str], str] = str,
) -> Iterator[Guarded]:
    """
    Run so many brokers with these ways in, some of WAYS.

    `advertise` is for the tests' own listener, as in open_broker; `before` tells, for an address of
    the others, the one where clients find it.
    """
    authority = Authority(folder, "authority")
    server, old = authority.issue("server"), authority.issue("old-server", valid=-_DAY)
    addresses: dict[str, list[str]] = {name: [] for name in ways}

    def listener(name: str) -> Listener:
        def shown(address: str) -> str:
            near = before(address)
            addresses[name].append(near)
            return near.replace("127.0.0.1", FAR_BROKER) if name == "TUNNEL" else near

        return Listener(WAYS[name], shown)

    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "broker.session.timeout.ms": "30000",  # a busy machine is no dead broker
        "ssl.client.auth": "none",
    }
    for name in ways:
        properties |= _properties(name, old if name == "EXPIRED" else server, authority)
    with open_broker(
        choose(Rung.KAFKA, {}), nodes, properties=properties, advertise=advertise,
        listeners={name: listener(name) for name in ways},
    ) as broker:  # fmt: skip
        guarded = Guarded(
            broker, {name: ",".join(found) for name, found in addresses.items()}, authority
        )
        guarded.set_password(SECRET)
        yield guarded


def _properties(way: str, server: Path, authority: Authority) -> dict[str, str]:
    """Return what a broker needs for a way in; `server` holds its key and certificate."""
    own = f"listener.name.{way.lower()}"
    proof = {
        "SCRAM": {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "scram-sha-512.sasl.jaas.config": f"{_PEM}.scram.ScramLoginModule required;",
        },
        "OAUTH": {
            "sasl.enabled.mechanisms": "OAUTHBEARER",
            "oauthbearer.sasl.jaas.config": (
                f"{_PEM}.oauthbearer.OAuthBearerLoginModule required;"
            ),
            "oauthbearer.sasl.server.callback.handler.class": (
                f"{_PEM}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
            ),
        },
        "MTLS": {"ssl.client.auth": "required"},
    }
    proof["EXPIRED"] = proof["SCRAM"]
    tls = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
    }
    needed = tls | proof[way] if WAYS[way] != "PLAINTEXT" else {}
    return {f"{own}.{name}": value for name, value in needed.items()}
