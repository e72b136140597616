import pytest

from consumer.core.feature_sets import FEATURE_SETS, FeatureSet
from consumer.verify.evidence import Stretch
from consumer.verify.formats import Record
from consumer.verify.invariants import Finding
from consumer.verify.ledger import Ledger, Promise
from consumer.verify.velocity import FEATURE_SETS as KNOWN
from consumer.verify.velocity import Payment, Sample
from consumer.verify.verdict import Circumstances, conclude
from tests.builders import DAY, JANUARY, encoded, payment, records_of
from tests.fakes import FixedModel
from tests.integration.traffic import Traffic
from tests.unit.consumer.rig import Rig

TIMESTAMP = JANUARY // 1_000 + 40 * 86_400_000


def traffic(count: int) -> list[tuple[bytes, bytes]]:
    """Return payments with some late, some again, of few cards and few terminals, and many days."""
    made = Traffic(3, cards=5, terminals=3)
    found = []
    for number in range(count):
        made.clock += 6 * 3_600_000_000 * (number % 3 == 0)
        paid = made.payment()
        found.append((paid.key, paid.value))
    return found


def scored(feature_set: FeatureSet, inputs: list[tuple[bytes, bytes]]) -> list[Record]:
    """Return what the pipeline says of the payments."""
    rig = Rig(FixedModel(lambda _: 0.1), feature_set=feature_set, partitions=1)
    values, keys = [value for _, value in inputs], [key for key, _ in inputs]
    rig.run(records_of(values, keys, timestamps=[TIMESTAMP] * len(inputs)), batch=50)
    return [
        Record("predictions", 0, at, sent.key, sent.value)
        for at, sent in enumerate(rig.sink.to("transactions.scored"))
    ]


def judged(
    inputs: list[tuple[bytes, bytes]], predictions: list[Record], *,
    begin: int = 0,
) -> dict[str, Finding]:  # fmt: skip
    """Return what the checker finds of the features and of LATE_EVENT."""
    promise = Promise("transactions.raw", True, DAY, 0, grace=DAY, max_future=DAY, sample=1_000)
    end = len(inputs)
    ledger = Ledger(promise, [Stretch(0, begin, end)])
    ledger.inputs(
        Record("transactions.raw", 0, at, key, value, (), TIMESTAMP)
        for at, (key, value) in enumerate(inputs)
    )
    ledger.predictions(predictions)
    conclude(ledger, Circumstances({0: end}, {0: end}, {0: end}))
    return {name: ledger.findings[name] for name in ("velocity", "lateness")}


def test_the_features_of_all_feature_sets_are_known():
    """A new one is to be added to the checker."""
    assert FEATURE_SETS.keys() == KNOWN


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_the_checker_finds_what_the_pipeline_found(name):
    """Each payment's features and its lateness, by two ways that share no line."""
    inputs = traffic(400)

    found = judged(inputs, scored(FEATURE_SETS[name], inputs))

    owners = 2 if name == "handbook-1" else 1
    assert [(f.broken, f.unjudged) for f in found.values()] == [(0, 0), (0, 0)]
    assert found["velocity"].checked == 400 * owners
    assert found["lateness"].checked == 400


def test_what_came_before_the_range_is_not_judged_by_what_is_left():
    """Windows that reach back to what is not read; and LATE_EVENT by what is not read."""
    inputs = traffic(300)

    found = judged(inputs, scored(FEATURE_SETS["arrival-1"], inputs), begin=100)

    assert (found["velocity"].checked, found["velocity"].broken) == (0, 0)
    assert found["velocity"].unjudged == 200
    assert found["lateness"].broken == 0
    assert found["lateness"].unjudged > 0


def test_a_card_of_which_a_payment_may_have_counted_is_not_judged_from_there_on():
    """One that has no answer, here; the others are."""
    inputs = [
        (f"card-{k % 2}".encode(), encoded("transaction", payment(k, card_id=f"card-{k % 2}")))
        for k in range(20)
    ]
    predictions = scored(FEATURE_SETS["arrival-1"], inputs)

    found = judged(inputs, predictions[:4] + predictions[5:])["velocity"]

    assert (found.checked, found.unjudged, found.broken) == (12, 7, 0)


def test_a_sample_is_of_whole_owners_and_no_larger_than_it_may_be():
    """Whatever the order, those of the lowest hashes."""
    sample = Sample(100)
    for k in range(5_000):
        owner = k % 50 * (2**64 // 50)
        sample.add(0, owner, Payment(k, k, 1, k, enters=True, utc_offset_minutes=0))

    sizes = {owner: len(payments) for (_, owner), payments in sample.owners.items()}
    assert sizes == {0: 100}
    assert sample.takes(0)
    assert not sample.takes(2**63)
