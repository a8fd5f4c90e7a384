"""The contract of every component of the zoo, on every example, at every site: ``zoo/checks`` says what is checked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from compiler.cost.fvcore_check import count_macs
from zoo import load_zoo
from zoo.checks import CHECKS, COUNTED_CHECKS, Case, CountMacs, all_cases

CASES = [pytest.param(case, id=case.id) for case in all_cases(load_zoo())]


def _name(check: Callable[..., None]) -> str:
    return check.__name__.removeprefix("check_")


@pytest.mark.parametrize("check", [pytest.param(check, id=_name(check)) for check in CHECKS])
@pytest.mark.parametrize("case", CASES)
def test_contract(case: Case, check: Callable[[Case], None]) -> None:
    check(case)


@pytest.mark.parametrize("check", [pytest.param(check, id=_name(check)) for check in COUNTED_CHECKS])
@pytest.mark.parametrize("case", CASES)
def test_counted(case: Case, check: Callable[[Case, CountMacs], None]) -> None:
    check(case, count_macs)


def test_every_component_has_cases() -> None:
    """A component without a case would pass unseen."""
    seen = {(case.role, case.config.kind) for case in all_cases(load_zoo())}
    known = {(role, kind) for role, table in load_zoo().classes.items() for kind in table}
    assert seen == known
