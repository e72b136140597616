"""
A network of the stage's own: a link to its brokers that loses, doubles and disorders packets, and
names for them that can be forgotten or mean another address.

The brokers' host is at the far end of a TUN device. There is no second host: each packet for it is
sent back with its two addresses exchanged, which leaves every checksum right, and so arrives at
this host as from the far one. TCP is the kernel's own, and sees a network like any other.
"""

import ctypes
import fcntl
import heapq
import multiprocessing
import os
import random
import select
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos import NotMadeHere

NAME = "kafka.test"
_HERE, _THERE = "10.99.0.1", "10.99.0.{}"
_NEW_MOUNTS, _NEW_NETWORK = 0x00020000, 0x40000000  # linux/sched.h
_SET_DEVICE, _TUN, _NO_HEADER = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_MOST_BYTES = 65_536


_NAMESPACES = ("net", "mnt")


def leave_the_machine_s() -> None:
    """
    Go to a network namespace where nothing is but loopback, and to a mount namespace, for the names
    of hosts; with what is started from here on, and for good. Without the rights of root, stay.
    """
    if os.geteuid() == 0:
        ctypes.CDLL(None).unshare(_NEW_NETWORK | _NEW_MOUNTS)
    if _has_left():
        _run("mount", "--make-rprivate", "/")
        _run("ip", "link", "set", "lo", "up")
        # With no address but 127.0.0.1, getaddrinfo() gives librdkafka no IPv4 one (AI_ADDRCONFIG).
        _run("ip", "address", "add", "10.98.0.1/32", "dev", "lo")


def _has_left() -> bool:
    """Say whether this process has namespaces that the one that started it has not."""
    parent = multiprocessing.parent_process()
    return parent is not None and all(
        Path(f"/proc/self/ns/{name}").readlink() != Path(f"/proc/{parent.pid}/ns/{name}").readlink()
        for name in _NAMESPACES
    )


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


class Link:
    """The way to the brokers' host; every other address of its network leads there as well."""

    def __init__(self) -> None:
        self.fates: Counter[str] = Counter()
        """Packets lost, doubled and late so far."""
        self._draw = random.Random(0)
        self._chances: dict[str, float] = {}
        self._unreachable: set[bytes] = set()
        self._device = os.open("/dev/net/tun", os.O_RDWR)
        request = struct.pack("16sH22x", b"chaos", _TUN | _NO_HEADER)
        fcntl.ioctl(self._device, _SET_DEVICE, request)
        _run("ip", "address", "add", f"{_HERE}/24", "dev", "chaos")
        _run("ip", "link", "set", "chaos", "up")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="link", daemon=True)
        self._thread.start()

    @contextmanager
    def weather(self, draw: random.Random, **chances: float) -> Iterator[None]:
        """
        Let packets be `lost`, `doubled` or `late` with these chances, as drawn for each, until the
        block ends.
        """
        self._draw, self._chances = draw, chances
        try:
            yield
        finally:
            self._chances = {}

    def lose_all_to(self, address: str) -> None:
        """Let no packet to or from an address through any more."""
        self._unreachable.add(bytes(map(int, address.split("."))))

    def close(self) -> None:
        """Remove the device."""
        self._closed.set()
        self._thread.join()
        os.close(self._device)

    def _carry(self) -> None:
        """Bring packets back, each at its time."""
        waiting: list[tuple[float, int, bytes]] = []
        number = 0
        while not self._closed.is_set():
            pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
            if select.select([self._device], [], [], min(pause, 0.1))[0]:
                packet = os.read(self._device, _MOST_BYTES)
                for seconds in self._delays(packet):
                    number += 1
                    heapq.heappush(waiting, (time.monotonic() + seconds, number, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, packet = heapq.heappop(waiting)
                exchanged = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
                os.write(self._device, exchanged)

    def _delays(self, packet: bytes) -> Iterator[float]:
        """Yield how long the packet takes, once for each time that it arrives."""
        is_ipv4 = packet[0] >> 4 == 4  # the kernel looks for IPv6 routers, too
        if not is_ipv4 or self._unreachable & {packet[12:16], packet[16:20]}:
            return
        if self._befalls("lost"):
            return
        yield self._draw.uniform(0.01, 0.05) if self._befalls("late") else 0.0
        if self._befalls("doubled"):
            yield self._draw.uniform(0.0, 0.01)

    def _befalls(self, fate: str) -> bool:
        happens = self._draw.random() < self._chances.get(fate, 0.0)
        self.fates[fate] += happens
        return happens


class Names:
    """What this process and those it starts take the brokers' name for."""

    def __init__(self, folder: Path) -> None:
        """Put a file of ours in the place of /etc/hosts, in this mount namespace."""
        self._others = Path("/etc/hosts").read_text()
        self._file = folder / "hosts"
        self._file.touch()
        _run("mount", "--bind", str(self._file), "/etc/hosts")

    def mean(self, address: str) -> None:
        """Let the name mean an address from now on."""
        self._file.write_text(f"{self._others}\n{address} {NAME}\n")

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """Let nobody know the name, until the block ends."""
        known = self._file.read_text()
        self._file.write_text(self._others)
        try:
            yield
        finally:
            self._file.write_text(known)

    def close(self) -> None:
        """Give /etc/hosts back."""
        _run("umount", "/etc/hosts")


class Network:
    """The link to the brokers, and their name."""

    def __init__(self, folder: Path) -> None:
        self.link = Link()
        self.names = Names(folder)
        self._host = 2
        self.names.mean(self.address)

    @property
    def address(self) -> str:
        """What the brokers' name means."""
        return _THERE.format(self._host)

    def move(self) -> str:
        """Give the brokers' host another address; return the one it had, which leads there yet."""
        before = self.address
        self._host += 1
        self.names.mean(self.address)
        return before


@contextmanager
def open_network() -> Iterator[Network]:
    """Have it until the block ends, in a process that left the machine's. Raises NotMadeHere."""
    if not (_has_left() and Path("/dev/net/tun").exists()):
        raise NotMadeHere(
            "namespaces and a TUN device of its own take Linux and the rights of root"
        )
    with tempfile.TemporaryDirectory(prefix="chaos-network-") as folder:
        network = Network(Path(folder))
        try:
            yield network
        finally:
            network.names.close()
            network.link.close()
