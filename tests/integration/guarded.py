"""
A Kafka that lets in only those it knows: a listener for each way to prove who one is, and ACLs.

The first listener, PLAINTEXT on loopback, is the tests' own, who may do everything. All keys and
certificates are made anew and are worth nothing elsewhere.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from tests.brokers import Broker, Rung, choose, open_broker
from tests.kafka.processes import admin_client

SCRAM_USER = "scorer"
FAR_BROKER = "kafka.bank.example"
SECRET = "canary-3f9c1d"  # noqa: S105 - what no output may hold
_PEM = "org.apache.kafka.common.security"
_DAY = timedelta(days=1)


class Authority:
    """A certificate authority of the tests, and the folder where its files are."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(self._name, self._key, days=365, is_authority=True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *, days: int = 365, password: str = "") -> Path:
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
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
            + self._signed(subject, key, days).public_bytes(Encoding.PEM)
        )
        return path

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int,
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
            .not_valid_before(now + min(days - 2, -2) * _DAY)
            .not_valid_after(now + days * _DAY)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )


@dataclass(frozen=True)
class Guarded:
    """The broker, the ways in (listener -> address), and the authority that all trust."""

    broker: Broker
    folder: Path
    addresses: Mapping[str, str]
    authority: Authority

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


def acl(
    principal: str,
    operation: AclOperation,
    resource: ResourceType,
    name: str,
    pattern: ResourcePatternType = ResourcePatternType.LITERAL,
) -> AclBinding:
    """Return an ACL that allows the operation from everywhere."""
    return AclBinding(resource, name, pattern, principal, "*", operation, AclPermissionType.ALLOW)


@contextmanager
def open_guarded(folder: Path, ports: Sequence[int]) -> Iterator[Guarded]:
    """Run the broker; `ports` are seven free ones."""
    authority = Authority(folder, "authority")
    server, old = authority.issue("server"), authority.issue("old-server", days=-1)
    plain, controller, *others = ports
    ways = dict(zip(("SCRAM", "OAUTH", "MTLS", "EXPIRED", "TUNNEL"), others, strict=True))
    listeners = {"PLAINTEXT": plain} | ways
    protocols = dict.fromkeys(("SCRAM", "OAUTH", "EXPIRED"), "SASL_SSL") | {"MTLS": "SSL"}
    properties = {
        "listeners": _listed(listeners | {"CONTROLLER": controller}),
        "advertised.listeners": _listed(listeners).replace(
            f"TUNNEL://127.0.0.1:{ways['TUNNEL']}", f"TUNNEL://{FAR_BROKER}:{ways['TUNNEL']}"
        ),
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": ",".join(
            f"{name}:{protocol}"
            for name, protocol in (
                protocols | dict.fromkeys(("CONTROLLER", "PLAINTEXT", "TUNNEL"), "PLAINTEXT")
            ).items()
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "broker.session.timeout.ms": "30000",  # a busy machine is no dead broker
        "ssl.client.auth": "none",
    }
    for name in protocols:
        own = f"listener.name.{name.lower()}"
        properties |= {
            f"{own}.ssl.keystore.type": "PEM",
            f"{own}.ssl.keystore.location": str(old if name == "EXPIRED" else server),
            f"{own}.ssl.truststore.type": "PEM",
            f"{own}.ssl.truststore.location": str(authority.certificate),
        }
    for name in ("scram", "expired"):
        own = f"listener.name.{name}"
        properties |= {
            f"{own}.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            f"{own}.scram-sha-512.sasl.jaas.config": f"{_PEM}.scram.ScramLoginModule required;",
        }
    properties |= {
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": (
            f"{_PEM}.oauthbearer.OAuthBearerLoginModule required;"
        ),
        "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class": (
            f"{_PEM}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
        ),
    }
    with open_broker(choose(Rung.KAFKA, {}), port=plain, properties=properties) as broker:
        _add_user(broker.bootstrap_servers)
        addresses = {name: f"127.0.0.1:{port}" for name, port in ways.items()}
        yield Guarded(broker, folder, addresses, authority)


def _listed(listeners: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())


def _add_user(address: str) -> None:
    credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4_096)
    upsertion = UserScramCredentialUpsertion(SCRAM_USER, credential, SECRET.encode())
    admin = admin_client(address)  # the futures are given up with it
    for done in admin.alter_user_scram_credentials([upsertion]).values():
        done.result(10)
