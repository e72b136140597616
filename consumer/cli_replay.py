"""`fraudstream replay`: what another model would have decided on a period of the live topics."""

import json as json_lines
import math
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from consumer.adapters.model_bundle import load_bundle
from consumer.cli_brokers import require_brokers
from consumer.cli_options import ConfigOption, FromOption, InsecureOption, ToOption, kafka_times
from consumer.cli_progress import progress
from consumer.log_fold import log_faults
from consumer.replay import Replay, Wanted
from consumer.settings import load_settings
from consumer.telemetry import configure_logging

_TEN_THOUSANDTHS: Final = 10_000


def replay(
    model: Annotated[Path, typer.Option(help="Bundle to score with.")],
    out: Annotated[Path, typer.Option(help="Folder of the answers; a rerun goes on in it.")],
    *,
    config: ConfigOption = None,
    insecure: InsecureOption = False,
    begin: FromOption = None,
    end: ToOption = None,
    to_topic: Annotated[
        str | None, typer.Option(help="Publish the predictions to this topic besides.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Most records to read a second.")] = math.inf,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """
    Score a period of the live topics again with another model, and report what would change.

    It reads by offset beside the group: live topics and the group's offsets stay as they are.
    """
    settings = load_settings(config, insecure=insecure)
    configure_logging(settings.log.format, "warning")
    bundle = load_bundle(
        model, allow_pickle=settings.model.allow_pickle, public_key=settings.model.public_key
    )
    wanted = Wanted(
        *kafka_times(begin, end),
        out, to_topic, rate,
    )  # fmt: skip
    require_brokers(settings)
    with (
        log_faults(),
        progress() as steps,
        closing(Replay(settings, bundle, wanted, steps)) as work,
    ):
        report = work.run()
    if json:
        typer.echo(json_lines.dumps(report))
    else:
        _show(report, out)


def _show(report: dict[str, Any], out: Path) -> None:
    console = Console()
    console.print(
        f"{report['payments']:,} payments scored by {report['model']}, {report['flipped']:,}"
        f" decisions flip; published by {', '.join(report['published_by']) or 'nobody'}"
    )
    if report["without_published_prediction"]:
        console.print(f"{report['without_published_prediction']:,} have no published prediction")
    flips = Table("was", "is", "payments", "amount", "strongest reasons", show_edge=False)
    for flip in report["matrix"]:
        reasons = " ".join(f"{code}:{count}" for code, count in flip["reasons"].items())
        amount = flip["amount"] / _TEN_THOUSANDTHS
        flips.add_row(flip["was"], flip["now"], f"{flip['payments']:,}", f"{amount:,.2f}", reasons)
    console.print("", flips, "")
    published, replayed = (report["quality"][name] for name in ("published", "replayed"))
    if published is None or replayed is None:
        console.print("labels know too little of these payments to compare quality")
    else:
        quality = Table(f"{report['frauds']:,} frauds known", "published", "replayed")
        for name, value in published.items():
            quality.add_row(name.replace("_", " "), f"{value:.4f}", f"{replayed[name]:.4f}")
        console.print(quality)
    console.print(f"answers and report.json are in {out}")
