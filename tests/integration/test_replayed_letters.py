from collections import Counter

import schemas
from tests.builders import DAY, payment, written
from tests.integration.harness import Instance, Scene, eventually
from tests.integration.history import decode, source
from tests.integration.mutants import newer_schema
from tests.integration.test_dead_letters import (
    committed,
    desk,  # noqa: F401 - a fixture
    letters_command,
    replayed_from,
)
from tests.integration.test_verify import broken, verify
from tests.integration.traffic import Input

NEWER = "knows_a_newer_schema"


def in_newer_schema(number: int, event_time: int) -> Input:
    """Return a payment that no release before the next can read."""
    fields = payment(number, event_time=event_time, card_id=f"newer-{number}", wallet="w")
    value = written(newer_schema(), fields)
    return Input(fields["card_id"].encode(), value, "schema_not_allowed")


def predicted(scene: Scene) -> list[dict]:
    """Return all predictions that a committed reader finds."""
    return [decode("prediction", m.value()) for m in committed(scene, scene.topics.predictions)]


def caught_up(scene: Scene, instance: Instance, topic: str, count: int) -> None:
    """Return when so much is published, and the log says that nothing is left to do."""
    eventually(lambda: len(committed(scene, topic)) == count, 30, instance.tail)
    eventually(lambda: instance.total("consumer_lag_messages") == 0, 20, instance.tail)


def send_old_and_young(scene: Scene) -> None:
    """Send payments, 18 of them in the newer schema: 12 that will be late when others were made."""
    scene.upstream.send_mixed(60)
    clock = scene.upstream.traffic.clock
    for k in range(12):
        scene.upstream.send(in_newer_schema(1_000 + k, clock))
    for k in range(6):
        scene.upstream.send(in_newer_schema(2_000 + k, clock + 3 * DAY))
    for k in range(40):  # of some card in every partition
        made = {"card_id": f"{k}", "event_time": clock + 3 * DAY}
        scene.upstream.send(scene.upstream.traffic.payment(**made))
    scene.upstream.flush()


def origins_of_inputs(scene: Scene) -> dict[tuple[int, int], tuple[str, int, int, int] | None]:
    """Return for each record of the input where it was first, None where upstream sent it."""
    inputs = committed(scene, scene.topics.payments)
    return {(m.partition(), m.offset()): replayed_from(m) for m in inputs}


def test_verify_counts_a_payment_and_its_replays_as_one_event(desk, monkeypatch):  # noqa: F811
    """
    Payments of a schema that is not released yet are refused, replayed too early and refused again,
    and replayed and scored when it is: late by then, but for those that upstream made last. To
    `verify` each is one event, whatever stage it is in; a third replay finds nothing to do.
    """
    before = desk.start()
    send_old_and_young(desk)
    desk.wait_done()

    _, early, _ = letters_command(desk, "replay", "--reason", "schema_not_allowed")
    caught_up(desk, before, desk.topics.dead_letters, 36)
    too_early, waiting = verify(desk)
    assert before.stop() == 0
    versions = schemas.versions
    monkeypatch.setattr(
        schemas, "versions", lambda n: versions(n) + [newer_schema()] * (n == "transaction")
    )
    after = desk.start(mutants=(NEWER,))
    _, done, _ = letters_command(desk, "replay", "--reason", "schema_not_allowed")
    caught_up(desk, after, desk.topics.predictions, 118)
    in_time, all_scored = verify(desk)

    assert [line["attempt"] for line in (*early, *done)] == [1] * 18 + [2] * 18
    assert (broken(waiting), broken(all_scored)) == (set(), set()), all_scored["invariants"]
    assert (too_early, in_time) == (0, 0)
    letters = {"dead_letters": 36, "superseded": 18, "predictions": 100, "replayed": 18}
    assert waiting["counts"] == waiting["counts"] | letters | {"events": 118, "records": 136}
    scored = {"dead_letters": 36, "superseded": 36, "predictions": 118, "replayed": 36}
    assert all_scored["counts"] == all_scored["counts"] | scored | {"events": 118, "records": 154}
    origins = origins_of_inputs(desk)
    replayed = [p for p in predicted(desk) if origins[source(p)]]
    late = {p["event_id"] for p in replayed if p["degraded"] == ["LATE_EVENT"]}
    assert len(replayed) == 18
    assert late == {payment(1_000 + k)["event_id"] for k in range(12)}
    assert letters_command(desk, "replay", "--reason", "schema_not_allowed")[1] == []
    attempts = Counter(origin[3] for origin in origins.values() if origin)
    assert attempts == {1: 18, 2: 18}
