"""A search that repeats byte for byte: what it asks of a study, and of torch.

Rounds are functions of the ledger and the seed already. What is left is the clock (measured figures and time
limits), the number of threads, and the algorithms that torch chooses.
"""

from __future__ import annotations

import os

import torch

from archspec.errors import SpecError
from archspec.quantities import find_quantity
from archspec.study import Study
from search.evaluate import Locate

_TRAINED = ("score", "loss")  # not in closed form, yet the same in every run


def check_repeatable(
    study: Study,
    *,
    timeout: float | None,
    workers: int | None,
    executor: str = "local",
    locate: Locate,
) -> None:
    """A SpecError where something that ``study`` or its caller asks for cannot repeat."""
    for where, names in (("objectives", study.objectives), ("budgets", study.budgets)):
        for name in names:
            if is_measured(name):
                raise locate(
                    (where, name),
                    f"{name} is measured, and no measurement repeats: a deterministic search cannot use it",
                    "take flops, params or inference_peak instead, or leave out --deterministic",
                )
    if timeout is not None:
        raise SpecError(
            "a deterministic search has no time limit",
            hint="bound it by --trials, or leave out --deterministic",
        )
    if workers is not None and workers != 1:
        raise SpecError(
            f"a deterministic search has one worker, not {workers}",
            hint="leave out --workers, or --deterministic",
        )
    if executor != "local":
        raise SpecError(
            f"a deterministic search runs on this machine alone, not through '{executor}'",
            hint="leave out --executor, or --deterministic",
        )


def is_measured(name: str) -> bool:
    """Whether the quantity is read off a device, so that two runs differ."""
    quantity = find_quantity(name)
    return not quantity.closed_form and quantity.name not in _TRAINED


def choose_algorithms(*, deterministic: bool) -> None:
    """Let torch use those of its algorithms alone whose results repeat; one that has none is an error."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(deterministic)
