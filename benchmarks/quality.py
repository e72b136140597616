"""
`make quality`: how well the consumer detects, against the figures that the Handbook published.

The Handbook streamed through a real Kafka, four test weeks, each with a model of its own trained
on the week that ended a week before it, labels exactly 7 days late. Between two weeks the consumer
ends and the next one starts with the new model, so that it has to find its state in the log. What
was published of the test weeks is held against the batch path: features, probabilities, AP.

Then the same weeks without a broker, by `fraudstream evaluate`, for each law of how late labels
come. A model is trained on the features that serving saw, and taught by the labels that were known
when its test week began: what was not reported by then counts as genuine.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from benchmarks.parity import (
    LARGEST_AP_DIFF,
    LARGEST_FEATURES_DIFF,
    Parity,
    batch_answers,
    compare,
    streamed_answers,
)
from demo.judge import fold_of, judge
from demo.outputs import ALERTS, DEAD_LETTERS, PREDICTIONS, OutputReader
from demo.processes import (
    EXACTLY_A_WEEK,
    DemoFailedError,
    consumer,
    evaluate,
    simulate,
    train,
)
from tests.brokers import Broker, BrokerUnavailable, Choice, Rung, choose, open_broker
from training.evaluate import Fold, Quality
from training.published import PUBLISHED_FOUR_WEEKS

OUT: Final = Path("build/quality.json")
LOGS: Final = Path("build/quality")
WEEK: Final = timedelta(days=7)
TRAIN_FIRST: Final = tuple(date(2018, 7, 25) + k * WEEK for k in range(4))
HISTORY_DAYS: Final = 37  # the longest window, and the labels' delay
LEAST: Final = {"ap": 0.690, "auc": 0.870, "cp100": 0.300}  # means of all four weeks
_WEEK_SECONDS: Final = 600.0
_DRAIN_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Course:
    """What the models of four weeks learn from, and what is wanted of them."""

    law: str
    goals: Mapping[str, float]
    feature_set: str = "arrival-1"
    train_days: int = 7


COURSES: Final = (
    Course(EXACTLY_A_WEEK, {"ap": 0.695, "auc": 0.876, "cp100": 0.302}),
    Course("exponential:7d", {"ap": 0.790}, "arrival-2", 28),
    Course("40%:within:1d+lognormal:14d:60d", {"ap": 0.740}),  # analysts, and chargebacks
)


@dataclass(frozen=True, slots=True)
class Week:
    """A test week, and the model for it, whose training ends a week after `train_first`."""

    train_first: date
    model: Path

    @property
    def first(self) -> date:
        """The test week begins when the labels of the training week are known."""
        return self.train_first + 2 * WEEK

    @property
    def fold(self) -> Fold:
        """The same split, in days of the Handbook."""
        return fold_of(self.train_first, self.first)


@dataclass(frozen=True, slots=True)
class Streamed:
    """Means over the test weeks at one number of partitions, and how far from the batch path."""

    means: dict[str, float]
    parity: Parity


def main() -> None:
    """Stream once for each number of partitions, print the table, write the file."""
    arguments = _arguments()
    try:
        choice = None
        if arguments.partitions:
            choice = choose(arguments.broker, os.environ, default=Rung.KAFKA)
        with tempfile.TemporaryDirectory() as scratch:
            train_first = TRAIN_FIRST[: arguments.weeks]
            weeks = train_weeks(Path(scratch) / "streamed", train_first, COURSES[0])
            history = timedelta(days=arguments.history_days)
            found = stream_all(choice, arguments.partitions, weeks, history) if choice else {}
            by_law = judge_laws(Path(scratch), weeks, COURSES[1 : arguments.laws])
    except (BrokerUnavailable, DemoFailedError) as error:
        sys.exit(f"quality: {error}")
    parity = asdict(Parity.worst([each.parity for each in found.values()])) if found else None
    written = {partitions: each.means for partitions, each in found.items()}
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(
        json.dumps(written | {"parity": parity, "laws": by_law}, indent=2) + "\n"
    )
    best = PUBLISHED_FOUR_WEEKS
    print(f"published, {best.model}: ap {best.ap}, auc {best.auc}, cp100 {best.cp100}")
    print(f"written to {arguments.out}")
    if missed := _missed(found, all_weeks=arguments.weeks == len(TRAIN_FIRST)):
        sys.exit("quality: " + "; ".join(missed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--partitions", type=int, nargs="*", default=[1, 8], help="none: without a broker"
    )
    parser.add_argument("--weeks", type=int, default=len(TRAIN_FIRST), help="the first so many")
    parser.add_argument("--laws", type=int, default=len(COURSES), help="the first so many")
    parser.add_argument("--history-days", type=int, default=HISTORY_DAYS)
    parser.add_argument("--broker", default="kafka")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def _missed(found: Mapping[str, Streamed], *, all_weeks: bool) -> list[str]:
    """Say what is too low, where all weeks were streamed, and where the batch path differs."""
    too_low = [
        f"{name} {each.means[name]:.4f} on {partitions} partitions, at least {least:.3f} is wanted"
        for partitions, each in found.items()
        for name, least in LEAST.items()
        if each.means[name] < least and all_weeks
    ]
    apart = [
        f"stream and batch path differ on {partitions} partitions, by"
        f" {each.parity.features_max_diff:.2g} in a feature and {each.parity.ap_diff:.4f} in ap;"
        f" at most {LARGEST_FEATURES_DIFF:g} and {LARGEST_AP_DIFF:g} are allowed"
        for partitions, each in found.items()
        if not each.parity.holds
    ]
    return too_low + apart


def stream_all(
    choice: Choice, widths: Sequence[int], weeks: list[Week], history: timedelta
) -> dict[str, Streamed]:
    """Stream on a new broker for each number of partitions, and compare with the batch path."""
    batch = batch_answers([week.model for week in weeks], weeks[0].first, WEEK, history)
    found = {}
    for partitions in widths:
        with open_broker(choice) as broker:
            means = _means(stream(broker, partitions, weeks, history))
            print(f"{partitions} partitions, mean: {means}", flush=True)
            streamed = streamed_answers(broker.bootstrap_servers, batch)
        parity = compare(streamed, batch, [week.fold for week in weeks])
        print(f"{partitions} partitions, to the batch path: {asdict(parity)}", flush=True)
        found[str(partitions)] = Streamed(means, parity)
    return found


def train_weeks(folder: Path, train_first: tuple[date, ...], course: Course) -> list[Week]:
    """Train a bundle for each of the weeks, on what was known when its test week began."""
    weeks = [Week(first, folder / str(first)) for first in train_first]
    for week in weeks:
        end = week.train_first + WEEK
        begin = end - timedelta(days=course.train_days)
        print(f"training {course.feature_set} on {begin} to {end}, labels {course.law}", flush=True)
        train(week.model, begin, end, week.first, course.law, course.feature_set)
    return weeks


def judge_laws(
    folder: Path, first: list[Week], others: Sequence[Course]
) -> dict[str, dict[str, float]]:
    """Return the means for each law; the models of the first are there already."""
    by_law = {COURSES[0].law: judge_course(first, COURSES[0])}
    train_first = tuple(week.train_first for week in first)
    for number, course in enumerate(others):
        weeks = train_weeks(folder / str(number), train_first, course)
        by_law[course.law] = judge_course(weeks, course)
    return by_law


def judge_course(weeks: list[Week], course: Course) -> dict[str, float]:
    """
    Return the means over the weeks where labels come by the law, and say which goals they miss.
    """
    law = course.law
    end = weeks[-1].first + WEEK
    mean = evaluate([week.model for week in weeks], weeks[0].first, end, law)["mean"]
    found = {name: mean[name] for name in ("ap", "auc", "cp100", "cp100_ceiling")}
    print(f"labels {law}, mean: {found}", flush=True)
    for name, goal in course.goals.items():
        if found[name] < goal and len(weeks) == len(TRAIN_FIRST):
            print(f"labels {law}: {name} {found[name]:.4f} misses its goal of {goal:.3f}")
    return found


def stream(broker: Broker, partitions: int, weeks: list[Week], history: timedelta) -> list[Quality]:
    """
    Stream the history before the first test week and then the weeks, each to a consumer with the
    week's model. Returns the quality of each week. Raises DemoFailedError.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    outputs = (PREDICTIONS, ALERTS, DEAD_LETTERS)
    broker.create_topics(
        dict.fromkeys(("transactions.raw", *outputs), partitions) | {"fraud.labels": 1}
    )
    reader = OutputReader(broker.bootstrap_servers)
    reader.start()
    sent, begin = 0, weeks[0].first - history
    try:
        for week in weeks:
            log = LOGS / f"consumer-{partitions}-{week.first}.log"
            end = week.first + WEEK
            with consumer(broker, week.model, "exactly-once", log):
                days = ["--from", str(begin), "--to", str(end), "--again"]
                sent += simulate(broker, days, _WEEK_SECONDS, LOGS / "simulator.log", lambda: None)
                _await_predictions(reader, sent)
            begin = end
    finally:
        reader.stop()
    return [_quality_of(reader, week, partitions) for week in weeks]


def _await_predictions(reader: OutputReader, sent: int) -> None:
    deadline = time.monotonic() + _DRAIN_SECONDS
    while reader.prediction_count < sent:
        if time.monotonic() > deadline:
            raise DemoFailedError(
                f"{sent:,} payments were sent, {reader.prediction_count:,} predictions came"
            )
        time.sleep(0.1)


def _quality_of(reader: OutputReader, week: Week, partitions: int) -> Quality:
    scored = reader.scored()
    if scored.repeated:
        raise DemoFailedError(f"{scored.repeated} predictions came twice, under exactly-once")
    found = judge(scored, week.fold)
    if found is None:
        raise DemoFailedError(f"the week of {week.first} was not scored")
    print(f"{partitions} partitions, week of {week.first}: {asdict(found)}", flush=True)
    return found


def _means(weeks: list[Quality]) -> dict[str, float]:
    return {name: statistics.mean(getattr(week, name) for week in weeks) for name in LEAST}


if __name__ == "__main__":
    main()
