"""`make demo`: broker, model, consumer and simulator, live, and at the end what came of it."""

import json
import os
from typing import Annotated

import typer
from rich.console import Console

from demo.processes import DemoFailedError
from demo.run import Plan, run_demo
from demo.view import closing_table
from tests.brokers import BrokerUnavailable, Rung, choose


def main(
    broker: Annotated[
        str, typer.Option(envvar="BROKER", help="embedded, kafka, docker, or address.")
    ] = "auto",
    guarantee: Annotated[
        str, typer.Option(envvar="DEMO_GUARANTEE", help="at-least-once or exactly-once.")
    ] = "at-least-once",
    seconds: Annotated[
        float, typer.Option(envvar="DEMO_SECONDS", min=5, help="Bound of the streaming part.")
    ] = 60.0,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the closing table as JSON.")
    ] = False,
) -> None:
    """Stream card payments through a broker, and score every one."""
    console = Console(stderr=as_json)
    try:
        choice = choose(broker, os.environ, default=Rung.EMBEDDED)
        result = run_demo(choice, Plan.within(seconds, guarantee), console)
    except (BrokerUnavailable, DemoFailedError) as error:
        Console(stderr=True).print(f"demo: {error}", style="red")
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(result))
    else:
        console.print(closing_table(result))
    accounted = result["predictions"] + result["dead_letters"] + result["skipped"]
    if accounted != result["events_in"]:
        Console(stderr=True).print(
            f"demo: {result['events_in']:,} events came in, {accounted:,} are accounted for",
            style="red",
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
