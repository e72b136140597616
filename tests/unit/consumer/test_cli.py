from collections.abc import Iterator

import pytest
import structlog
import typer.main
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from consumer import cli
from consumer.cli_dead_letters import dead_letters
from consumer.cli_explain import explain
from consumer.cli_replay import replay
from consumer.cli_state import state
from consumer.cli_verify import verify
from producer_sim.command import simulate


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


DAYS = ("--begin", "2018-07-01", "--end", "2018-07-08")
PLACE = ("--partition", 0, "--offset", 0)
FAR = "kafka.bank.example:9092"


@pytest.mark.parametrize(
    "command",
    [
        ("run",), ("check",), ("topics",), ("tail", "alerts"), ("verify",), ("explain", *PLACE),
        ("replay", "--model", "m", "--out", "o"), ("train", *DAYS), ("state", "inspect"),
        ("state", "verify"), ("state", "export", "o"), ("dead-letters", "list"),
        ("dead-letters", "show", 0, 0), ("dead-letters", "replay"),
        ("dead-letters", "discard", "--because", "a test"),
    ],
    ids=lambda command: "-".join(map(str, command[:2])),
)  # fmt: skip
def test_no_command_reaches_brokers_beyond_this_machine_in_clear(command, monkeypatch):
    """Each refuses before anything is sent, by the sentence of all, and may be told to do so."""
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS", FAR)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    said = refused(*command)

    assert f"in clear to {FAR}" in said
    assert "--insecure" in said


def commands(app: typer.Typer) -> Iterator[tuple[str, set[str]]]:
    """Yield each command and its options."""
    for name, command in typer.main.get_group(app).commands.items():
        yield name, {option for parameter in command.params for option in parameter.opts}


def test_whoever_takes_a_configuration_takes_insecure():
    """One option, in all commands."""
    apart = typer.Typer()
    for command in (explain, replay, verify, simulate):
        apart.command()(command)
    groups = (cli.app, apart, state, dead_letters)
    every = [command for group in groups for command in commands(group)]
    configured = [name for name, taken in every if taken & {"--config", "--command-config"}]

    assert len(configured) > 15
    assert configured == [name for name, taken in every if "--insecure" in taken]


@pytest.mark.parametrize(
    "command",
    [
        ("run",), ("check",), ("explain", *PLACE), ("replay", "--model", "model", "--out", "o"),
        ("evaluate", "model", *DAYS, "--from", "handbook"), ("state", "inspect"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_no_command_loads_a_bundle_that_is_not_signed_as_asked(command, tmp_path, monkeypatch):
    """Whatever loads one asks as the consumer does, by the same setting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text("{}")
    key = Ed25519PrivateKey.generate().public_key()
    (tmp_path / "key").write_bytes(
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    monkeypatch.setenv("FRAUDSTREAM_MODEL__PUBLIC_KEY", "key")
    monkeypatch.setenv("FRAUDSTREAM_STATE__URL", str(tmp_path))

    assert "model.public_key asks for a signature" in refused(*command)
