"""
Who may do what, on a Kafka with TLS, SASL and ACLs: the least that suffices, and each lack named.
"""

import json
import subprocess
import threading
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil
import pytest
import structlog
from confluent_kafka import Consumer
from typer.testing import CliRunner

from consumer import cli
from consumer.adapters.access import Right, require_access
from consumer.errors import ConfigError
from consumer.settings import load_settings
from tests.brokers import Rung, why_missing
from tests.integration.checker import check
from tests.integration.conftest import missing, open_scene
from tests.integration.guarded import (
    FAR_BROKER,
    SECRET,
    Authority,
    Guarded,
    Way,
    binding,
    needed,
    open_guarded,
)
from tests.integration.harness import COMMAND, SLOW, Instance, Scene, eventually
from tests.integration.traffic import TOMBSTONE, Input, Traffic, encode

GUARANTEES = ["at-least-once", "exactly-once"]
LONGER = {"unknown user", "wrong authority", "expired"}
LACKING = ["exactly-once"] if not SLOW else GUARANTEES


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One broker for all tests here."""
    if why := why_missing(Rung.KAFKA):
        missing(why)
    folder = tmp_path_factory.mktemp("guarded")
    with open_guarded(folder) as opened:
        yield opened


@pytest.fixture
def scene(
    guarded: Guarded, guarantee: str, bundle: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    """Topics on the guarded broker; the tests' own clients may do everything."""
    yield from open_scene(guarded.broker, guarantee, bundle, tmp_path, request)


@pytest.fixture
def scram(guarded: Guarded) -> Way:
    return guarded.scram()


@pytest.fixture(scope="module")
def token_endpoint() -> Iterator[str]:
    """What gives tokens to those who know the secret: unsigned ones, as the broker takes here."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given = self.headers.get("authorization", "")
            now = int(time.time())
            token = ".".join(
                urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
                for part in (
                    {"alg": "none"},
                    {"sub": "token-scorer", "iat": now, "exp": now + 300, "scope": "kafka"},
                )
            )
            answer = json.dumps({"access_token": f"{token}.", "expires_in": 300}).encode()
            self.send_response(200 if given.startswith("Basic ") else 401)
            self.send_header("content-length", str(len(answer)))
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/token"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def oauth(guarded: Guarded, token_endpoint: str) -> Way:
    return guarded.oauth(token_endpoint)


@pytest.fixture
def mtls(guarded: Guarded) -> Way:
    return guarded.mtls(guarded.authority.issue("certified-scorer", password=SECRET))


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.getfixturevalue(request.param)
    return found


def refused_start(scene: Scene, **properties: Any) -> list[str]:
    """Start with these properties; return the sentences that the start is refused with."""
    instance = scene.start(kafka=properties)
    assert instance.wait(90) == 78, instance.tail()
    return said_at_end(instance)


def said_at_end(instance: Instance) -> list[str]:
    """Return the sentences that it ended with, and no traceback."""
    own = instance.lines()[instance._began :]
    assert not [line for line in own if line.startswith("Traceback")]
    return [line.removeprefix("fraudstream: ") for line in own if line[:12] == "fraudstream:"]


def refusal(scene: Scene, **properties: Any) -> list[str]:
    """As refused_start, by its first step alone, which takes no second."""
    if SLOW:
        return refused_start(scene, **properties)
    settings = load_settings(scene.config("one", kafka=properties))

    def faults() -> list[str]:
        try:
            require_access(settings)
        except ConfigError as error:
            return error.faults
        return []

    return eventually(faults, 60)  # asked again, as a start does, where a broker is slow to answer


@pytest.mark.parametrize(
    ("way", "guarantee"),
    [("oauth", "at-least-once"), ("mtls", "exactly-once")],
    indirect=["way"],
)
def test_the_least_rights_suffice(guarded, scene, way):
    """All inputs are answered, by whoever has just the rights that the documentation lists."""
    guarded.allow([binding(right, way.principal) for right in needed(scene, way)])
    consumer = scene.start(kafka={**way.properties, "debug": "all"})

    scene.upstream.send_mixed(300, refused_every=100)
    scene.wait_done()

    assert check(scene.history()) == []
    assert SECRET not in consumer.log.read_text(errors="replace")


OUTPUTS = ("dead_letters", "alerts", "predictions")
CARDS = ("4111111111111111", "5555-5555-5555-4444", "3782 822463 10005", "6011111111111117")


def leaking(traffic: Traffic) -> Iterator[Input]:
    """Yield records that are refused for all kinds of reasons, and hold card numbers."""
    good = dict(traffic._fields(), kind="AUTHORISATION", billing_amount_minor=None)
    key = good["card_id"].encode()
    for number in CARDS:
        card = number.encode()
        named = encode("transaction", good | {"card_id": number})
        yield Input(card, named, "card_number")
        yield Input(card, named[:-3], "card_number")
        yield Input(card, named + b"\0", "card_number")
        yield Input(key, b'{"card": "%s"}' % card, "card_number")
        yield Input(card, b"", "card_number")
        yield Input(key, card + b"\0" * 70_000, "card_number")
        yield Input(key, b"", "card_number", (("pan", card), ("trace", b"1")))
        yield Input(card, None, TOMBSTONE)


def surfaces(instance: Instance) -> dict[str, bytes]:
    """Return all that a consumer shows while it runs, and what the kernel shows of it."""
    shown = {
        f"/proc/{pid}/cmdline": Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in (instance.pid, *(child.pid for child in psutil.Process(instance.pid).children()))
    }
    for path in ("/metrics", "/livez", "/readyz"):
        with instance._get(path) as answer:
            shown[path] = answer.read()
    with pytest.raises(HTTPError) as refused:
        instance._get(f"/{CARDS[0]}")
    shown["/<a card>"] = refused.value.read()
    return shown


TAIL = "tail dead-letters --from-beginning --no-follow --json"


def forbidden() -> set[str]:
    """Return what must stand nowhere, as it is and as base64 has it."""
    words = {SECRET, *CARDS, *(card.replace("-", "").replace(" ", "") for card in CARDS)}
    return words | {b64encode(word.encode()).decode().rstrip("=") for word in words}


def printed(command: str, config: Path, exit_code: int = 0) -> dict[str, bytes]:
    """Return what a command prints."""
    run = subprocess.run(
        [*COMMAND, *command.split(), "--config", str(config)],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert run.returncode == exit_code, run.stderr[-2_000:].decode(errors="replace")
    return {f"{command}: {exit_code}": run.stdout + run.stderr}


def told(scene: Scene, sections: Mapping[str, Any]) -> dict[str, bytes]:
    """Return what commands show of what the consumer did; `sections` are its own."""
    own, reader = scene.config("one", **sections), scene.config("reader")
    shown = printed(TAIL, own, exit_code=70)  # it may only write there
    shown |= printed(TAIL, reader)
    if SLOW:  # else the units' tests of what they print must do
        shown |= printed("check --show", own)
        shown |= printed("state inspect --json", own)
        shown |= printed(f"state export {scene.folder}/held", own)
        shown["held"] = (scene.folder / "held").read_bytes()
        shown |= printed("dead-letters list --limit 0 --json", reader)
    return shown


def test_secrets_and_card_numbers_come_out_nowhere(guarded, scene, scram):
    """
    With a password from a file, all that the client library can log, and card numbers in all kinds
    of bad records: neither is in logs, metrics, outputs, snapshots, dumps or command lines.
    """
    secrets = scene.folder / "secrets"
    secrets.mkdir()
    (secrets / "sasl.password").write_text(f"{SECRET}\n")
    properties = {**scram.properties, "sasl.password": None, "debug": "all"}
    sections: dict[str, Any] = {
        "kafka": properties,
        "security": {"secrets_dir": str(secrets)},
        "state": {"url": str(scene.folder / "state"), "snapshot_interval": "1s"},
        "log": {"format": "json", "level": "debug"},
    }
    guarded.allow([binding(right, scram.principal) for right in needed(scene, scram)])
    consumer = scene.start(fresh=True, **sections)

    scene.upstream.send_mixed(200)
    for bad in leaking(scene.upstream.traffic):
        scene.upstream.send(bad)
    scene.upstream.send_mixed(100, refused_every=50)
    scene.wait_done()
    shown = surfaces(consumer)
    assert consumer.stop() == 0
    history = scene.history()

    assert check(history) == []
    shown |= told(scene, sections)
    shown["log"] = consumer.log.read_bytes()
    shown |= {name: repr(getattr(history, name)).encode() for name in OUTPUTS}
    snapshots = [path for path in (scene.folder / "state").rglob("*") if path.is_file()]
    shown |= {str(path): path.read_bytes() for path in snapshots}

    assert snapshots
    assert history.alerts
    assert len(history.dead_letters) > 7 * len(CARDS)
    assert len(shown["log"]) > 100_000, "the client library logs as it was told to"
    found = [
        (name, word)
        for name, text in shown.items()
        for word in forbidden()
        if word.encode() in text
    ]
    assert found == []


@pytest.mark.parametrize("guarantee", LACKING)
def test_each_missing_right_is_named_at_start(guarded, scene, scram):
    """With resource, operation and principal, before anything is read; and no other is named."""
    least = needed(scene, scram)
    every = [binding(right, scram.principal) for right in least]
    guarded.allow(every)

    for right, given in zip(least, every, strict=True):
        guarded.forbid([given])
        said = (refused_start if right.resource == "transactional-id" else refusal)(
            scene, **scram.properties
        )
        assert said == [right.sentence(scram.principal)]
        guarded.allow([given])

    assert len(least) == 6 + scene.exactly_once


@pytest.mark.parametrize("guarantee", LACKING)
def test_a_right_that_is_taken_away_later_is_named_too(guarded, scene, scram):
    """
    With exit code 70 and the sentence that a start would say. Given back, the next process goes
    on, and nothing is lost or repeated.
    """
    least = [right for right in needed(scene, scram) if right.name != scene.topics.labels]
    guarded.allow([binding(right, scram.principal) for right in needed(scene, scram)])

    with scene.feed(200, refused_every=20):
        for right in least if SLOW else least[3:]:
            consumer = scene.start(kafka=scram.properties)
            consumer.go_on(20)
            guarded.forbid([binding(right, scram.principal)])
            assert consumer.wait(60) == 70, consumer.tail()
            assert said_at_end(consumer)[1:] == [right.sentence(scram.principal)], right
            guarded.allow([binding(right, scram.principal)])
        scene.start(kafka=scram.properties).go_on(20)
    scene.wait_done()

    assert check(scene.history()) == []


def test_an_input_that_is_not_shown_any_more_is_named_too(guarded, scene, scram):
    """
    Where an answer about who leads says so before a fetch does: the client gives up its fetches,
    and tells its error callback alone.
    """
    lost = Right("Read", "topic", scene.topics.payments)
    guarded.allow([binding(right, scram.principal) for right in needed(scene, scram)])
    no_fetch_soon = scram.properties | {"fetch.wait.max.ms": "20000"}
    consumer = scene.start(kafka=no_fetch_soon, lag={"interval": "1h"}).wait_ready()

    guarded.forbid([binding(lost, scram.principal)])
    with another_member(scene) as other:  # whose coming makes ours ask how wide the topic is
        eventually(lambda: other.poll(0.1) or consumer.exit_code is not None, 15, consumer.tail)

    assert consumer.wait(10) == 70, consumer.tail()
    assert said_at_end(consumer)[1:] == [lost.sentence(scram.principal)]


def test_an_instance_without_partitions_is_told_of_a_lost_right_too(guarded, scene, scram):
    """It fetches nothing, and asks all the same where the log ends."""
    lost = Right("Read", "topic", scene.topics.payments)
    guarded.allow([binding(right, scram.principal) for right in needed(scene, scram)])
    with ExitStack() as stack:
        others = [stack.enter_context(another_member(scene)) for _ in range(scene.partitions)]

        def poll_until(holds: Callable[[], object]) -> None:
            eventually(lambda: [other.poll(0.02) for other in others] and holds(), 30)

        poll_until(lambda: all(len(other.assignment()) == 1 for other in others))
        consumer = scene.start(kafka=scram.properties)
        poll_until(lambda: consumer.http_port and consumer.ready())
        assert consumer.total("assigned_partitions") == 0

        guarded.forbid([binding(lost, scram.principal)])
        poll_until(lambda: consumer.exit_code is not None)

    assert consumer.exit_code == 70, consumer.tail()
    assert said_at_end(consumer)[1:] == [lost.sentence(scram.principal)]


@contextmanager
def another_member(scene: Scene) -> Iterator[Consumer]:
    """Yield a member of the group that may do everything."""
    member = Consumer(
        {
            "bootstrap.servers": scene.address,
            "group.id": scene.topics.group,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    member.subscribe([scene.topics.payments])
    try:
        yield member
    finally:
        member.close()


def test_labels_that_may_not_be_read_any_more_are_stale_and_payments_go_on(guarded, scene, scram):
    """The log names the right; given back, the labels are caught up with."""
    labels = Right("Read", "topic", scene.topics.labels)
    guarded.allow([binding(right, scram.principal) for right in needed(scene, scram)])
    consumer = scene.start(kafka=scram.properties, labels={"max_wait": "500ms"})

    with scene.feed(100):
        consumer.go_on(20)
        guarded.forbid([binding(labels, scram.principal)])
        [stale] = eventually(lambda: consumer.events("labels_stale"), 30, consumer.tail)
        assert stale["cause"] == f"Read on topic {labels.name} is denied"
        consumer.go_on(20)
        guarded.allow([binding(labels, scram.principal)])
        eventually(lambda: consumer.events("labels_caught_up"), 30, consumer.tail)
    scene.wait_done()


def test_all_that_is_missing_is_named_at_once(guarded, scene, mtls):
    """By whom the broker takes the client for, even if that is a certificate."""
    said = refused_start(scene, **mtls.properties)

    asked = [right for right in needed(scene, mtls) if right.resource != "transactional-id"]
    assert said == [right.sentence(mtls.principal) for right in asked]


def strangers(guarded: Guarded) -> dict[str, tuple[str, dict[str, str], str]]:
    """Return what must not connect: name -> (way, properties over it, what is said)."""
    other = Authority(guarded.authority.certificate.parent, "other-authority")
    stranger = str(other.issue("stranger"))
    late = str(guarded.authority.issue("late", valid=timedelta(days=-1), password=SECRET))
    port = guarded.addresses["SCRAM"].rpartition(":")[2]
    tls, credentials = "no trusted TLS with the brokers", "the brokers refuse our credentials"
    return {
        "wrong password": ("scram", {"sasl.password": "wrong"}, credentials),
        "unknown user": ("scram", {"sasl.username": "nobody"}, credentials),
        "wrong authority": ("scram", {"ssl.ca.location": str(other.certificate)}, tls),
        "wrong host": ("scram", {"bootstrap.servers": f"localhost:{port}"}, tls),
        "expired": ("scram", {"bootstrap.servers": guarded.addresses["EXPIRED"]}, tls),
        "stranger": (
            "mtls",
            {
                "ssl.certificate.location": stranger,
                "ssl.key.location": stranger,
                "ssl.key.password": "",
            },
            tls,
        ),
        "late": (
            "mtls",
            {"ssl.certificate.location": late, "ssl.key.location": late},
            f"(our certificate {late} was valid until",
        ),
    }


def test_those_who_do_not_trust_each_other_do_not_connect(guarded, scene, scram, mtls):
    """A wrong password, authority, host, date or certificate: refused, and the secret not told."""
    ways = {"scram": scram, "mtls": mtls}

    for name, (way, changes, sentence) in strangers(guarded).items():
        if name in LONGER and not SLOW:
            continue
        [said] = refusal(scene, **(ways[way].properties | changes))
        assert sentence in said, name
        assert SECRET not in said


READING = (
    "topics", "tail alerts", "verify", "explain --partition 0 --offset 0", "dead-letters list",
    "train --begin 2018-07-01 --end 2018-07-08",
)  # fmt: skip


def test_a_loopback_address_may_not_lead_elsewhere_in_clear(guarded, scene):
    """The near end of a tunnel is here, and the brokers that it leads to are not."""
    address = guarded.addresses["TUNNEL"]
    [said] = refusal(scene, **{"bootstrap.servers": address})

    assert FAR_BROKER in said
    assert "--insecure" in said
    config = scene.config("one", kafka={"bootstrap.servers": address})
    for command in READING:
        asked = CliRunner().invoke(cli.app, [*command.split(), "--config", str(config)])
        assert asked.exit_code == 78, asked.output
        assert asked.stderr.splitlines()[-1] == f"fraudstream: {said}"
    asked = CliRunner().invoke(cli.app, ["simulate", "--bootstrap-servers", address])
    assert asked.exit_code == 1
    assert FAR_BROKER in asked.stderr
    structlog.reset_defaults()  # the commands log to a stream that is closed by now
