"""What ``verify`` found: every comparison of the closed form with its witnesses, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One comparison: a component (or the whole model) at one length, in multiply-adds and parameters."""

    path: str  # the first node that is such a component
    kind: str
    n_nodes: int
    phase: str
    length: int
    macs: int  # closed form
    fvcore_macs: int  # with our handles
    stock_macs: int | None  # without; None where fvcore fails
    params: int
    fvcore_params: int
    unknown_ops: tuple[str, ...]
    differences: tuple[str, ...]  # between stock fvcore and ours, by operation
    traced_macs: int | None  # by our trace; None where an operation is in no table
    counter_macs: (
        int | None
    )  # by FlopCounterMode on meta, at a part's longest length; else None, as if it fails
    train_macs: int | None  # closed form, forward and backward; None for decoding, as all that follow
    traced_train_macs: int | None
    counter_train_macs: int | None
    counter_differences: tuple[str, ...]  # between FlopCounterMode and our trace, by operation

    @property
    def exact(self) -> bool:
        return (
            self.macs == self.fvcore_macs == self.traced_macs
            and self.train_macs == self.traced_train_macs
            and self.params == self.fvcore_params
            and not self.unknown_ops
        )


@dataclass(frozen=True)
class Verification:
    """All comparisons; ``skipped`` says what was not compared, and why."""

    checks: tuple[Check, ...]
    skipped: tuple[str, ...]
    n_components_unchecked: int
    batch_size: int

    @property
    def exact(self) -> bool | None:
        """False if anything differs, None if a component was not compared, else True."""
        if not all(check.exact for check in self.checks):
            return False
        return None if self.n_components_unchecked or not self.checks else True

    @property
    def unknown_ops(self) -> list[str]:
        return sorted({op for check in self.checks for op in check.unknown_ops})

    def as_json(self) -> dict[str, Any]:
        whole = [check for check in self.checks if check.kind == "model"]
        return {
            "fvcore_macs": whole[-1].fvcore_macs if whole else None,
            "exact": self.exact,
            "lengths": sorted({check.length for check in self.checks}),
            "unknown_ops": self.unknown_ops,
            "checks": [asdict(check) | {"exact": check.exact} for check in self.checks],
            "skipped": list(self.skipped),
        }
