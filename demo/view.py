"""What a person sees while the stream runs, and the table at its end."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from consumer.core.feature_sets import REASONS
from demo.metrics import Scrape
from demo.outputs import OutputReader
from training.published import PUBLISHED_WEEK_1

_SECONDS_BETWEEN_LINES = 3.0


class LiveView:
    """A panel that redraws itself on a terminal; elsewhere, a line every few seconds."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._seen: list[tuple[float, Scrape]] = []
        self._line_due = 0.0

    def __enter__(self) -> "LiveView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, now: Scrape, outputs: OutputReader) -> None:
        """Draw the present state."""
        self._seen = [*self._seen[-20:], (time.monotonic(), now)]
        begin, earlier = self._seen[0]
        seconds = max(self._seen[-1][0] - begin, 1e-9)
        figures = {
            "events/s": f"{(now.consumed - earlier.consumed) / seconds:,.0f}",
            "scored": f"{now.consumed:,}",
            "lag": "unknown"
            if now.lag_messages is None
            else f"{now.lag_messages:,} messages, {now.lag_seconds:.1f} s",
            "latency p50 / p99": f"{_ms(now.latency_since(earlier, 0.5))}"
            f" / {_ms(now.latency_since(earlier, 0.99))}",
            "alert rate": f"{100 * now.alerts / max(now.consumed, 1):.2f} %",
            "dead letters": f"{outputs.dead_letter_count:,}",
        }
        if self._console.is_terminal:
            self._live.update(Panel(Group(_figures(figures), _alerts(outputs)), title=self._title))
        elif time.monotonic() >= self._line_due:
            self._line_due = time.monotonic() + _SECONDS_BETWEEN_LINES
            self._console.print("  ".join(f"{name} {value};" for name, value in figures.items()))
            for alert in list(outputs.last_alerts)[-1:]:
                self._console.print(f"    last alert: {_one_line(alert)}")


def closing_table(result: Mapping[str, Any]) -> RenderableType:
    """Return the table at the end, detection quality beside the best that was published."""
    table = Table(title="What came in, what went out", show_header=False)
    table.add_row("events in", f"{result['events_in']:,}")
    for name in ("predictions", "dead_letters", "skipped"):
        table.add_row(f"  {name.replace('_', ' ')}", f"{result[name]:,}")
    table.add_row("alerts", f"{result['alerts']:,}")
    table.add_row(
        "throughput, history at full speed", f"{result['events_per_second']:,.0f} events/s"
    )
    table.add_row(
        "latency p50 / p99, test week at a steady rate",
        f"{_ms(result['latency_p50_seconds'])} / {_ms(result['latency_p99_seconds'])}",
    )
    table.add_row("broker, guarantee", f"{result['broker']}, {result['guarantee']}")
    quality = Table(title="Detection, test week 2018-08-08 to 08-14")
    for heading in ("", "average precision", "AUC ROC", "card precision@100"):
        quality.add_column(heading, justify="left" if not heading else "right")
    quality.add_row(
        "fraudstream, this run", *(_score(result["quality"][k]) for k in ("ap", "auc", "cp100"))
    )
    published = PUBLISHED_WEEK_1
    quality.add_row(
        f"Handbook, {published.model}",
        f"{published.ap:.3f}", f"{published.auc:.3f}", f"{published.cp100:.3f}",
    )  # fmt: skip
    return Group(table, quality)


def _figures(figures: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 4))
    table.add_row(*(f"[bold]{name}[/]" for name in figures))
    table.add_row(*figures.values())
    return table


def _alerts(outputs: OutputReader) -> Table:
    table = Table(title="last alerts", title_justify="left", expand=True)
    for heading in ("event time", "card", "amount", "score", "reasons"):
        table.add_column(heading)
    for alert in reversed(list(outputs.last_alerts)):
        table.add_row(
            f"{alert['opened_at']:%Y-%m-%d %H:%M:%S}", alert["subject_id"], _amount(alert),
            str(alert["max_score"]), _reasons(alert),
        )  # fmt: skip
    return table


def _one_line(alert: Mapping[str, Any]) -> str:
    return (
        f"{alert['opened_at']:%Y-%m-%d %H:%M}  {alert['subject_id']}  {_amount(alert)}"
        f"  score {alert['max_score']}  {_reasons(alert)}"
    )


def _amount(alert: Mapping[str, Any]) -> str:
    return f"{alert['amount_minor'] / 100:,.2f} {alert['currency']}"


def _reasons(alert: Mapping[str, Any]) -> str:
    return "; ".join(REASONS.get(reason["code"], reason["code"]) for reason in alert["reasons"])


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{1_000 * seconds:,.0f} ms"


def _score(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.3f}"
