"""`fraudstream train` and `evaluate` on seven weeks of payments in Parquet, as users run them."""

import json
import shutil
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from consumer import cli
from consumer.cli_options import micros
from consumer.core.manifest import MANIFEST_FILE

DAY = 86_400_000_000
FIRST = date(2020, 1, 6)
DAYS, CARDS, TERMINALS = 49, 400, 100
PNG = b"\x89PNG\r\n\x1a\n"


def day(number: int) -> str:
    return str(FIRST + timedelta(days=number))


def command(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """
    The options that name the data: at a quarter of the terminals most payments of eight days are
    frauds, which a label tells two days later.
    """
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    n = DAYS * CARDS * 2
    start = int(np.datetime64(FIRST, "us").astype(np.int64))
    times = start + np.sort(rng.integers(0, DAYS * DAY, n))
    terminals = rng.integers(0, TERMINALS, n)
    since = rng.integers(0, 2 * DAYS, TERMINALS)[terminals] * DAY // 2 + start
    is_fraud = (times >= since) & (times < since + 8 * DAY) & (rng.random(n) < 0.7)
    is_fraud &= terminals < TERMINALS // 4
    ids = [f"payment-{row}" for row in range(n)]
    payments = {
        "transaction_id": ids, "event_time": times, "amount_minor": rng.integers(100, 20_000, n),
        "card_id": [f"card-{card}" for card in rng.integers(0, CARDS, n)],
        "terminal_id": [f"terminal-{terminal}" for terminal in terminals],
    }  # fmt: skip
    pq.write_table(pa.table(payments), folder / "payments.parquet")
    labels = pa.table(payments).select(["transaction_id", "terminal_id"])
    labels = labels.append_column("published_at", pa.array(times + 2 * DAY))
    labels = labels.append_column("scenario", pa.array(["skimming"] * n))
    pq.write_table(labels.filter(pa.array(is_fraud)), folder / "labels.parquet")
    options = {"payments": folder / "payments.parquet", "labels": folder / "labels.parquet"}
    return ["--from", "parquet", *(f"--{name}={path}" for name, path in options.items())]


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory) -> Path:
    """A bundle that knows the payments of the days 7 to 20."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    done = command("train", "--begin", day(7), "--end", day(21), *files, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def bundle(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "model")


def judged(files, *arguments: object) -> dict:
    """Return what the command says in JSON."""
    done = command("evaluate", *arguments, *files, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_bundle_is_judged_on_payments_it_never_saw(files, bundle):
    """It finds far more than chance would, and says of what."""
    found = judged(files, bundle, "--begin", day(35), "--end", day(49))

    [result] = found["bundles"]
    assert (result["begin"], result["end"], result["notes"]) == (day(35), day(49), [])
    assert (result["name"], result["feature_set"]) == ("fraud", "arrival-1")
    assert result["ap"] > 3 * result["frauds"] / result["payments"]
    assert set(result["recall_by_scenario_at_1_percent"]) == {"skimming"}
    assert found["mean"] == {name: result[name] for name in found["mean"]}
    assert found["published"]["rows"][0]["model"] == "decision tree"
    assert "5.00 x alerts" in found["net_saved"]


def test_several_bundles_share_the_period(files, bundle):
    """Each is judged on its part, in their order, as if it were alone; the mean is of both."""
    both = judged(files, bundle, bundle, "--begin", day(35), "--end", day(49))
    alone = judged(files, bundle, "--begin", day(42), "--end", day(49))

    first, second = both["bundles"]
    assert (first["begin"], first["end"]) == (day(35), day(42))
    assert second == alone["bundles"][0]
    assert both["mean"]["ap"] == pytest.approx((first["ap"] + second["ap"]) / 2)


def test_bundles_of_several_feature_sets_are_judged_side_by_side(files, bundle, tmp_path):
    """Each on its own features, of the same payments."""
    other = tmp_path / "other"
    options = ("--begin", day(7), "--end", day(21), "--feature-set", "arrival-2", "--out", other)
    done = command("train", *options, *files)
    assert done.exit_code == 0, done.output

    found = judged(files, bundle, other, "--begin", day(35), "--end", day(49))["bundles"]

    assert [result["feature_set"] for result in found] == ["arrival-1", "arrival-2"]
    assert all(result["ap"] > 3 * result["frauds"] / result["payments"] for result in found)


def test_windows_are_filled_as_far_back_as_the_feature_set_reaches(files, tmp_path):
    """37 days for handbook-1; more payments change nothing, fewer do."""
    model, period = tmp_path / "model", ("--begin", day(42), "--end", day(49))
    options = ("--begin", day(7), "--end", day(21), "--feature-set", "handbook-1")
    done = command("train", *options, *files, "--out", model)
    assert done.exit_code == 0, done.output

    [result] = judged(files, model, *period)["bundles"]

    assert [result] == judged(files, model, *period, "--warm-up", "42d")["bundles"]
    assert result["brier"] != judged(files, model, *period, "--warm-up", "30d")["mean"]["brier"]
    [early] = judged(files, model, "--begin", day(35), "--end", day(42))["bundles"]
    assert any("The payments begin on" in note for note in early["notes"])


def test_training_on_features_that_nobody_declared_is_refused(files, tmp_path):
    """The sentence names those there are."""
    days = ("--begin", day(7), "--end", day(21))

    done = command("train", *days, *files, "--feature-set", "mine", "--out", tmp_path / "model")

    assert done.exit_code == cli.EXIT_CONFIG
    assert (
        "--feature-set: 'mine' is none of arrival-1, arrival-2, arrival-3, arrival-4, handbook-1"
        in done.stderr
    )


def test_a_table_is_printed_beside_what_was_published(files, bundle):
    """Without --json; each part has its column, and the mean one of its own."""
    days = ("--begin", day(35), "--end", day(49))
    done = command("evaluate", bundle, bundle, *days, *files, "--review-cost", "2.5")

    assert done.exit_code == 0, done.output
    for text in (day(35), day(42), "mean", "AP", "CP@100 of a perfect order", "recall at 0.5 %",
                 "recall, scenario skimming", "net saved at 1 %", "Brier score", "judged here",
                 "XGBoost, best on test", "2.50 x alerts"):  # fmt: skip
        assert text in " ".join(done.stdout.split())


def test_a_report_is_written_into_the_bundle_which_stays_sound(files, bundle):
    """A card and two pictures; the bundle loads as before, and is trained anew without them."""
    before = (bundle / MANIFEST_FILE).read_bytes()

    days = ("--begin", day(35), "--end", day(49))
    found = judged(files, bundle, *days, "--report")

    assert (bundle / MANIFEST_FILE).read_bytes() == before
    card = (bundle / "MODEL_CARD.md").read_text("utf-8")
    assert f"| AP | {found['mean']['ap']:.3f} |" in card
    for picture in ("precision_recall.png", "recall_by_scenario.png"):
        assert (bundle / picture).read_bytes().startswith(PNG)
        assert f"({picture})" in card
    assert judged(files, bundle, *days)["mean"] == found["mean"]


def test_figures_that_flatter_are_said_to(files, bundle):
    """A model that knows some of the period, and windows that begin with it."""
    [result] = judged(files, bundle, "--begin", day(20), "--end", day(49))["bundles"]

    assert len(result["notes"]) == 2
    assert "by heart" in result["notes"][0]
    assert f"The payments begin on {day(0)}" in result["notes"][1]


def test_a_model_may_be_trained_up_to_the_first_day(files, bundle):
    """The end of its training period is no part of it."""
    options = ("--begin", day(21), "--end", day(49), "--warm-up", "14d")

    assert judged(files, bundle, *options)["bundles"][0]["notes"] == []


def test_labels_that_end_before_the_period_are_said_to(files, bundle, tmp_path):
    """What is not labelled yet counts as genuine, which a good model is blamed for."""
    labels = pq.read_table(files[-1].removeprefix("--labels="))
    known = labels.filter(pa.compute.less(labels["published_at"], micros("", day(45))))
    pq.write_table(known, tmp_path / "labels.parquet")
    few = [*files[:-1], f"--labels={tmp_path / 'labels.parquet'}"]

    [result] = judged(few, bundle, "--begin", day(35), "--end", day(49))["bundles"]

    [note] = result["notes"]
    assert note.startswith(f"The newest label is of {day(44)}: later frauds")


def test_only_a_report_needs_matplotlib(files, bundle, monkeypatch):
    """It is slow to import, and a consumer never needs it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "training.plots", raising=False)
    days = ("--begin", day(35), "--end", day(49))

    judged(files, bundle, *days)
    assert isinstance(
        command("evaluate", bundle, *days, *files, "--report").exception, ModuleNotFoundError
    )


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        ("soon", day(49), "--begin: 'soon' is no time; write 2018-07-25"),
        (day(49), day(35), f"--end: {day(35)} is not after --begin, {day(49)}"),
        (f"{day(35)}T12:00", day(49), "whole days are judged; write dates, without a time"),
        (day(-7), day(7), f"{day(-7)} is before the first payment, which is of {day(0)}"),
        (day(70), day(77), f"no payments from {day(70)} to {day(77)}: the last one there is, is"),
    ],
)
def test_a_period_that_cannot_be_judged_is_refused(files, bundle, begin, end, said):
    """In one sentence, with the exit code of a wrong configuration."""
    done = command("evaluate", bundle, "--begin", begin, "--end", end, *files)

    assert done.exit_code == cli.EXIT_CONFIG
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_period_without_frauds_is_refused(files, bundle, tmp_path):
    """There would be nothing to detect."""
    labels = pq.read_table(files[-1].removeprefix("--labels="))
    pq.write_table(labels.slice(0, 1), tmp_path / "labels.parquet")
    few = [*files[:-1], f"--labels={tmp_path / 'labels.parquet'}"]

    done = command("evaluate", bundle, "--begin", day(35), "--end", day(49), *few)

    assert done.exit_code == cli.EXIT_CONFIG
    assert "0 frauds among them" in done.stderr


def test_no_payments_at_all_are_refused(files, bundle, tmp_path):
    """As an empty topic gives."""
    payments = pq.read_table(files[2].removeprefix("--payments="))
    pq.write_table(payments.slice(0, 0), tmp_path / "payments.parquet")
    none = [*files[:2], f"--payments={tmp_path / 'payments.parquet'}", files[-1]]

    done = command("evaluate", bundle, "--begin", day(35), "--end", day(49), *none)

    assert done.exit_code == cli.EXIT_CONFIG
    assert "there are no payments to judge by" in done.stderr


def test_days_that_bundles_cannot_share_are_refused(files, bundle):
    """A model judged on more days than the other could not be compared."""
    days = ("--begin", day(35), "--end", day(42))

    done = command("evaluate", bundle, bundle, *days, *files)

    assert done.exit_code == cli.EXIT_CONFIG
    assert "7 days cannot be shared evenly by 2 bundles" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"feature_set": "handbook-0"}, "wants feature set 'handbook-0'; this build has"),
        ({"feature_names": ["amount"]}, "incompletely or in another order"),
    ],
)
def test_a_bundle_that_needs_other_features_is_refused(files, bundle, change, said):
    """As the consumer would refuse it, before anything is read."""
    manifest = json.loads((bundle / MANIFEST_FILE).read_text())
    (bundle / MANIFEST_FILE).write_text(json.dumps(manifest | change))

    done = command("evaluate", bundle, "--begin", day(35), "--end", day(49), *files)

    assert done.exit_code == cli.EXIT_CONFIG
    assert said in done.stderr
