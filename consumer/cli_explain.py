"""`fraudstream explain`: shows why a payment got its score, and whether it would get it again."""

import json as json_lines
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from consumer.adapters.model_bundle import load_bundle
from consumer.cli_brokers import require_brokers
from consumer.cli_options import ConfigOption, InsecureOption, milliseconds, seconds
from consumer.cli_progress import answer_console, progress
from consumer.errors import ConfigError
from consumer.explanation import Explanation, PaymentExplainer, reason_words
from consumer.log_fold import log_faults
from consumer.settings import load_settings
from consumer.telemetry import configure_logging

EXIT_DIFFERS: Final = 1
_NOTHING_TOLD: Final[tuple[object, ...]] = (None, "UNKNOWN", {})


def explain(
    config: ConfigOption = None,
    *,
    insecure: InsecureOption = False,
    partition: Annotated[int | None, typer.Option(min=0, help="Of the input topic.")] = None,
    offset: Annotated[int | None, typer.Option(min=0, help="Of the payment's record.")] = None,
    event_id: Annotated[
        str | None, typer.Option(help="Look for this event in the input topic instead.")
    ] = None,
    around: Annotated[
        str | None, typer.Option(help="Begin to look at this time of the record, ISO 8601, UTC.")
    ] = None,
    within: Annotated[str, typer.Option(help="Look for the event no longer than this.")] = "60s",
    model: Annotated[
        Path | None, typer.Option(help="Bundle to explain with.", show_default="model.path")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """
    Show what was known of a payment, what was answered, and whether it is answered again.

    Exit code 0: the published prediction is the same bit for bit, 1: it differs or there is none.
    """
    if (event_id is None) == (partition is None and offset is None):
        raise ConfigError("give either --partition and --offset, or --event-id")
    if event_id is None and (partition is None or offset is None):
        raise ConfigError("--partition and --offset belong together")
    settings = load_settings(config, insecure=insecure)
    configure_logging(settings.log.format, "warning")
    bundle = load_bundle(
        model or settings.model.path,
        allow_pickle=settings.model.allow_pickle,
        public_key=settings.model.public_key,
    )
    begin = None if around is None else milliseconds("--around", around)
    limit = seconds("--within", within)
    require_brokers(settings)
    with (
        log_faults(),
        progress() as steps,
        closing(PaymentExplainer(settings, bundle, steps)) as explainer,
    ):
        if event_id is not None:
            partition, offset = explainer.locate(event_id, begin, limit)
        explanation = explainer.explain(partition or 0, offset or 0)
    if json:
        typer.echo(
            json_lines.dumps(asdict(explanation) | {"equal": explanation.equal}, default=str)
        )
    else:
        _show(explanation)
    if not explanation.equal:
        raise typer.Exit(EXIT_DIFFERS)


def _show(explanation: Explanation) -> None:
    console = answer_console()
    e, prediction = explanation, explanation.prediction
    console.print(f"[bold]{e.topic}\\[{e.partition}]@{e.offset}[/bold], appended {e.timestamp}")
    facts = Table("transaction", "", show_edge=False)
    for name, value in e.transaction.items():
        if value not in _NOTHING_TOLD:
            facts.add_row(name, str(value))
    console.print(facts, "")
    features = Table("feature", "value", "unit", "published", show_edge=False)
    for each in e.features:
        then = "" if each["published"] is None else f"{each['published']:g}"
        features.add_row(each["name"], f"{each['value']:g}", each["unit"], then)
    console.print(features, "")
    console.print(
        f"[bold]{prediction['decision']}[/bold], score {prediction['score']}, probability"
        f" {prediction['probability']!r}, by {prediction['model_name']}"
        f" {prediction['model_version']}, policy {prediction['policy_version']}"
    )
    for reason in prediction["reasons"]:
        console.print(
            f"  {reason['code']} {reason_words(reason['code'])}: contribution"
            f" {reason['contribution']:.3f}, value {reason['value']:g}"
        )
    if e.labels:
        labels = Table("label", "payment", "effect", "counts from", "appended", show_edge=False)
        for label in e.labels:
            late = " (late)" if label.appended_late else ""
            labels.add_row(
                label.label_id, label.transaction_id, label.effect, label.counts_from,
                label.appended_at + late,
            )  # fmt: skip
        console.print("", labels)
    _show_comparison(console, e)


def _show_comparison(console: Console, explanation: Explanation) -> None:
    console.print("")
    if explanation.equal:
        console.print(
            f"equal bit for bit to {explanation.published_at} (compared: {explanation.compared})"
        )
    for difference in explanation.differences:
        console.print(
            f"[bold]differs[/bold] from {explanation.published_at}: {difference.field} was"
            f" {difference.published}, is {difference.again}"
        )
    for note in explanation.notes:
        console.print(f"note: {note}", markup=False)
