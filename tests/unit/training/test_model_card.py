import json

import numpy as np
import pytest

from consumer.core.manifest import MANIFEST_FILE, Manifest
from training.evaluate import Scored, evaluate
from training.model_card import model_card
from training.report import Circumstances, Judged

CIRCUMSTANCES = Circumstances("from parquet", 2.5)


@pytest.fixture
def judged(bundle_folder) -> Judged:
    n = 1_000
    is_fraud = np.arange(n) % 100 == 0
    scored = Scored(
        np.zeros(n, np.int64), np.arange(n), is_fraud, np.where(np.arange(n) < 500, is_fraud, 0.0),
        np.full(n, 20.0), np.where(is_fraud, "skimming", ""),
    )  # fmt: skip
    manifest = Manifest.model_validate(json.loads((bundle_folder / MANIFEST_FILE).read_text()))
    return Judged(
        "models/tiny", manifest, "2020-01-01", "2020-01-08", n, 77, int(is_fraud.sum()),
        evaluate(scored, 2.5), ("The model was trained on payments of this period.",),
    )  # fmt: skip


def test_the_card_says_what_the_model_is(judged):
    """Name, version, engine, features, thresholds and what it was trained on: as the manifest."""
    card = model_card(judged, CIRCUMSTANCES, {})

    manifest = judged.manifest
    assert card.startswith(f"# tiny {manifest.version}\n")
    assert "14 inputs of feature set `arrival-1`" in card
    assert "engine quickscorer" in card
    assert "| REVIEW | 0.100000 |" in card
    assert "| payments | 4000 |" in card


def test_the_card_says_how_well_it_detects_and_by_which_formula(judged):
    """Figures with their period, how many payments they are of, and the cost behind net saved."""
    card = model_card(judged, CIRCUMSTANCES, {})

    assert "from 2020-01-01 to 2020-01-08" in card
    assert "1,000 payments, of them 10 frauds; 77 more were left out" in card
    assert "| recall at 0.5 % | 0.500 |" in card
    assert "| precision at 1 % | 0.500 |" in card
    assert "| fraud money at 1 % | 50.0 % |" in card
    assert "| net saved at 1 % | 37.5 % |" in card  # (5 x 20 - 10 x 2.50) / (10 x 20)
    assert "| recall, scenario skimming | 0.500 |" in card
    assert "(amounts of frauds alerted - 2.50 x alerts) / amounts of all frauds" in card
    assert "| random forest | 0.678 | 0.870 | 0.299 |" in card


def test_the_card_warns_of_what_its_figures_lack(judged):
    """What the evaluation noticed stands first among what to keep in mind."""
    _, warnings = model_card(judged, CIRCUMSTANCES, {}).split("## Keep in mind\n\n")

    assert warnings.startswith("- The model was trained on payments of this period.\n- ")


def test_the_card_shows_the_pictures_beside_it(judged):
    """And none where there is none."""
    picture = {"precision_recall.png": "Precision recall"}

    assert "![Precision recall](precision_recall.png)" in model_card(judged, CIRCUMSTANCES, picture)
    assert "![" not in model_card(judged, CIRCUMSTANCES, {})


def test_the_tables_of_the_card_are_whole(judged):
    """Every row of a table is as wide as its head."""
    tables = [
        [line.count("|") for line in part.splitlines()]
        for part in model_card(judged, CIRCUMSTANCES, {}).split("\n\n")
        if part.startswith("|")
    ]

    assert len(tables) == 4
    for widths in tables:
        assert len(widths) > 2
        assert len(set(widths)) == 1
