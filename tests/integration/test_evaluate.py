import json
import uuid

import pytest
from typer.testing import CliRunner

from consumer import cli
from producer_sim.command import parse_time
from producer_sim.labels import Exactly
from producer_sim.simulation import Options, run

PARTITIONS = 4
FIRST, JUDGED_FROM, JUDGED_TO, LAST = "2018-04-01", "2018-04-02", "2018-04-04", "2018-04-05"
"""Some 38,000 payments; by the end of the last day the labels of all judged frauds are out."""


@pytest.fixture
def topics(broker) -> dict[str, str]:
    """The variables that name topics which hold the Handbook's first days, and their labels."""
    name = uuid.uuid4().hex[:8]
    payments, labels = f"payments-{name}", f"labels-{name}"
    broker.create_topics({payments: PARTITIONS, labels: 1})
    properties = {"bootstrap.servers": broker.bootstrap_servers}
    run(
        Options(
            properties=properties, insecure=True, topic=payments, labels_topic=labels,
            law=Exactly(1), start=parse_time(FIRST), end=parse_time(LAST),
        )
    )  # fmt: skip
    return {
        "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "FRAUDSTREAM_SECURITY__INSECURE": "1",  # a container's address may not be loopback
        "FRAUDSTREAM_TOPICS__INPUT": payments,
        "FRAUDSTREAM_TOPICS__LABELS": labels,
    }


def evaluate(bundle, *options: str, **variables: str) -> dict:
    period = ("--begin", JUDGED_FROM, "--end", JUDGED_TO, "--warm-up", "1d", "--json")
    done = CliRunner().invoke(cli.app, ["evaluate", str(bundle), *period, *options], env=variables)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_topics_tell_what_the_simulator_knows(topics, bundle):
    """
    Read back from a broker, payments and labels give the figures that they give without one, to
    the last digit and by scenario.
    """
    found = evaluate(bundle, "--from", "topics", **topics)

    expected = evaluate(bundle, "--from", "handbook", "--label-delay", "exactly:1d")
    assert found["bundles"] == expected["bundles"]
    assert found["bundles"][0]["frauds"] > 10
    assert set(found["mean"]["recall_by_scenario_at_1_percent"]) == {"1", "2", "3"}


def test_a_broker_that_is_not_there_is_said_to_be(bundle):
    """Not with a traceback."""
    nobody = {"FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    arguments = ["evaluate", str(bundle), "--begin", JUDGED_FROM, "--end", JUDGED_TO]

    done = CliRunner().invoke(cli.app, arguments, env=nobody)

    assert done.exit_code == cli.EXIT_FATAL
    assert "fraudstream: no broker answers: " in done.stderr
