"""The table of faults names tests that there are, for every row."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "faults.md"
ROWS = 36


def test_every_fault_names_a_test_that_there_is() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, ROWS + 1))
    for number, shown in rows:
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", shown)
        assert named, f"row {number}"
        for file, test in named:
            assert f"def {test}(" in (TESTS / file).read_text(), f"row {number}: {file}::{test}"
