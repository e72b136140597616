"""A short form of each suite that has a make target of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import Rung, why_missing
from tests.integration.conftest import missing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def jvm():
    """Where Apache Kafka runs as a process."""
    if why := why_missing(Rung.KAFKA):
        missing(why)


def run(module, *arguments, **variables):
    """Return what the command printed; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **variables},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def test_the_first_week_is_detected_as_well_as_published(jvm, tmp_path):
    """`make quality`: the Handbook's best on this week are 0.658, 0.871 and 0.291."""
    out = tmp_path / "quality.json"

    short = ("--weeks", "1", "--partitions", "4", "--laws", "1")
    run("benchmarks.quality", *short, "--out", str(out))

    written = json.loads(out.read_text())
    found = written["4"]
    assert found["ap"] >= 0.680
    assert found["auc"] >= 0.880
    assert found["cp100"] >= 0.290
    assert written["parity"] == {
        "features_max_diff": 0.0,
        "scores_equal": True,
        "ap_diff": 0.0,
    }, "streamed and batch path differ"
    exactly = written["laws"]["exactly:7d"]
    for name, value in found.items():
        assert exactly[name] == pytest.approx(value, abs=1e-9), "streamed and batch path differ"
    assert exactly["cp100_ceiling"] == pytest.approx(0.397, abs=0.001)


def test_the_benchmark_accounts_for_all_of_its_cost(jvm, tmp_path):
    """`make bench`: what it says of each stage adds up; speed itself is never asserted."""
    out = tmp_path / "bench.json"

    run(
        "benchmarks.bench",
        "--events",
        "20000",
        "--rounds",
        "1",
        "--cards",
        "100000",
        "--out",
        str(out),
    )

    result = json.loads(out.read_text())
    consumer = result["consumer"]["at-least-once"]
    assert set(result["ratio_to_floor"]) >= {"at-least-once", "exactly-once"}
    assert result["floor"] > 0
    assert sum(result["stages"].values()) == pytest.approx(consumer, rel=0.01)
    assert set(result["cards"]) == {"10000", "100000"}
    assert min(result["cards"].values()) > 0
    assert 78 * 16 < result["bytes_per_card"] < result["bytes_per_card_after_75_days"]
    assert result["snapshot_cards"] == 100_000
    assert result["restore_ratio"] > 0


def test_the_demo_accounts_for_every_event():
    """`make demo`, on the embedded broker."""
    printed = run("demo", "--json", DEMO_SECONDS="20", BROKER="embedded")

    found = json.loads(printed)
    assert found["events_in"] == found["predictions"] + found["dead_letters"] + found["skipped"]
    assert (found["dead_letters"], found["skipped"]) == (4, 1)
    assert found["predictions"] > 10_000
    assert (found["broker"], found["guarantee"]) == ("embedded", "at-least-once")
    assert found["latency_p50_seconds"] > 0
