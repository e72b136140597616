"""Brokers whose wall clocks can be set, each by itself: libfaketime is loaded into their JVMs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos import NotMadeHere
from tests.chaos.cluster import Cluster, open_cluster
from tests.kafka.processes import Node

NOTICED_SECONDS = 1.0
"""How long a broker may take to see its new time: at each look the library would be too slow."""
_PLACES = ("usr/lib/*/faketime", "usr/lib/faketime", "usr/lib64/faketime", "usr/local/lib/faketime")
_FILE = "FAKETIME_TIMESTAMP_FILE"


def _library() -> Path:
    for place in _PLACES:
        for found in Path("/").glob(f"{place}/libfaketime.so.1"):
            return found
    raise NotMadeHere(
        "a broker's clock is set by libfaketime: install it (Debian's package libfaketime)"
    )


@contextmanager
def open_cluster_with_clocks() -> Iterator[Cluster]:
    """Run a cluster for `set_clock`. Raises NotMadeHere, and BrokerUnavailable."""
    library = _library()
    with open_cluster() as cluster:
        for node in cluster.nodes:
            node.kill()
            node.environment = {
                "LD_PRELOAD": str(library),
                _FILE: str(node.data.with_name(f"clock-{node.node_id}")),
                "FAKETIME_CACHE_DURATION": f"{NOTICED_SECONDS:.0f}",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                # With it, a wait of the JVM by the monotonic clock ends at once, and spins.
                "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            }
            set_clock(node, 0)
            node.start()
        cluster.make_whole()
        yield cluster


def set_clock(node: Node, ahead_seconds: int) -> None:
    """Let a node's wall clock be ahead, or behind, from a second on; others keep theirs."""
    clock = Path(node.environment[_FILE])
    part = clock.with_suffix(".part")
    part.write_text(f"{ahead_seconds:+}")
    part.replace(clock)
