"""What an evaluation found, in words: rows for the terminal and the model card, facts for JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from consumer.core.manifest import Manifest
from training.evaluate import Evaluation, mean_of
from training.published import FOUR_WEEKS, WEEK_1, Published

_DAYS_OF_WEEK_1: Final = ("2018-08-08", "2018-08-15")


@dataclass(frozen=True, slots=True)
class Judged:
    """
    A bundle and how it did on payments made in [begin, end), days in ISO 8601.

    `left_out` payments were of cards known by then to be compromised; they are not in `payments`.
    """

    folder: str
    manifest: Manifest
    begin: str
    end: str
    payments: int
    left_out: int
    frauds: int
    evaluation: Evaluation
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What all figures of one evaluation rest on: labels in words, cost in the major unit."""

    labels: str
    review_cost: float

    @property
    def net_saved(self) -> str:
        """The formula of the net figure."""
        return (
            f"net saved = (amounts of frauds alerted - {self.review_cost:.2f} x alerts)"
            " / amounts of all frauds"
        )


def _plain(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


_FIGURES: Final[tuple[tuple[str, str, Callable[[float], str]], ...]] = (
    ("ap", "AP", _plain),
    ("auc", "AUC", _plain),
    ("cp100", "CP@100", _plain),
    ("cp100_ceiling", "CP@100 of a perfect order", _plain),
    ("recall_at_half_percent", "recall at 0.5 %", _plain),
    ("precision_at_half_percent", "precision at 0.5 %", _plain),
    ("recall_at_1_percent", "recall at 1 %", _plain),
    ("precision_at_1_percent", "precision at 1 %", _plain),
    ("fraud_money_at_1_percent", "fraud money at 1 %", _percent),
    ("net_saved_at_1_percent", "net saved at 1 %", _percent),
    ("brier", "Brier score", lambda value: f"{value:.5f}"),
)


def figure_rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[str]]]:
    """Return the name of each figure, and its value in each of the evaluations."""
    rows = [
        (words, [write(getattr(each, name)) for each in evaluations])
        for name, words, write in _FIGURES
    ]
    recalls = [each.recall_by_scenario_at_1_percent for each in evaluations]
    for scenario in sorted({scenario for recall in recalls for scenario in recall}):
        texts = [_plain(recall[scenario]) if scenario in recall else "" for recall in recalls]
        rows.append((f"recall, scenario {scenario}", texts))
    return rows


def published_beside(judged: Sequence[Judged]) -> tuple[str, tuple[Published, ...]]:
    """Return the rows of the Handbook that these figures may stand beside, and their title."""
    if (judged[0].begin, judged[-1].end) == _DAYS_OF_WEEK_1:
        return "published for week 1 of the Handbook", WEEK_1
    return "published for the Handbook, mean of 4 weeks", FOUR_WEEKS


def as_json(judged: Sequence[Judged], circumstances: Circumstances) -> dict[str, Any]:
    """Return everything found, for programs."""
    title, published = published_beside(judged)
    return {
        "labels": circumstances.labels,
        "net_saved": circumstances.net_saved,
        "mean": asdict(mean_of([each.evaluation for each in judged])),
        "bundles": [
            {
                "folder": each.folder,
                "name": each.manifest.name,
                "version": each.manifest.version,
                "feature_set": each.manifest.feature_set,
                "begin": each.begin,
                "end": each.end,
                "payments": each.payments,
                "left_out": each.left_out,
                "frauds": each.frauds,
                "notes": list(each.notes),
                **asdict(each.evaluation),
            }
            for each in judged
        ],
        "published": {"what": title, "rows": [asdict(row) for row in published]},
    }
