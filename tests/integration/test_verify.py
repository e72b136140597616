import json

from tests.integration.conftest import BOTH_IF_SLOW
from tests.integration.harness import Scene
from tests.integration.test_commands import command
from tests.integration.traffic import PREDICTION, TOMBSTONE


def verify(scene: Scene, *options: object) -> tuple[int, dict]:
    """Return the exit code of `fraudstream verify` and what it reports."""
    config = scene.config("verify")
    code, lines = command("verify", "--config", config, "--json", *options)
    return code, json.loads(lines[-1])


@BOTH_IF_SLOW
def test_what_a_consumer_did_is_verified(scene):
    """Good and bad records, restarted in between: all that is promised is looked at, and holds."""
    consumer = scene.start()
    scene.upstream.send_mixed(600, refused_every=200)
    scene.wait_done()
    consumer.kill()
    scene.start()
    scene.upstream.send_mixed(200)
    scene.wait_done()

    code, report = verify(scene)

    sent = [sent.outcome for sent in scene.upstream.journal.sent]
    counts = report["counts"]
    assert (code, report["ok"]) == (0, True), report
    assert counts["records"] == counts["events"] == len(sent)
    assert counts["predictions"] == sent.count(PREDICTION) == 800
    assert counts["tombstones"] == sent.count(TOMBSTONE)
    assert counts["dead_letters"] == len(sent) - 800 - sent.count(TOMBSTONE)
    assert counts["pending"] == counts["lost"] == counts["unjudged"] == 0
    unchecked = {found["name"] for found in report["invariants"] if not found["checked"]}
    assert unchecked == {"replays", "state"}
