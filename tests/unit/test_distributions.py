"""Names and versions of distributions compare as their authors mean them."""

from __future__ import annotations

import pytest

from orchestrator.machine.packages import find_major, normalise, parse_release


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("4.6.0", (4, 6)), ("4.6", (4, 6)), ("2.13.0+cpu", (2, 13)), ("5.0.0rc1", (5,)), ("4.6.1.dev0", (4, 6, 1)),
        ("10.2.30", (10, 2, 30)), ("2.4.0-nv24.07", (2, 4)), ("0.0.0", ()), ("unknown", ()), ("", ()),
    ],
)  # fmt: skip
def test_a_version_is_the_numbers_of_its_release(text, numbers):
    assert parse_release(text) == numbers


@pytest.mark.parametrize(
    ("text", "number"), [("4.57.1", 4), ("5rc1", 5), ("0.0.0", 0), ("main", None), ("", None), (None, None)]
)
def test_a_generation_is_the_first_number_and_unknown_where_there_is_none(text, number):
    assert find_major(text) == number


def test_all_spellings_of_a_name_are_one():
    assert {normalise(name) for name in ("ms_swift", "MS-Swift", "ms.swift", "ms-_swift")} == {"ms-swift"}
