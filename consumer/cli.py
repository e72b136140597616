"""
The command line `fraudstream`: composes consumer, training and producer_sim, each when asked for.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from consumer import __version__
from consumer.cli_options import (
    ConfigOption,
    FeatureSetOption,
    HistorySourceOption,
    InsecureOption,
    LabelDelayOption,
    LabelsOption,
    PaymentsOption,
    WarmUpOption,
)
from consumer.errors import ConfigError, FatalError, OutageError, TopicRemadeError
from consumer.settings import effective, load_settings

if TYPE_CHECKING:
    from consumer.core.feature_sets import FeatureSet

EXIT_CONFIG: Final = 78
EXIT_FATAL: Final = 70
EXIT_START_AGAIN: Final = 75

app = typer.Typer(
    name="fraudstream", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Score card payments for fraud, from one Kafka topic to another.",
)  # fmt: skip

_ELSEWHERE: Final[dict[str, Any]] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}
"""Of a command whose options are declared where it is, and read when it is asked for."""


def _hand_over(context: typer.Context, command: Callable[..., None]) -> None:
    """Let the command read the arguments itself."""
    inner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    inner.command()(command)
    with _exit_codes():
        inner(context.args, prog_name=f"fraudstream {context.info_name}")


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn our errors into one message and an exit code; a bug keeps its traceback."""
    try:
        yield
    except ConfigError as error:
        for fault in error.faults:
            typer.echo(f"fraudstream: {fault}", err=True)
        raise typer.Exit(EXIT_CONFIG) from None
    except (OutageError, TopicRemadeError) as error:
        typer.echo(f"fraudstream: {error}", err=True)
        raise typer.Exit(EXIT_START_AGAIN) from None
    except FatalError as error:
        for line in str(error).splitlines():
            typer.echo(f"fraudstream: {line}", err=True)
        raise typer.Exit(EXIT_FATAL) from None


@app.command()
def run(config: ConfigOption = None, *, insecure: InsecureOption = False) -> None:
    """Join the consumer group and score until told to stop."""
    # Until App takes over: nothing is joined or open yet. Without it, process 1 of a container
    # would not end at all, and any other as one that was killed.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with _exit_codes():
        settings = load_settings(config, insecure=insecure)
        from consumer.adapters.private_memory import keep_memory_private

        if not settings.security.core_dumps:
            keep_memory_private()
        from consumer.app import App
        from consumer.telemetry import configure_logging

        configure_logging(settings.log.format, settings.log.level)
        App(settings).run()


@app.command()
def check(
    config: ConfigOption = None,
    *,
    insecure: InsecureOption = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print every key as it holds, secrets redacted.")
    ] = False,
) -> None:
    """
    Check configuration and model bundle, and report every fault at once.

    Scores made-up payments besides, without a broker, which compiles what is not in the cache.
    """
    with _exit_codes():
        settings = load_settings(config, insecure=insecure)
        for key, value in effective(settings) if show else ():
            typer.echo(f"{key} = {value}")
        from consumer.adapters.kafka_clients import check_properties
        from consumer.adapters.model_bundle import load_bundle
        from consumer.app import rehearse

        notes: list[str] = []

        def check_bundle() -> None:
            bundle = load_bundle(
                settings.model.path,
                allow_pickle=settings.model.allow_pickle,
                public_key=settings.model.public_key,
            )
            rehearse(bundle)
            if bundle.feature_set.needs_one_partition:
                notes.append(
                    f"feature set {bundle.feature_set.name} counts payments of terminals: topic"
                    f" {settings.topics.input} must have one partition"
                )

        faults: list[str] = []
        for check_part in (partial(check_properties, settings), check_bundle):
            try:
                check_part()
            except ConfigError as error:
                faults += error.faults
        if faults:
            raise ConfigError(faults)
    typer.echo("configuration and model bundle are sound")
    for note in notes:
        typer.echo(note)


@app.command()
def topics(
    config: ConfigOption = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of an input topic that does not exist yet.",
            show_default="8, or 1 where the feature set needs it",
        ),
    ] = None,
    feature_set: FeatureSetOption = "arrival-1",
    replication_factor: Annotated[int, typer.Option(help="-1 leaves it to the broker.")] = -1,
    *,
    insecure: InsecureOption = False,
) -> None:
    """Create the topics as the windows and the guarantee need them, or say what differs."""
    with _exit_codes():
        settings = load_settings(config, insecure=insecure)
        features = _feature_set(feature_set)
        from consumer.adapters.topics import ensure_topics
        from consumer.cli_brokers import require_brokers

        require_brokers(settings)
        width = partitions or (1 if features.needs_one_partition else 8)
        done, differences = ensure_topics(settings, features, width, replication_factor)
    for sentence in done:
        typer.echo(sentence)
    for difference in differences:
        typer.echo(f"differs: {difference}", err=True)
    if differences:
        raise typer.Exit(1)
    typer.echo("all topics are as they must be")


@app.command()
def tail(
    kind: Annotated[str, typer.Argument(help="predictions, alerts, dead-letters or labels")],
    config: ConfigOption = None,
    *,
    insecure: InsecureOption = False,
    from_beginning: Annotated[bool, typer.Option(help="Not only what is new.")] = False,
    follow: Annotated[bool, typer.Option(help="Wait for more at the end.")] = True,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Stop after so many; 0: never.")] = 0,
    card: Annotated[str | None, typer.Option(help="Only this card's token.")] = None,
    decision: Annotated[str | None, typer.Option(help="Only this decision.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only this reason code.")] = None,
) -> None:
    """Show predictions, alerts, dead letters or labels as they are committed."""
    from consumer.adapters import tail as reader
    from consumer.cli_brokers import require_brokers

    if kind not in reader.KINDS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(reader.KINDS)}")
    wanted = reader.Filters(card, decision, reason)
    with _exit_codes(), contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        settings = load_settings(config, insecure=insecure)
        require_brokers(settings)
        shown = 0
        for record in reader.tail(settings, kind, from_beginning=from_beginning, follow=follow):
            if wanted.pass_(record):
                typer.echo(reader.as_json(record) if json else reader.as_line(kind, record))
                shown += 1
                if shown == limit:
                    break


@app.command()
def train(
    begin: Annotated[str, typer.Option(help="First day that teaches, ISO 8601, UTC.")],
    end: Annotated[str, typer.Option(help="Day it ends, itself left out.")],
    *,
    source: HistorySourceOption = "topics",
    config: ConfigOption = None,
    insecure: InsecureOption = False,
    payments: PaymentsOption = None,
    labels: LabelsOption = None,
    label_delay: LabelDelayOption = "exactly:7d",
    known_by: Annotated[
        str | None,
        typer.Option(help="Labels published later do not teach.", show_default="all teach"),
    ] = None,
    settle: Annotated[str, typer.Option(help="labels.settle of the consumer to be.")] = "60s",
    feature_set: FeatureSetOption = "arrival-1",
    warm_up: WarmUpOption = None,
    alerts_per_day: Annotated[
        int, typer.Option(min=1, help="Cards a day people can review.")
    ] = 100,
    engine: Annotated[
        str, typer.Option(help="auto, quickscorer, onnxruntime, or sklearn (a joblib bundle).")
    ] = "auto",
    name: Annotated[str, typer.Option(help="Name of the model.")] = "fraud",
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")] = Path("model"),
) -> None:
    """Train a model on the features that the consumer computes, and write its bundle."""
    # Threads of OpenMP that spin for work take three times as long where a core is busy elsewhere.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from consumer.cli_history import HistoryOptions
    from consumer.cli_train import TrainOptions, run_train

    history = HistoryOptions(source, config, insecure, payments, labels, label_delay, settle)
    with _exit_codes():
        run_train(
            TrainOptions(
                begin, end, history, known_by, _feature_set(feature_set), warm_up,
                alerts_per_day, engine, name, out,
            )
        )  # fmt: skip


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder of the model bundle.")],
    *,
    key: Annotated[Path, typer.Option(help="Ed25519 private key, a PEM file.")],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File of the key's passphrase, if it has one.")
    ] = None,
) -> None:
    """Sign a model bundle, for consumers whose model.public_key asks for it."""
    from consumer.adapters.model_bundle import sign_bundle

    with _exit_codes():
        try:
            secret = passphrase_file.read_bytes().rstrip(b"\r\n") if passphrase_file else None
        except OSError as error:
            raise ConfigError(f"--passphrase-file: {passphrase_file}: {error.strerror}") from error
        signature = sign_bundle(bundle, key, secret)
    typer.echo(f"signed: {signature}")


@app.command()
def evaluate(
    bundles: Annotated[
        list[Path], typer.Argument(help="Model bundles; several share the period, in this order.")
    ],
    *,
    begin: Annotated[str, typer.Option(help="First day to judge, ISO 8601, UTC.")],
    end: Annotated[str, typer.Option(help="Day it ends, itself left out.")],
    source: HistorySourceOption = "topics",
    config: ConfigOption = None,
    insecure: InsecureOption = False,
    payments: PaymentsOption = None,
    labels: LabelsOption = None,
    label_delay: LabelDelayOption = "exactly:7d",
    settle: Annotated[str, typer.Option(help="labels.settle of the consumer.")] = "60s",
    warm_up: WarmUpOption = None,
    review_cost: Annotated[
        float, typer.Option(min=0, help="What looking at an alert costs, in the major unit.")
    ] = 5.0,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="As model.allow_pickle: joblib runs code.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write a model card and plots into each bundle.")
    ] = False,
) -> None:
    """
    Judge models on payments whose labels are known, by the Fraud Detection Handbook's protocol.

    The features are those that the consumer computes; no broker is needed but for --from topics.
    """
    from consumer.cli_evaluate import EvaluateOptions, run_evaluate
    from consumer.cli_history import HistoryOptions

    history = HistoryOptions(source, config, insecure, payments, labels, label_delay, settle)
    with _exit_codes():
        run_evaluate(
            EvaluateOptions(
                bundles, begin, end, history, warm_up, review_cost, allow_pickle, json, report
            )
        )


@app.command(**_ELSEWHERE)
def simulate(context: typer.Context) -> None:
    """Publish card payments, and labels when they become known."""
    from producer_sim.command import simulate as command

    _hand_over(context, command)


@app.command(**_ELSEWHERE)
def explain(context: typer.Context) -> None:
    """Show why a payment got its score, and whether it would get it again."""
    from consumer.cli_explain import explain as command

    _hand_over(context, command)


@app.command(**_ELSEWHERE)
def replay(context: typer.Context) -> None:
    """Score a period again with another model, and report what would change."""
    from consumer.cli_replay import replay as command

    _hand_over(context, command)


@app.command(**_ELSEWHERE)
def verify(context: typer.Context) -> None:
    """Check that nothing is lost, repeated, out of order or made up."""
    from consumer.cli_verify import verify as command

    _hand_over(context, command)


@app.command(**_ELSEWHERE)
def state(context: typer.Context) -> None:
    """Inspect snapshots of velocity state, hold them against the log, or export them."""
    from consumer.cli_state import state as commands

    with _exit_codes():
        commands(context.args, prog_name="fraudstream state")


@app.command("dead-letters", **_ELSEWHERE)
def dead_letters(context: typer.Context) -> None:
    """List what could not be scored, show it, send it again, or put it aside."""
    from consumer.cli_dead_letters import dead_letters as commands

    with _exit_codes():
        commands(context.args, prog_name="fraudstream dead-letters")


@app.command(**_ELSEWHERE)
def resume(context: typer.Context) -> None:
    """Let a consumer go on with partitions that it paused for too many dead letters."""
    from consumer.cli_resume import resume as command

    _hand_over(context, command)


def _feature_set(name: str) -> "FeatureSet":
    from consumer.core.feature_sets import FEATURE_SETS

    if name not in FEATURE_SETS:
        raise ConfigError(f"--feature-set: {name!r} is none of {', '.join(FEATURE_SETS)}")
    return FEATURE_SETS[name]


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point of the command."""
    app()
