from dataclasses import replace

import numpy as np
import pytest

from producer_sim.command import parse_time
from producer_sim.errors import SimulationError
from producer_sim.labels import Exactly, Exponential
from producer_sim.resume import rest_of
from producer_sim.simulation import Options, _label_series, _payment_series

OPTIONS = Options(
    properties={},
    start=parse_time("2018-04-03"),
    end=parse_time("2018-04-06"),
    law=Exactly(1),
)


@pytest.fixture(scope="module")
def series(payments):
    """Payments and labels of three days, for topics of 4 and 2 partitions."""
    return _payment_series(payments, OPTIONS, 4), _label_series(payments, OPTIONS, 2)


def last_values(series, published) -> dict[int, bytes]:
    """What a look at the topic would find after these numbers were published."""
    last = {int(series.partition[number]): number for number in published}
    return {p: series.writer.values(np.array([number]))[0] for p, number in last.items()}


def payments_before(series, labels, label_count: int):
    """The payments that may be published when so many labels are."""
    return series.lane.numbers[: series.lane.until(labels.lane.time(label_count))]


@pytest.mark.parametrize("lost", [0, 1, 500])
def test_a_killed_run_is_continued_without_gap_or_repeat(series, lost):
    """Each partition goes on after its own last record, however unevenly they were filled."""
    payments, labels = series
    sent = payments_before(payments, labels, 60)
    assert len(sent) > 5_000
    # What was in flight is lost, in some partitions only.
    arrived = [n for n in sent if payments.partition[n] % 2 or n < sent[len(sent) - 1 - lost]]

    payments_left, labels_left = rest_of(
        payments,
        labels,
        last_values(payments, arrived),
        last_values(labels, labels.lane.numbers[:60]),
    )

    assert sorted([*arrived, *payments_left.numbers]) == payments.lane.numbers.tolist()
    assert labels_left.numbers.tolist() == labels.lane.numbers[60:].tolist()


def test_a_run_that_was_killed_before_its_first_record_starts_anew(series):
    """Nothing published leaves everything to publish."""
    payments, labels = series

    payments_left, labels_left = rest_of(payments, labels, {}, {})

    assert len(payments_left) == len(payments.lane)
    assert len(labels_left) == len(labels.lane)


def test_a_finished_run_leaves_nothing(series):
    """Resuming twice publishes nothing twice."""
    payments, labels = series

    left = rest_of(
        payments,
        labels,
        last_values(payments, payments.lane.numbers),
        last_values(labels, labels.lane.numbers),
    )

    assert [len(lane) for lane in left] == [0, 0]


def test_a_later_range_continues_an_earlier_one(payments, series):
    """A range that starts where the topics end goes on as one run would have."""
    earlier, earlier_labels = series
    options = replace(OPTIONS, start=OPTIONS.end, end=parse_time("2018-04-07"))
    later, later_labels = _payment_series(payments, options, 4), _label_series(payments, options, 2)

    payments_left, labels_left = rest_of(
        later,
        later_labels,
        last_values(earlier, earlier.lane.numbers),
        last_values(earlier_labels, earlier_labels.lane.numbers),
    )

    assert payments_left.numbers.tolist() == later.lane.numbers.tolist()
    assert labels_left.numbers.tolist() == later_labels.lane.numbers.tolist()


@pytest.mark.parametrize(
    ("options", "partitions", "reason"),
    [
        (replace(OPTIONS, seed=1), 4, "another --seed or --labels"),
        (replace(OPTIONS, law=Exponential(1)), 4, "another --seed or --labels"),
        (replace(OPTIONS, law=Exactly(0.5)), 4, "another --seed or --labels"),
        (OPTIONS, 5, "another number of partitions"),
    ],
    ids=["seed", "law", "delay", "partitions"],
)
def test_topics_of_another_simulation_are_not_continued(
    payments, series, options, partitions, reason
):
    """Records that this run would not have written, or not there, are nothing to go on from."""
    written, written_labels = series
    mine = _payment_series(payments, options, partitions), _label_series(payments, options, 2)

    with pytest.raises(SimulationError, match=reason):
        rest_of(
            *mine,
            last_values(written, payments_before(written, written_labels, 60)),
            last_values(written_labels, written_labels.lane.numbers[:60]),
        )


def test_labels_that_should_be_out_already_are_not_published_late(payments, series):
    """
    With an earlier --from than the run that was stopped, labels would come after payments that
    they precede: that is refused.
    """
    written, written_labels = series
    options = replace(OPTIONS, start=0)

    with pytest.raises(SimulationError, match="give the --from of that run"):
        rest_of(
            _payment_series(payments, options, 4),
            _label_series(payments, options, 2),
            last_values(written, payments_before(written, written_labels, 0)),
            {},
        )


def test_topics_that_were_filled_twice_are_not_continued(payments):
    """A partition far behind the others was not left so by a kill: too much is missing."""
    options = replace(OPTIONS, start=0, end=parse_time("2018-06-01"))
    mine, labels = _payment_series(payments, options, 4), _label_series(payments, options, 2)
    one_partition = mine.lane.numbers[mine.partition[mine.lane.numbers] == 0]

    with pytest.raises(SimulationError, match="hold other records"):
        rest_of(
            mine,
            labels,
            last_values(mine, one_partition),
            last_values(labels, labels.lane.numbers),
        )
