"""
The command line `fraudstream`: composes consumer, training and producer_sim, each when asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from consumer import __version__
from consumer.errors import ConfigError, FatalError, OutageError
from consumer.settings import load_settings

EXIT_CONFIG: Final = 78
EXIT_FATAL: Final = 70
EXIT_OUTAGE: Final = 75

app = typer.Typer(
    name="fraudstream", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Score card payments for fraud, from one Kafka topic to another.",
)  # fmt: skip

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="FRAUDSTREAM_CONFIG",
        help="TOML file; see README.",
        show_default=False,
    ),
]


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn our errors into one message and an exit code; a bug keeps its traceback."""
    try:
        yield
    except ConfigError as error:
        for fault in error.faults:
            typer.echo(f"fraudstream: {fault}", err=True)
        raise typer.Exit(EXIT_CONFIG) from None
    except OutageError as error:
        typer.echo(f"fraudstream: {error}", err=True)
        raise typer.Exit(EXIT_OUTAGE) from None
    except FatalError as error:
        typer.echo(f"fraudstream: {error}", err=True)
        raise typer.Exit(EXIT_FATAL) from None


@app.command()
def run(config: ConfigOption = None) -> None:
    """Join the consumer group and score until told to stop."""
    with _exit_codes():
        settings = load_settings(config)
        from consumer.app import App
        from consumer.telemetry import configure_logging

        configure_logging(settings.log.format, settings.log.level)
        App(settings).run()


@app.command()
def check(config: ConfigOption = None) -> None:
    """Check configuration and model bundle, and report every fault at once."""
    with _exit_codes():
        settings = load_settings(config)
        from consumer.adapters.kafka_clients import check_properties
        from consumer.adapters.model_bundle import load_bundle

        faults: list[str] = []
        for part in (
            lambda: check_properties(settings),
            lambda: load_bundle(settings.model.path, allow_pickle=settings.model.allow_pickle),
        ):
            try:
                part()
            except ConfigError as error:
                faults += error.faults
        if faults:
            raise ConfigError(faults)
    typer.echo("configuration and model bundle are sound")


@app.command()
def topics(
    config: ConfigOption = None,
    partitions: Annotated[
        int, typer.Option(min=1, help="Of an input topic that does not exist yet.")
    ] = 8,
    replication_factor: Annotated[int, typer.Option(help="-1 leaves it to the broker.")] = -1,
) -> None:
    """Create the topics as the windows and the guarantee need them, or say what differs."""
    with _exit_codes():
        settings = load_settings(config)
        from consumer.adapters.topics import ensure_topics

        created, differences = ensure_topics(settings, partitions, replication_factor)
    for name in created:
        typer.echo(f"created {name}")
    for difference in differences:
        typer.echo(f"differs: {difference}", err=True)
    if differences:
        raise typer.Exit(1)
    typer.echo("all topics are as they must be")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point of the command."""
    app()
