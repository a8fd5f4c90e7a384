"""The contract of every component of the zoo: every example, at every site; ``zoo/checks`` has the rules."""

from __future__ import annotations

import pytest

from compiler.cost.fvcore_check import count_macs
from zoo import load_zoo
from zoo.checks import CHECKS, Case, Check, all_cases

PAIRS = [
    pytest.param(case, check, id=f"{case.id}-{check.name}")
    for case in all_cases(load_zoo())
    for check in CHECKS
    if check.applies(case)
]


@pytest.mark.parametrize(("case", "check"), PAIRS)
def test_contract(case: Case, check: Check) -> None:
    check.run(case, count_macs)


def test_every_component_has_cases() -> None:
    """A component without a case would pass unseen."""
    seen = {(case.role, case.config.kind) for case in all_cases(load_zoo())}
    known = {(role, kind) for role, table in load_zoo().classes.items() for kind in table}
    assert seen == known


def test_every_check_applies_somewhere() -> None:
    """A check whose condition is never met would pass unseen."""
    checked = {check.name for check in CHECKS for case in all_cases(load_zoo()) if check.applies(case)}
    assert checked == {check.name for check in CHECKS}
