"""What earlier searches found already: results with equal keys are taken over, and say from where."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from archspec.errors import SpecError
from search.evaluate import Candidate, Evaluator, Need, Unfit
from search.ledger import FILE_NAME, EvidenceKey, Ledger

_LASTING = {"ok", "diverged"}  # a time-out may be another's limit, and an error another's machine


class Earlier:
    """The ledgers of ``folders``, open for reading; a folder without a search is a SpecError."""

    def __init__(self, folders: Sequence[Path], *, own: Path):
        for folder in folders:
            if folder.resolve() == own.resolve():
                raise SpecError(f"{folder} is the search's own folder; it cannot be reused in itself")
        self._stack = contextlib.ExitStack()
        self._ledgers: list[tuple[Path, Ledger]] = []
        for folder in folders:
            ledger = Ledger(folder / FILE_NAME, writable=False)
            self._stack.callback(ledger.close)
            self._ledgers.append((folder, ledger))

    def __enter__(self) -> Earlier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def take_over(self, ledger: Ledger, needs: Sequence[Need]) -> None:
        """Copy into ``ledger`` what it lacks of ``needs``; a training names the folder of its weights."""
        for need in needs:
            if ledger.evidence(need.key) is None and (found := self._find(need.key)) is not None:
                folder, document = found
                directory = need.job.payload.get("directory")
                if need.key.kind == "training" and directory and "weights" not in document:
                    there = folder.absolute() / "weights" / Path(*Path(directory).parts[-2:])
                    document = {**document, "weights": str(there)}
                ledger.add_evidence(need.key, {**document, "reused_from": str(folder)})

    def known(self, evaluator: Evaluator) -> Iterator[Candidate]:
        """Finished candidates that the space of ``evaluator`` holds and of which every result is there."""
        if not self._ledgers:
            return
        names = evaluator.genome.by_name.keys()
        for _, ledger in self._ledgers:
            for trial in ledger.trials():
                genes = trial.document.get("genes") or {}
                if trial.status != "done" or genes.keys() != names:
                    continue
                if not all(gene.holds(genes[gene.name]) for gene in evaluator.genome.genes):
                    continue
                with contextlib.suppress(Unfit):
                    candidate = evaluator.candidate(genes)
                    if all(self._find(need.key) is not None for need in needs_of(evaluator, candidate)):
                        yield candidate

    def _find(self, key: EvidenceKey) -> tuple[Path, dict[str, Any]] | None:
        for folder, ledger in self._ledgers:
            document = ledger.evidence(key)
            if document is not None and document.get("status", "ok") in _LASTING:
                return folder, document
        return None


def needs_of(evaluator: Evaluator, candidate: Candidate) -> list[Need]:
    """All that a candidate needs before it is on a front or not."""
    measurement = evaluator.measurement(candidate, final=False)
    return [*([] if measurement is None else [measurement]), *evaluator.training(candidate)]


def is_reused(ledger: Ledger, needs: Sequence[Need]) -> bool:
    """Whether no training of these was done for this search."""
    documents = (ledger.evidence(need.key) for need in needs)
    return bool(needs) and all(document is not None and "reused_from" in document for document in documents)


def with_weights(
    ledger: Ledger, checks: Sequence[Need], trainings: Sequence[Need]
) -> tuple[list[Need], list[Need]]:
    """``checks`` that read weights where they are, and the trainings to repeat, whose weights are gone."""
    jobs = {need.key: need.job for need in trainings}
    found, again = [], []
    for check in checks:
        key = replace(check.key, kind="training")
        where = (ledger.evidence(key) or {}).get("weights")
        if where is None:
            found.append(check)
        elif (Path(where) / "model").is_dir():
            payload = {**check.job.payload, "directory": where}
            found.append(replace(check, job=replace(check.job, payload=payload)))
        else:
            again.append(
                Need(replace(key, fidelity=f"{key.fidelity}, for its weights"), jobs[key], check.label)
            )
            found.append(check)
    return found, again
