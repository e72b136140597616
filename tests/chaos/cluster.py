"""Three brokers, each behind a proxy that its clients are sent to, and where what is led."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import ElectionType, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.brokers import Broker, Node, Rung, choose, open_broker
from tests.chaos.network import NAME, Network, open_network
from tests.integration.conftest import QUICK_GROUPS
from tests.integration.guarded import Guarded, open_guarded
from tests.integration.harness import eventually
from tests.integration.proxy import OUR_CLIENTS, Fate, Fault, OpaqueProxy, Proxy
from tests.kafka.processes import admin_client

NODES = 3
GROUP_OFFSETS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"


@dataclass(frozen=True)
class Member:
    """A broker of the cluster and the proxy before it."""

    node: Node
    proxy: Proxy


@dataclass(frozen=True)
class Cluster:
    """A Kafka of three brokers: topics are on all three, and two of them must have a record."""

    broker: Broker
    members: tuple[Member, ...]
    admin: AdminClient
    network: Network | None = None
    """What lies between it and its clients, where that is more than the proxies."""

    @property
    def proxies(self) -> list[Proxy]:
        return [member.proxy for member in self.members]

    @property
    def nodes(self) -> list[Node]:
        return [member.node for member in self.members]

    def leader(self, topic: str, partition: int) -> Member:
        """Return the broker that leads a partition."""
        found = self.admin.list_topics(topic, timeout=30).topics[topic].partitions[partition]
        return self._member(found.leader)

    def group_coordinator(self, group: str) -> Member:
        """Return the broker that looks after the group."""
        described = self.admin.describe_consumer_groups([group], request_timeout=30)
        return self._member(described[group].result(30).coordinator.id)

    def transaction_coordinator(self, transactional_id: str) -> Member:
        """Return the broker that looks after a transactional id: by its hash, as Kafka has it."""
        known = self.admin.list_topics(TRANSACTIONS, timeout=30).topics[TRANSACTIONS].partitions
        return self._member(known[abs(java_hash(transactional_id)) % len(known)].leader)

    def active_controller(self) -> Member:
        """Return the leader of the quorum, by the brokers' own files: clients are not told."""
        files = [node.data / "__cluster_metadata-0" / "quorum-state" for node in self.nodes]
        states = [json.loads(file.read_text()) for file in files]
        return self._member(max(states, key=lambda state: state["leaderEpoch"])["leaderId"])

    def latest_timestamp(self, topic: str) -> float:
        """Return the latest time that a record of the topic has, in seconds."""
        known = self.admin.list_topics(topic, timeout=30).topics[topic].partitions
        asked = {TopicPartition(topic, p): OffsetSpec.max_timestamp() for p in known}
        answered = self.admin.list_offsets(asked, request_timeout=30).values()
        return max(answer.result(30).timestamp for answer in answered) / 1_000

    def elect_preferred_leaders(self) -> None:
        """Let every partition be led by the first of its replicas, coordinators' ones as well."""
        self.admin.elect_leaders(ElectionType.PREFERRED, None).result(30)

    @contextmanager
    def weather(
        self, client: str = OUR_CLIENTS, *, at: tuple[Member, ...] = (), **what: Any
    ) -> Iterator[None]:
        """Put the weather of Proxy.weather between these clients and all brokers, or some."""
        with ExitStack() as stack:
            for member in at or self.members:
                stack.enter_context(member.proxy.weather(client, **what))
            yield

    @contextmanager
    def fault(self, api_key: int, fate: Fate, *, times: int = 1_000_000) -> Iterator[list[Fault]]:
        """Let requests of our clients to any broker meet a fate, until the block ends."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(proxy.fault(api_key, fate, times=times))
                for proxy in self.proxies
            ]

    def reset(self, client: str = OUR_CLIENTS) -> None:
        """Break off every connection of these clients."""
        for proxy in self.proxies:
            proxy.reset(client)

    def make_whole(self) -> None:
        """Start what is dead, and return when all brokers serve and every replica is in sync."""
        for node in self.nodes:
            if not node.alive:
                node.start()
        for node in self.nodes:
            node.wait_serving()
        eventually(self._is_in_sync, 60, lambda: ": the brokers have not caught up")

    def _is_in_sync(self) -> bool:
        topics = self.admin.list_topics(timeout=10).topics.values()
        parts = [part for topic in topics for part in topic.partitions.values()]
        return all(len(part.isrs) == len(part.replicas) for part in parts)

    def delete_topics(self, *topics: str) -> None:
        """Delete topics and all that is in them."""
        for deleted in self.admin.delete_topics(list(topics), operation_timeout=30).values():
            deleted.result(60)

    def _member(self, node_id: int) -> Member:
        return next(member for member in self.members if member.node.node_id == node_id)


@dataclass(frozen=True, kw_only=True)
class GuardedCluster(Cluster):
    """A cluster that lets in only those it knows, each through a door before a listener."""

    guarded: Guarded
    doors: Sequence[Proxy]

    def break_off(self) -> None:
        """Break off all connections of those it let in, so that they have to log in again."""
        for door in self.doors:
            door.reset("")


@contextmanager
def open_cluster(network: Network | None = None) -> Iterator[Cluster]:
    """
    Run the cluster, behind a network where one is given, and leave nothing behind.

    Raises BrokerUnavailable without Java or Maven.
    """
    with (
        _proxies(partial(Proxy, NAME if network else "")) as (proxies, advertise),
        open_broker(
            choose(Rung.KAFKA, {}), NODES, properties=QUICK_GROUPS, advertise=advertise
        ) as broker,
    ):
        yield Cluster(*_behind(proxies, broker), network)


@contextmanager
def open_distant_cluster() -> Iterator[Cluster]:
    """Run the cluster on a host of a name, beyond a link. Raises also NotMadeHere."""
    with open_network() as network, open_cluster(network) as cluster:
        yield cluster


@contextmanager
def open_guarded_cluster() -> Iterator[GuardedCluster]:
    """Run one with access control, as open_cluster; the tests' own clients may do everything."""
    with (
        tempfile.TemporaryDirectory(prefix="guarded-") as folder,
        _proxies(Proxy) as (proxies, advertise),
        _proxies(OpaqueProxy) as (doors, before),
        open_guarded(
            Path(folder), NODES, ("SCRAM", "MTLS"), advertise=advertise, before=before
        ) as guarded,
    ):
        yield GuardedCluster(*_behind(proxies, guarded.broker), guarded=guarded, doors=doors)


@contextmanager
def _proxies(make: Callable[[], Proxy]) -> Iterator[tuple[list[Proxy], Callable[[str], str]]]:
    """Yield proxies, and what opens one more before an address and returns its own."""
    opened: list[Proxy] = []

    def before(address: str) -> str:
        opened.append(make())
        return opened[-1].open(address)

    try:
        yield opened, before
    finally:
        for proxy in opened:
            proxy.close()


def _behind(
    proxies: Sequence[Proxy], broker: Broker
) -> tuple[Broker, tuple[Member, ...], AdminClient]:
    """Return what clients see of a broker, its members, and an admin client of theirs."""
    addresses = ",".join(proxy.address for proxy in proxies)
    members = tuple(map(Member, broker.nodes, proxies))
    return replace(broker, bootstrap_servers=addresses), members, admin_client(addresses)


def java_hash(text: str) -> int:
    """Return Java's String.hashCode, which a coordinator is chosen by."""
    value = 0
    for unit in text.encode("utf-16-be")[1::2]:  # ids are ASCII
        value = (31 * value + unit) & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
