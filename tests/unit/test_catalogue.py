"""docs/bad-input.md and the tests that it names, held against each other."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.unit.consumer.test_bad_input import CASES

ROOT = Path(__file__).parents[2]
GROUPS = {"a": 10, "b": 10, "c": 8, "d": 8, "e": 5, "f": 6, "g": 4}
ROW = re.compile(r"^\| ([a-g]\d+) \| .+ \| (.+) \| (.*) \|$", re.MULTILINE)


def table() -> dict[str, tuple[str, set[str]]]:
    """Return the outcome of each row, and the test modules it names."""
    rows = ROW.findall((ROOT / "docs/bad-input.md").read_text())
    assert len(rows) == len({row for row, _, _ in rows})
    return {
        row: (outcome, set(re.findall(r"`(test_\w+\.py)`", names))) for row, outcome, names in rows
    }


def marked() -> dict[str, set[str]]:
    """Return the modules whose tests carry each row's name."""
    found = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        for row in rows_marked_in(ast.parse(path.read_text())):
            found[row].add(path.name)
    for case in CASES:
        found[case.row].add("test_bad_input.py")
    return found


def rows_marked_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="bad_input"), args=rows):
                yield from (row.value for row in rows)  # type: ignore[attr-defined]


def test_the_table_has_every_row_of_the_catalogue():
    """In its order."""
    expected = [f"{group}{k}" for group, count in GROUPS.items() for k in range(1, count + 1)]

    assert list(table()) == expected


def test_each_row_names_the_tests_that_carry_its_name_and_no_others():
    """A row without a test is one that the table calls not detected."""
    rows, tests = table(), marked()

    assert tests.keys() <= rows.keys()
    assert {row: names for row, (_, names) in rows.items()} == {
        row: tests.get(row, set()) for row in rows
    }
    untested = [outcome for outcome, names in rows.values() if not names]
    assert all("not detected" in outcome for outcome in untested)


def test_each_reason_that_a_case_has_is_in_its_row():
    """What is tested is what is said."""
    rows = table()

    for case in CASES:
        outcome = rows[case.row][0]
        assert case.outcome in outcome, f"{case.row}: {case.what}"
