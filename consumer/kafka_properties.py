"""What Kafka properties say about secrets, about encryption, and about who we are."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

REDACTED: Final = "[redacted]"
_SECRET: Final = re.compile(
    r"pas|pwd|secret|jaas|(^|\.)key\.pem$|oauthbearer\.(config|extensions)$"
)
_ENCRYPTED: Final = frozenset({"ssl", "sasl_ssl"})
_NO: Final = frozenset({"false", "0", "f"})


class KafkaProperties(dict[str, str]):
    """Properties by name; as text, and so in a traceback or a log, without what is secret."""

    def __repr__(self) -> str:
        """Return the properties as a dictionary's text, secrets redacted."""
        return repr(redacted(self))


def redacted(properties: Mapping[str, str]) -> dict[str, str]:
    """Return the properties with `[redacted]` in place of each secret."""
    return {name: REDACTED if _SECRET.search(name) else value for name, value in properties.items()}


def read_secrets(folder: Path) -> dict[str, str]:
    """
    Return the folder's files as properties: `sasl.password` holds the property of that name.

    One line break at the end of a file is not part of its secret. Names that begin with a dot are
    left out, as Kubernetes keeps its own there. Raises OSError, UnicodeDecodeError.
    """
    return {
        path.name: path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    }


def has_password(url: str) -> bool:
    """Say whether a URL carries a password before its host."""
    try:
        return urlsplit(url).password is not None
    except ValueError:
        return False


def exposures(properties: Mapping[str, str]) -> Iterator[str]:
    """
    Yield a sentence for each way in which others on the network could read along or pose as a
    broker. Brokers on this machine's loopback addresses are not on the network.
    """
    listed = (properties.get(name, "") for name in ("bootstrap.servers", "metadata.broker.list"))
    addresses = [address.strip() for text in listed for address in text.split(",")]
    remote = [address for address in addresses if address and not is_loopback(_host(address))]
    if not remote:
        return
    where = f"to {', '.join(remote)}"
    protocol = protocol_of(properties)
    if protocol not in _ENCRYPTED:
        yield (
            f"security.protocol is {protocol}, which sends payments and credentials in clear"
            f" {where}: set it to ssl or sasl_ssl{_OTHERWISE}"
        )
    elif properties.get("enable.ssl.certificate.verification", "true").lower() in _NO:
        yield (
            "enable.ssl.certificate.verification is off, so anybody could pose as a broker"
            f" {where}: leave it out, and name the authority in ssl.ca.location{_OTHERWISE}"
        )
    elif properties.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        yield (
            "ssl.endpoint.identification.algorithm is none, so any host with a certificate could"
            f" pose as a broker {where}: leave it out{_OTHERWISE}"
        )


_OTHERWISE: Final = "; or allow it knowingly, with --insecure or security.insecure"


def announced_exposures(
    properties: Mapping[str, str], brokers: Iterable[tuple[str, int]]
) -> Iterator[str]:
    """
    Yield the same of the brokers (host, port) that those given name to go on with: what was given
    may be loopback, a tunnel say.
    """
    addresses = ",".join(f"[{h}]:{port}" if ":" in h else f"{h}:{port}" for h, port in brokers)
    yield from exposures({**properties, "bootstrap.servers": addresses, "metadata.broker.list": ""})


def protocol_of(properties: Mapping[str, str]) -> str:
    """Return the security protocol in lower case, as librdkafka takes it."""
    return properties.get("security.protocol", "plaintext").lower()


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine by an address that no network carries."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(address: str) -> str:
    """Return the host of `host`, `host:port`, `[host]:port` or `protocol://host:port`."""
    _, _, address = address.rpartition("://")
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, _, _ = address.partition(":")
    return address if address.count(":") > 1 else host
