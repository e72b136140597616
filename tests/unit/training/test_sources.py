import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import schemas
from consumer.core.labels import TerminalFrauds
from consumer.core.windows_kernel import NO_FINGERPRINT
from tests.builders import DAY, JANUARY, events_of, payment
from training.history import NEVER
from training.sources import from_events, from_parquet


def test_a_label_in_parquet_tells_when_and_which_scenario(tmp_path):
    """The earliest fraud label of a payment counts; a verdict that is no fraud does not."""
    names = ("transaction_id", "event_time", "card_id", "terminal_id", "amount_minor")
    paid = [payment(number) for number in range(4)]
    pq.write_table(pa.table({n: [p[n] for p in paid] for n in names}), tmp_path / "payments")
    pq.write_table(
        pa.table(
            {
                "transaction_id": ["payment-1", "payment-1", "payment-2", "payment-3"],
                "terminal_id": ["terminal-1", "terminal-1", "terminal-2", "terminal-3"],
                "published_at": [JANUARY + 2 * DAY, JANUARY + DAY, JANUARY, JANUARY + 3 * DAY],
                "verdict": ["FRAUD", "FRAUD", "GENUINE", "FRAUD"],
                "scenario": ["skimming", "skimming", "other", None],
            }
        ),
        tmp_path / "labels",
    )
    frauds = TerminalFrauds([schemas.load("label")], 0.0)

    history = from_parquet(tmp_path / "payments", tmp_path / "labels", frauds)

    assert history.fraud_known_at.tolist() == [NEVER, JANUARY + DAY, NEVER, JANUARY + 3 * DAY]
    assert history.scenarios.tolist() == ["", "skimming", "", ""]
    assert frauds.fraud_count == 2


def test_a_repeat_in_parquet_is_known_by_its_event_id(tmp_path):
    """Without the column, no payment is taken for a repeat of another."""
    paid = [payment(0), payment(1), payment(0)]
    table = pa.table({name: [fields[name] for fields in paid] for name in payment(0)})
    pq.write_table(table, tmp_path / "payments")
    pq.write_table(table.drop_columns("event_id"), tmp_path / "nameless")
    labels = pa.schema([(n, pa.string()) for n in ("transaction_id", "terminal_id")])
    labels = labels.append(pa.field("published_at", pa.int64()))
    pq.write_table(labels.empty_table(), tmp_path / "labels")

    named, nameless = (
        from_parquet(
            tmp_path / file, tmp_path / "labels", TerminalFrauds([schemas.load("label")], 0)
        )
        for file in ("payments", "nameless")
    )

    first, repeat, other = named.fingerprints.tolist()
    assert first == repeat != other
    assert set(nameless.fingerprints.tolist()) == {NO_FINGERPRINT}


def test_decoded_events_are_joined_with_what_labels_said():
    """By transaction id, over all batches, an empty one included."""
    batches = [events_of([payment(0), payment(1)]), events_of([]), events_of([payment(2)])]

    history = from_events(batches, {b"payment-2": 5}, {b"payment-2": "card testing"})

    assert history.fraud_known_at.tolist() == [NEVER, NEVER, 5]
    assert history.scenarios.tolist() == ["", "", "card testing"]
    assert history.times.tolist() == [JANUARY + number * 1_000_000 for number in range(3)]
    assert np.issubdtype(history.scenarios.dtype, np.str_)


def test_nothing_decoded_is_an_empty_history():
    """As an empty topic gives."""
    assert len(from_events([], {}, {})) == 0
