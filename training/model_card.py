"""A bundle's model card: what the model is, how well it detects, and what to keep in mind."""

from collections.abc import Sequence
from typing import Final

from consumer.core.manifest import Manifest
from training.report import Circumstances, Judged, figure_rows, published_beside

MODEL_CARD_FILE: Final = "MODEL_CARD.md"


def model_card(judged: Judged, circumstances: Circumstances, plots: dict[str, str]) -> str:
    """Return the card in Markdown; `plots` maps a picture's file beside it to what it shows."""
    manifest = judged.manifest
    parts = [
        f"# {manifest.name} {manifest.version}",
        f"Scores card payments for fraud: the probability that a payment is one, from the"
        f" {len(manifest.feature_names)} inputs of feature set `{manifest.feature_set}`.",
        "## Use",
        f"Loaded by `fraudstream run`, engine {manifest.engine}. Meant for what it was trained on:"
        " payments of the same cards and terminals, with fraud labels arriving as in training. It"
        " knows no person, only tokens of cards and terminals. A person should look at what is"
        " reviewed or declined.",
        _table(("decision", "from probability"), _thresholds(manifest)),
        "## Training",
        _table(("", ""), [(name, str(value)) for name, value in manifest.training.items()]),
        "## Detection",
        f"Judged on payments made from {judged.begin} to {judged.end}, the last day left out, by"
        f" the protocol of the Fraud Detection Handbook: {judged.payments:,} payments, of them"
        f" {judged.frauds:,} frauds; {judged.left_out:,} more were left out, since their cards were"
        f" known by then to be compromised. Labels: {circumstances.labels}.",
        _table(
            ("figure", "value"),
            [(name, value) for name, [value] in figure_rows([judged.evaluation])],
        ),
        "AP is average precision, AUC the area under the ROC curve, CP@100 the share of compromised"
        " cards among the 100 with the highest probability of each day; in a perfect order it would"
        " be as high as the figure below it, since found cards leave the pool. At 1 % alerts (at"
        " 0.5 %): that share of all payments, those with the highest probabilities, is looked at."
        f" Recall by scenario and money are at 1 %; {circumstances.net_saved}.",
        *(f"![{shown}]({file})" for file, shown in plots.items()),
        _published(judged),
        "## Keep in mind",
        "\n".join(f"- {note}" for note in (*judged.notes, *_LIMITS)),
    ]
    return "\n\n".join(parts) + "\n"


_LIMITS: Final = (
    "Terminal risk is most of what it knows: when labels stop or come later than in training, it"
    " detects far less. Watch the age of the newest label.",
    "A card without 30 days of history, or a terminal without labels, is judged by little.",
    "Figures on simulated payments do not carry over to real ones.",
    "Nothing here says whether it treats groups of people alike: there is no data about people.",
)


def _thresholds(manifest: Manifest) -> list[tuple[str, str]]:
    thresholds = manifest.thresholds
    return [
        ("CHALLENGE", f"{thresholds.challenge:.6f}"),
        ("REVIEW", f"{thresholds.review:.6f}"),
        ("DECLINE", f"{thresholds.decline:.6f}"),
    ]


def _published(judged: Judged) -> str:
    title, rows = published_beside([judged])
    texts = [(row.model, f"{row.ap:.3f}", f"{row.auc:.3f}", f"{row.cp100:.3f}") for row in rows]
    return f"{title[0].upper()}{title[1:]}:\n\n" + _table((" ", "AP", "AUC", "CP@100"), texts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
