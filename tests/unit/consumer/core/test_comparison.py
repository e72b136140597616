import numpy as np
import pytest

from consumer.core.comparison import Difference, differences
from tests.builders import record_schema

SCHEMA = record_schema(
    name="string", probability="double", features={"type": "array", "items": "float"}
)
RECORD = {"name": "a", "probability": 0.5, "features": [1.0, 2.0]}
ALL = RECORD.keys()


def test_equal_records_do_not_differ():
    """Not even by NaN, which equals nothing as a number."""
    record = RECORD | {"probability": float("nan")}

    assert differences(SCHEMA, record, dict(record), ALL) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "b"),
        ("probability", np.nextafter(0.5, 1)),
        ("features", [1.0, np.nextafter(np.float32(2), np.float32(3))]),
        ("features", [1.0]),
    ],
)
def test_a_field_differs_by_its_last_bit(field, value):
    """And is named, with both values."""
    other = RECORD | {field: value}

    assert differences(SCHEMA, RECORD, other, ALL) == [Difference(field, RECORD[field], value)]


def test_zero_is_not_negative_zero():
    """They are equal as numbers and differ in a bit."""
    zero, negative = (RECORD | {"probability": value} for value in (0.0, -0.0))

    assert [d.field for d in differences(SCHEMA, zero, negative, ALL)] == ["probability"]


def test_only_the_fields_asked_for_are_compared():
    """In the schema's order."""
    other = {"name": "b", "probability": 0.25, "features": []}

    found = differences(SCHEMA, RECORD, other, {"features", "name"})

    assert [difference.field for difference in found] == ["name", "features"]
