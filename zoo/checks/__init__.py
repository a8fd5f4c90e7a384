"""The component contract as functions: what every component is tested for, ours and those of a plug-in.

for outcome in run_checks(zoo, "my_plugin", count_macs=compiler.cost.fvcore_check.count_macs):
    print(outcome.case, outcome.check, outcome.error)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from archspec import Role
from zoo import Zoo
from zoo.checks.accounting import CountMacs, check_cost, check_decode_flops, check_flops, check_parameters
from zoo.checks.case import Case, ContractError, cases
from zoo.checks.decoding import check_decoding, check_state_bytes
from zoo.checks.manners import (
    check_config,
    check_docstring,
    check_examples,
    check_hints,
    check_initialisation,
    check_sites,
    check_state_dict,
)
from zoo.checks.order import (
    check_block_causality,
    check_causality,
    check_causality_gradient,
    check_liveness,
    check_positions_apart,
)
from zoo.checks.values import (
    check_autocast,
    check_batch,
    check_determinism,
    check_export,
    check_output,
    check_padding,
    check_purity,
    check_reference,
    check_side_products,
)

CHECKS: tuple[Callable[[Case], None], ...] = (
    check_examples, check_config, check_docstring, check_sites, check_hints, check_initialisation,
    check_state_dict, check_output, check_reference, check_batch, check_padding, check_determinism,
    check_purity, check_side_products, check_autocast, check_export, check_causality,
    check_causality_gradient, check_block_causality, check_liveness, check_positions_apart, check_decoding,
    check_state_bytes, check_parameters, check_cost,
)  # fmt: skip
COUNTED_CHECKS: tuple[Callable[[Case, CountMacs], None], ...] = (check_flops, check_decode_flops)


@dataclass(frozen=True)
class Outcome:
    """One check of one case; ``error`` is None where the contract holds."""

    case: Case
    check: str
    error: Exception | None


def all_cases(zoo: Zoo, package: str | None = None) -> Iterator[Case]:
    """Every example of every component (of ``package`` alone) at each site of width 32; some of width 48."""
    for role, table in zoo.classes.items():
        for cls in table.values():
            if package is None or cls.__module__.split(".")[0] == package.split(".")[0]:
                yield from cases(role, cls, d_model=32)
                yield from list(cases(role, cls, d_model=48))[:2]


def run_checks(zoo: Zoo, package: str | None = None, *, count_macs: CountMacs) -> Iterator[Outcome]:
    """Every check on every case; an exception of a component itself is an outcome too."""
    for case in all_cases(zoo, package):
        for check in CHECKS:
            yield _outcome(case, check.__name__, lambda check=check, case=case: check(case))  # type: ignore[misc]
        for counted in COUNTED_CHECKS:
            yield _outcome(case, counted.__name__, lambda c=counted, case=case: c(case, count_macs))  # type: ignore[misc]


def _outcome(case: Case, name: str, run: Callable[[], None]) -> Outcome:
    try:
        run()
    except Exception as error:
        return Outcome(case, name.removeprefix("check_"), error)
    return Outcome(case, name.removeprefix("check_"), None)


__all__ = [
    "CHECKS",
    "COUNTED_CHECKS",
    "Case",
    "ContractError",
    "CountMacs",
    "Outcome",
    "Role",
    "all_cases",
    "cases",
    "run_checks",
]
