"""The component contract as functions: what every component is tested for, ours and those of a plug-in.

for outcome in run_checks(zoo, "my_plugin", count_macs=compiler.cost.fvcore_check.count_macs):
    print(outcome.case, outcome.check, outcome.error)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from archspec import Role
from zoo import Zoo, component_kind
from zoo.checks.accounting import CountMacs, check_cost, check_decode_flops, check_flops, check_parameters
from zoo.checks.case import Case, ContractError, cases
from zoo.checks.decoding import check_decoding, check_state_bytes
from zoo.checks.machinery import check_checkpointing, check_compile, check_gradient
from zoo.checks.manners import (
    check_config,
    check_docstring,
    check_examples,
    check_hints,
    check_identity,
    check_initialisation,
    check_odd_masks,
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
from zoo.contract import Component


@dataclass(frozen=True)
class Check:
    """A rule of the contract; ``applies`` says which cases it speaks of."""

    run: Callable[[Case, CountMacs], None]
    name: str
    applies: Callable[[Case], bool]


def _check(rule: Callable[[Case], None], applies: Callable[[Case], bool] = lambda case: True) -> Check:
    return Check(lambda case, count_macs: rule(case), rule.__name__.removeprefix("check_"), applies)


def _counted(
    rule: Callable[[Case, CountMacs], None], applies: Callable[[Case], bool] = lambda case: True
) -> Check:
    return Check(rule, rule.__name__.removeprefix("check_"), applies)


CHECKS: tuple[Check, ...] = (
    _check(check_examples, lambda case: case.number == 0),
    _check(check_config),
    _check(check_identity),
    _check(check_docstring, lambda case: case.number == 0),
    _check(check_sites, lambda case: case.is_mixer),
    _check(check_hints),
    _check(check_initialisation),
    _check(check_state_dict),
    _check(check_output),
    _check(check_reference),
    _check(check_gradient),
    _check(check_batch),
    _check(check_padding, lambda case: case.takes_mask),
    _check(check_odd_masks, lambda case: case.takes_mask and (case.is_mixer or case.role == "transfer")),
    _check(check_determinism),
    _check(check_purity),
    _check(check_side_products, lambda case: case.is_mixer),
    _check(check_autocast),
    _check(check_checkpointing),
    _check(check_export, lambda case: case.number == 0 and case.d_model == 32),  # slow, so one example each
    _check(check_compile, lambda case: case.number == 0 and case.d_model == 32 and case.is_first_site),
    _check(check_causality, lambda case: case.promises_causality and case.is_ordered),
    _check(
        check_causality_gradient,
        lambda case: case.promises_causality and case.is_ordered and case.role != "stem",
    ),
    _check(
        check_block_causality,
        lambda case: case.role == "token_mixer" and case.causal and case.promises_causality,
    ),
    _check(check_liveness, lambda case: case.role == "token_mixer" and case.can.mixes_tokens),
    _check(check_positions_apart, lambda case: not case.can.mixes_tokens and case.is_ordered),
    _check(check_decoding, lambda case: case.decodes),
    _check(check_state_bytes, lambda case: case.decodes and case.is_mixer),
    _check(check_parameters),
    _check(check_cost),
    _counted(check_flops),
    _counted(check_decode_flops, lambda case: case.decodes and case.is_mixer),
)


@dataclass(frozen=True)
class Outcome:
    """One check of one case; ``error`` is None where the contract holds."""

    component: str  # role and kind
    case: str
    check: str
    error: Exception | None


def all_cases(zoo: Zoo, package: str | None = None) -> Iterator[Case]:
    """Every example of every component (of ``package`` alone) at each site of width 32; some of width 48."""
    for role, cls in _components(zoo, package):
        yield from cases(role, cls, d_model=32)
        yield from list(cases(role, cls, d_model=48))[:2]


def run_checks(zoo: Zoo, package: str | None = None, *, count_macs: CountMacs) -> Iterator[Outcome]:
    """Every check on every case; whatever a component raises is an outcome too, and so is having no case."""
    for role, cls in _components(zoo, package):
        component = f"{role} '{component_kind(cls)}'"
        own = [case for case in all_cases(zoo, package) if case.cls is cls]
        if not own:
            error = ContractError("no example fits a site of width 32")
            yield Outcome(component, "", "examples", error)
        for case in own:
            for check in CHECKS:
                if check.applies(case):
                    yield Outcome(component, case.id, check.name, _error(check, case, count_macs))


def _components(zoo: Zoo, package: str | None) -> Iterator[tuple[Role, type[Component]]]:
    for role, table in zoo.classes.items():
        for cls in table.values():
            if package is None or cls.__module__.split(".")[0] == package.split(".")[0]:
                yield role, cls


def _error(check: Check, case: Case, count_macs: CountMacs) -> Exception | None:
    try:
        check.run(case, count_macs)
    except Exception as error:
        return error
    return None


__all__ = [
    "CHECKS",
    "Case",
    "Check",
    "ContractError",
    "CountMacs",
    "Outcome",
    "all_cases",
    "cases",
    "run_checks",
]
