import math

import pytest
from typer import Typer
from typer.testing import CliRunner

from producer_sim.command import parse_time, simulate
from producer_sim.properties import PRODUCER, read_properties

ADDRESS = ["--bootstrap-servers", "127.0.0.1:1"]


@pytest.fixture
def command() -> Typer:
    app = Typer()
    app.command()(simulate)
    return app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no broker is named"),
        (["--bootstrap-servers", "kafka:9092"], "in clear to kafka:9092"),
        ([*ADDRESS, "--speed", "fast"], "not a speed"),
        ([*ADDRESS, "--rate", "0"], "--rate"),
        ([*ADDRESS, "--labels", "exactly:0d"], "not a delay law"),
        ([*ADDRESS, "--from", "yesterday"], "not a time"),
        ([*ADDRESS, "--resume", "--again"], "give one of them"),
        ([*ADDRESS, "--max-unread", "10"], "need each other"),
        ([*ADDRESS, "--group", "scorers"], "need each other"),
        ([*ADDRESS, "--scenario", "other"], "handbook"),
        ([*ADDRESS, "--command-config", "/no/such/file"], "cannot be read"),
    ],
)
def test_a_wrong_option_is_a_usage_error(command, arguments, said):
    """What cannot be meant is said before anything starts, with exit code 2."""
    result = CliRunner().invoke(command, arguments, env={"COLUMNS": "200"})

    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2018-04-01", 1_522_540_800_000_000),
        ("2018-04-01T00:00:30", 1_522_540_830_000_000),
        ("2018-04-01T02:00+02:00", 1_522_540_800_000_000),
    ],
)
def test_a_time_is_utc_unless_it_names_its_zone(text, microseconds):
    """Dates are days of the data, which is in UTC."""
    assert parse_time(text) == microseconds


def test_client_properties_are_read_as_kafkas_tools_read_them(tmp_path):
    """Lines of key=value; comments and empty lines are skipped, a value may hold an =."""
    file = tmp_path / "client.properties"
    file.write_text(
        "# how to log in\n\n security.protocol = SASL_SSL\nsasl.password=a=b\nacks=all\n"
    )

    assert read_properties(file) == {
        "security.protocol": "SASL_SSL",
        "sasl.password": "a=b",
        "acks": "all",
    }


@pytest.mark.parametrize("line", ["security.protocol", "=SSL"])
def test_a_line_that_is_no_property_is_refused(tmp_path, line):
    """The message names file and line."""
    file = tmp_path / "client.properties"
    file.write_text(f"acks=all\n{line}\n")

    with pytest.raises(ValueError, match="line 2: expected key=value"):
        read_properties(file)


@pytest.mark.parametrize("key", PRODUCER)
def test_properties_that_order_rests_on_cannot_be_changed(tmp_path, key):
    """Without them a partition could have gaps or repeats."""
    file = tmp_path / "client.properties"
    file.write_text(f"{key}=7\n")

    with pytest.raises(ValueError, match="leave the line out"):
        read_properties(file)


def test_the_default_rate_is_no_bound():
    """As fast as the broker takes it means just that."""
    assert simulate.__kwdefaults__["rate"] == math.inf
