"""One round of trials: who is to be evaluated, what is settled without it, and a candidate's record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from search.evaluate import Candidate
from search.ledger import Asked, Trial


@dataclass
class Round:
    """What one round comes to; its trials are numbered from ``first`` on."""

    number: int
    first: int
    asked: list[Asked] = field(default_factory=list)
    settled: list[Trial] = field(default_factory=list)

    @property
    def next_number(self) -> int:
        """The number of its next trial."""
        return self.first + len(self.asked) + len(self.settled)

    def ask(self, candidate: Candidate, *, proposer: str) -> None:
        """Accept a candidate."""
        document = _document(candidate, proposer)
        self.asked.append(Asked(self.next_number, self.number, candidate.hash, candidate.baseline, document))

    def settle(self, spec: str, status: str, document: Mapping[str, Any]) -> None:
        """Be through with a proposal without an evaluation."""
        self.settled.append(Trial(self.next_number, spec, status, document))

    def refuse(self, candidate: Candidate, *, proposer: str, code: str, reason: str, budgets: str) -> None:
        """Turn a candidate away for what is known of it; ``budgets`` are those that did."""
        why = {"code": code, "reason": reason, "budgets": budgets}
        self.settle(candidate.hash, "refused", _document(candidate, proposer) | why)

    def repeat(self, candidate: Candidate, *, proposer: str, of: int) -> None:
        """Answer a candidate with the trial ``of`` that evaluated it."""
        why = {"of": of, "reason": f"the same architecture as trial {of}"}
        self.settle(candidate.hash, "duplicate", _document(candidate, proposer) | why)


def candidate_of(asked: Asked) -> Candidate:
    """The candidate that was accepted, from its record."""
    d = asked.document
    strip = tuple((token_mixer, channel_mixer) for token_mixer, channel_mixer in d["strip"])
    active = None if d.get("active") is None else frozenset(d["active"])
    return Candidate(
        asked.spec,
        d["genes"],
        strip,
        d["costs"],
        d["payload"],
        asked.baseline,
        active,
        features=d.get("features"),
    )


def _document(candidate: Candidate, proposer: str) -> dict[str, Any]:
    return {
        "genes": dict(candidate.genes),
        "strip": [list(pair) for pair in candidate.strip],
        "costs": dict(candidate.costs),
        "predicted": {name: asdict(found) for name, found in candidate.predicted.items()},
        "payload": dict(candidate.payload),
        "active": None if candidate.active is None else sorted(candidate.active),
        "features": None if candidate.features is None else dict(candidate.features),
        "baseline": candidate.baseline,
        "proposer": proposer,
    }
