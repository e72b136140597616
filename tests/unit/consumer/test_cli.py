import pytest
import structlog
from typer.testing import CliRunner

from consumer import cli


def refused(*arguments):
    """Run the command, which must refuse its configuration; return what it says."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    structlog.reset_defaults()  # the command logs to a stream that is closed by now
    assert result.exit_code == 78, result.output
    return result.output


@pytest.fixture(autouse=True)
def broker(monkeypatch):
    """An address that nobody is asked at."""
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--partition", 1, "--event-id", "x"),
        ("--offset", 1, "--event-id", "x"),
    ],
)
def test_explain_takes_a_place_or_an_event(options):
    """One of the two, and not both."""
    assert "give either --partition and --offset, or --event-id" in refused("explain", *options)


@pytest.mark.parametrize("options", [("--partition", 1), ("--offset", 1)])
def test_a_place_is_partition_and_offset(options):
    """Neither says anything alone."""
    assert "--partition and --offset belong together" in refused("explain", *options)


@pytest.mark.parametrize("command", ["explain", "replay"])
def test_a_model_that_is_not_there_is_said_before_anything_is_read(command, tmp_path):
    """By the sentence of the bundle's loader."""
    options = {"explain": ("--partition", 0, "--offset", 0), "replay": ("--out", tmp_path)}[command]

    assert "no model bundle at" in refused(command, "--model", tmp_path / "none", *options)


@pytest.mark.parametrize("command", ["explain", "replay", "simulate"])
def test_commands_of_other_files_have_their_own_help(command):
    """It is not that of the outer command, which has no options."""
    result = CliRunner().invoke(cli.app, [command, "--help"])

    assert result.exit_code == 0
    assert f"fraudstream {command}" in result.output
    assert "--" in result.output
