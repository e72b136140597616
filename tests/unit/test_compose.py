import inspect
import re
from pathlib import Path

import pytest
import typer.main

from consumer.cli import app
from consumer.settings import Settings, load_settings
from producer_sim.command import simulate

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the consumer makes of the variables that the image and the stack set."""
    variables = re.findall(r"^ +(FRAUDSTREAM_\w+): (\S+)", COMPOSE, re.MULTILINE)
    variables += re.findall(r" (FRAUDSTREAM_\w+)=(\S+)", DOCKERFILE.rpartition("\nFROM ")[2])
    assert len(variables) > 5
    for name, value in variables:
        monkeypatch.setenv(name, value)
    return load_settings(None)


def option(name: str) -> str:
    """The one value that the stack's commands give to an option."""
    [value] = set(re.findall(rf"--{name}=(\S+)", COMPOSE))
    return value


def test_every_variable_is_a_setting(settings):
    """None is misspelt, and together they are what the stack publishes and promises."""
    assert settings.processing.guarantee == "exactly-once"
    assert settings.http.host == "0.0.0.0"  # noqa: S104 - within its container
    assert re.findall(r"- 127\.0\.0\.1:\$\{\w+:-(\d+)\}:(\d+)", COMPOSE) == [
        (str(settings.http.port),) * 2
    ]


def test_every_option_is_one_of_a_command():
    """The stack's commands are refused for no misspelt option."""
    commands = typer.main.get_group(app).commands
    simulator = typer.Typer()
    simulator.command()(simulate)
    known = {
        name
        for command in (commands["train"], commands["topics"], typer.main.get_command(simulator))
        for parameter in command.params
        for name in parameter.opts
    }

    assert set(re.findall(r"--[a-z][a-z-]+(?=[=,\n])", COMPOSE)) <= known


def test_who_writes_and_who_reads_agree(settings):
    """The simulator fills the consumer's topics, and waits for its group."""
    defaults = inspect.signature(simulate).parameters

    assert defaults["topic"].default == settings.topics.input
    assert defaults["labels_topic"].default == settings.topics.labels
    assert option("group") == settings.group


def test_training_and_scoring_agree(settings, monkeypatch):
    """Labels settle as they did in training, whose bundle is where the consumer looks for it."""
    monkeypatch.setenv("FRAUDSTREAM_LABELS__SETTLE", option("settle"))
    train = typer.main.get_group(app).commands["train"]
    [out] = [parameter.default for parameter in train.params if parameter.name == "out"]

    assert load_settings(None).labels.settle == settings.labels.settle
    assert settings.model.path == out


def test_state_is_kept_in_a_volume_that_the_user_of_the_image_may_write(settings):
    """Docker gives a new volume the owner of the folder that it is mounted over."""
    assert f"- state:{settings.state.url}\n" in COMPOSE
    [owned] = re.findall(r"install -d -o fraudstream -g fraudstream (.+)", DOCKERFILE)
    assert settings.state.url in owned.split()
