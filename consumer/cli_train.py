"""`fraudstream train`: reads the history, measures it, trains, and writes the bundle."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console

from consumer.cli_history import GRACE, HistoryOptions, read_history
from consumer.cli_options import micros, seconds
from consumer.cli_progress import progress
from consumer.core.engines import ENGINES
from consumer.core.feature_sets import FeatureSet
from consumer.errors import ConfigError
from training.bundle import Engine, write_bundle
from training.history import NEVER, measure
from training.train import Period, UntrainableError, train


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The options of the command, as they were typed."""

    begin: str
    end: str
    history: HistoryOptions
    known_by: str | None
    feature_set: FeatureSet
    warm_up: str | None
    alerts_per_day: int
    engine: str
    name: str
    out: Path


def run_train(options: TrainOptions) -> None:
    """Train and write the bundle. Raises ConfigError with a sentence for what cannot work."""
    begin, end = micros("--begin", options.begin), micros("--end", options.end)
    known_by = micros("--known-by", options.known_by) if options.known_by else NEVER - 1
    if options.engine not in {"auto", *ENGINES}:
        raise ConfigError(f"--engine: {options.engine!r} is none of auto, {', '.join(ENGINES)}")
    feature_set, warm_up = options.feature_set, options.feature_set.longest_window
    if options.warm_up:
        warm_up = int(seconds("--warm-up", options.warm_up) * 1_000_000)
    with progress() as steps:
        tell = steps.begin
        tell("reading payments and labels")
        history, frauds = read_history(options.history, [feature_set])
        history = history.between(begin - warm_up, end)
        tell(f"computing features of {len(history):,} payments")
        rows = measure(history, feature_set, frauds, GRACE, lambda _: None)
        try:
            trained = train(
                history, rows, Period(begin, end, known_by), options.alerts_per_day, tell
            )
        except UntrainableError as error:
            raise ConfigError(str(error)) from error
        tell("writing the bundle")
        manifest = write_bundle(
            options.out, trained, feature_set, options.name, cast(Engine, options.engine)
        )
    facts = manifest.metrics
    Console(stderr=True).print(
        f"{options.out}: {manifest.name} {manifest.version}, engine {manifest.engine},"
        f" {manifest.training['payments']:,} payments, {manifest.training['frauds']:,} frauds;"
        f" average precision on the last days, held out: {facts['held_out_average_precision']:.3f}"
    )
