"""`fraudstream evaluate`: bundles against payments whose labels are known, without a broker."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from consumer.adapters.model_bundle import Bundle, load_bundle
from consumer.cli_history import GRACE, HistoryOptions, read_history
from consumer.cli_options import micros, seconds
from consumer.cli_progress import progress
from consumer.core.feature_sets import DAY
from consumer.core.labels import TerminalFrauds
from consumer.core.score import ScoreInvalidError, score
from consumer.errors import ConfigError
from consumer.settings import load_model_settings
from training.evaluate import Evaluation, Fold, Scored, evaluate, mean_of, rows_to_evaluate
from training.history import NEVER, History, measure
from training.model_card import MODEL_CARD_FILE, model_card
from training.published import Published
from training.report import Circumstances, Judged, as_json, figure_rows, published_beside

_PER_MAJOR_UNIT: Final = 10_000.0
_KNOWN_FROM_DAYS: Final = 14
"""The Handbook forgets compromised cards from before its training week, and a week of delay."""


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """The options of the command, as they were typed."""

    bundles: Sequence[Path]
    begin: str
    end: str
    history: HistoryOptions
    warm_up: str | None
    review_cost: float
    allow_pickle: bool
    json: bool
    report: bool


def run_evaluate(options: EvaluateOptions) -> None:
    """Judge each bundle on its share of the period. Raises ConfigError for what cannot work."""
    trusted = load_model_settings(options.history.config)
    bundles = [
        load_bundle(
            path,
            allow_pickle=options.allow_pickle or trusted.allow_pickle,
            public_key=trusted.public_key,
        )
        for path in options.bundles
    ]
    first, days_each = _shares(options)
    circumstances = Circumstances(_labels_in_words(options.history), options.review_cost)
    with progress() as steps:
        tell = steps.begin
        tell("reading payments and labels")
        feature_sets = {bundle.feature_set.name: bundle.feature_set for bundle in bundles}
        history, frauds = read_history(options.history, feature_sets.values())
        warm_up = max(feature_set.longest_window for feature_set in feature_sets.values())
        if options.warm_up:
            warm_up = int(seconds("--warm-up", options.warm_up) * 1_000_000)
        end = first + len(bundles) * days_each
        period = _Period(history, frauds, first, end, warm_up)
        tell(f"scoring the period with {len(bundles)} models")
        found = [
            period.judge(path, bundle, first + share * days_each, days_each, options.review_cost)
            for share, (path, bundle) in enumerate(zip(options.bundles, bundles, strict=True))
        ]
        if options.report:
            tell("writing model cards")
            for folder, (judged, scored) in zip(options.bundles, found, strict=True):
                _write_report(folder, judged, scored, circumstances)
    all_judged = [judged for judged, _ in found]
    if options.json:
        print(json.dumps(as_json(all_judged, circumstances), indent=2))  # noqa: T201
    else:
        _print_tables(all_judged, circumstances)


def _shares(options: EvaluateOptions) -> tuple[int, int]:
    """Return the first day of the period, since 1970, and how many days each bundle gets."""
    begin, end = micros("--begin", options.begin), micros("--end", options.end)
    if begin >= end:
        raise ConfigError(f"--end: {options.end} is not after --begin, {options.begin}")
    if begin % DAY or end % DAY:
        raise ConfigError("--begin and --end: whole days are judged; write dates, without a time")
    days, odd = divmod((end - begin) // DAY, len(options.bundles))
    if odd:
        raise ConfigError(
            f"--end: {(end - begin) // DAY} days cannot be shared evenly by"
            f" {len(options.bundles)} bundles, one after the other"
        )
    return begin // DAY, days


def _labels_in_words(options: HistoryOptions) -> str:
    if options.source == "handbook":
        return f"of the simulator, {options.label_delay} after the payment"
    return f"from {options.source}"


class _Period:
    """The payments of the period with what came before them, measured once for a feature set."""

    def __init__(
        self, history: History, frauds: TerminalFrauds, first: int, end: int, warm_up: int
    ) -> None:
        """Days [first, end) since 1970; `warm_up` microseconds of payments fill the windows."""
        if len(history) == 0:
            raise ConfigError("there are no payments to judge by")
        self._history = history
        self._frauds = frauds
        self._days = history.times // DAY
        self._is_fraud = history.fraud_known_at != NEVER
        self._cards = history.cards[:, 0]  # 64 bits of hash tell cards apart
        self._warm_up = warm_up
        times = history.times
        self._needed = np.flatnonzero((times >= first * DAY - warm_up) & (times < end * DAY))
        self._rows_by_set: dict[str, NDArray[np.float32]] = {}
        if first < self._days.min():
            raise ConfigError(
                f"--begin: {_date(first)} is before the first payment, which is of"
                f" {_date(self._days.min())}"
            )

    def judge(
        self, folder: Path, bundle: Bundle, first: int, days: int, review_cost: float
    ) -> tuple[Judged, Scored]:
        """Judge a bundle on these days. Raises ConfigError where they cannot tell anything."""
        end = first + days
        inside = int(((self._days >= first) & (self._days < end)).sum())
        if inside == 0:
            raise ConfigError(
                f"no payments from {_date(first)} to {_date(end)}: the last one there is, is of"
                f" {_date(self._days.max())}"
            )
        # Not the bundle's own training period: all models are judged on the same payments.
        fold = Fold(first - _KNOWN_FROM_DAYS, first, days)
        rows = rows_to_evaluate(self._days, self._cards, self._is_fraud, fold)
        # Among equal probabilities the first are alerted: first in time, wherever they were kept.
        rows = rows[np.lexsort((self._cards[rows], self._history.times[rows]))]
        is_fraud = self._is_fraud[rows]
        if is_fraud.all() or not is_fraud.any():
            raise ConfigError(
                f"{_date(first)} to {_date(end)} has {len(rows):,} payments to judge by and"
                f" {int(is_fraud.sum()):,} frauds among them; without both kinds there is nothing"
                " to detect: take another period, or labels that reach it"
            )
        try:
            probabilities = score(self._features(bundle)[rows], bundle.model)
        except ScoreInvalidError as error:
            raise ConfigError(f"{folder}: {error}") from error
        scored = Scored(
            self._days[rows], self._cards[rows], is_fraud, probabilities,
            self._history.amounts[rows] / _PER_MAJOR_UNIT, self._history.scenarios[rows],
        )  # fmt: skip
        judged = Judged(
            str(folder), bundle.manifest, _date(first), _date(end), len(rows), inside - len(rows),
            int(is_fraud.sum()), evaluate(scored, review_cost), self._notes(bundle, first, end),
        )  # fmt: skip
        return judged, scored

    def _features(self, bundle: Bundle) -> NDArray[np.float32]:
        """Return float32[n, features] of all payments, NaN of those that nobody asks for."""
        feature_set = bundle.feature_set
        if feature_set.name not in self._rows_by_set:
            rows = np.full((len(self._history), len(feature_set.names)), np.nan, np.float32)
            rows[self._needed] = measure(
                self._history.take(self._needed), feature_set, self._frauds, GRACE, lambda _: None
            )
            self._rows_by_set[feature_set.name] = rows
        return self._rows_by_set[feature_set.name]

    def _notes(self, bundle: Bundle, first: int, end: int) -> tuple[str, ...]:
        """Return a sentence for each reason to trust the figures less."""
        notes = []
        if str(bundle.manifest.training.get("end", "")) > str(np.datetime64(first * DAY, "us")):
            notes.append(
                "The model was trained on payments of this period, or later ones: it knows some of"
                " them by heart."
            )
        if self._history.times.min() > first * DAY - self._warm_up + DAY:
            notes.append(
                f"The payments begin on {_date(self._days.min())}: windows were not full at first."
            )
        known = self._history.fraud_known_at[self._is_fraud]
        if known.max() < end * DAY:
            notes.append(
                f"The newest label is of {_date(known.max() // DAY)}: later frauds of the period"
                " may not be known yet, and count as genuine."
            )
        return tuple(notes)


def _date(day: int) -> str:
    return str(np.datetime64(int(day), "D"))


def _write_report(
    folder: Path, judged: Judged, scored: Scored, circumstances: Circumstances
) -> None:
    """Write the model card and its pictures into the bundle's folder. Raises ConfigError."""
    from training.plots import precision_recall, recall_by_scenario

    title = f"{judged.manifest.name} {judged.manifest.version}, {judged.begin} to {judged.end}"
    recalls = judged.evaluation.recall_by_scenario_at_1_percent
    pictures = {
        "precision_recall.png": precision_recall(scored.is_fraud, scored.probabilities, title)
    }
    if recalls:
        pictures["recall_by_scenario.png"] = recall_by_scenario(recalls, title)
    shown = {name: name.removesuffix(".png").replace("_", " ").capitalize() for name in pictures}
    card = model_card(judged, circumstances, shown)
    try:
        for name, picture in pictures.items():
            (folder / name).write_bytes(picture)
        (folder / MODEL_CARD_FILE).write_text(card, "utf-8")
    except OSError as error:
        raise ConfigError(
            f"{folder}: the model card cannot be written: {error.strerror}"
        ) from error


def _print_tables(all_judged: Sequence[Judged], circumstances: Circumstances) -> None:
    console = Console()
    evaluations = [judged.evaluation for judged in all_judged]
    console.print(_detection(all_judged, evaluations))
    console.print(_beside(all_judged, mean_of(evaluations)))
    console.print(f"labels {circumstances.labels}; {circumstances.net_saved}")
    for judged in all_judged:
        for note in judged.notes:
            console.print(f"{judged.folder}: {note}")


def _detection(all_judged: Sequence[Judged], evaluations: Sequence[Evaluation]) -> Table:
    """Return a column for each bundle, and their mean where there are several."""
    table = Table(title="detection, by the Handbook's protocol", title_justify="left")
    table.add_column("from")
    means = [mean_of(evaluations)] if len(evaluations) > 1 else []
    for head in (*(judged.begin for judged in all_judged), *("mean" for _ in means)):
        table.add_column(head, justify="right")
    for name in ("payments", "frauds"):
        table.add_row(name, *(f"{getattr(judged, name):,}" for judged in all_judged))
    for name, texts in figure_rows([*evaluations, *means]):
        table.add_row(name, *texts)
    return table


def _beside(all_judged: Sequence[Judged], mean: Evaluation) -> Table:
    """Return the bundles' row above those that the Handbook published."""
    title, published = published_beside(all_judged)
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for name in ("AP", "AUC", "CP@100"):
        table.add_column(name, justify="right")
    for row in (Published("judged here", mean.auc, mean.ap, mean.cp100), *published):
        table.add_row(row.model, f"{row.ap:.3f}", f"{row.auc:.3f}", f"{row.cp100:.3f}")
    return table
