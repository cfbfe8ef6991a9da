"""A log rule from outside: one row of YAML and one captured log, taken through `diagnose`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from orchestrator.logs.diagnose import diagnose, find_line_number, load_rules, read_tail

HERE = Path(__file__).parent
RULES = (*load_rules(HERE / "log_rules.yaml"), *load_rules())
(RULE,) = load_rules(HERE / "log_rules.yaml")
LOG = HERE / f"failed.{RULE.capture}.log"


def test_the_new_rule_explains_its_log():
    found = diagnose(read_tail(LOG), 1, rules=RULES)
    assert (found.name, found.cause) == ("brake-on", "the brake of accelerator is on")
    assert found.remedy == "release it with `acme brake off`, then resume the run"
    assert find_line_number(LOG, found.evidence) == 6


def test_it_speaks_chinese_and_of_no_run_where_there_is_none():
    found = diagnose(read_tail(LOG), 1, "zh", in_run=False, rules=RULES)
    assert (found.cause, found.remedy) == ("accelerator 的制动器已锁定", "用 `acme brake off` 松开")


def test_without_it_the_log_shows_its_exception():
    assert diagnose(read_tail(LOG), 1).name == "exception"


def test_a_misspelt_key_is_refused(tmp_path):
    table = tmp_path / "rules.yaml"
    table.write_text((HERE / "log_rules.yaml").read_text(encoding="utf-8").replace("remedy:", "remedie:"))
    with pytest.raises(msgspec.ValidationError, match="remedie"):
        load_rules(table)
