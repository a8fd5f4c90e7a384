"""What proposers may know of genes before anything runs, each spelling looked at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from archspec.quantities import Budget
from search.evaluate import Candidate, Evaluator, Unfit
from search.gates import refusal
from search.genome import Genes, Genome
from search.ledger import Asked, Trial
from search.proposers import Past, Screened
from search.round import candidate_of


class Screening:
    """Under ``budgets``. ``genome`` is the one proposers are shown: without options that can never fit."""

    def __init__(self, evaluator: Evaluator, budgets: Mapping[str, Budget], genome: Genome):
        self._evaluator, self._budgets, self._genome = evaluator, budgets, genome
        self._screened: dict[tuple[Any, ...], Screened | None] = {}
        self._opened: dict[tuple[Any, ...], Genes | None] = {}

    def __call__(self, genes: Genes) -> Screened | None:
        """None where nothing would be run."""
        spelling = self._evaluator.genome.key(genes)
        if spelling not in self._screened:
            try:
                self._screened[spelling] = self._of(self._evaluator.candidate(genes))
            except Unfit:
                self._screened[spelling] = None
        return self._screened[spelling]

    def hear(self, trial: Trial, genes: Genes) -> None:
        """Take the answer for ``genes`` from a record: nothing is built again."""
        spelling = self._evaluator.genome.key(genes)
        if spelling in self._screened:
            return
        self._screened[spelling] = None
        if trial.status != "refused" and "costs" in trial.document:
            candidate = candidate_of(Asked(trial.number, 0, trial.spec, None, trial.document))
            self._screened[spelling] = self._of(replace(candidate, genes=genes))

    def opened(self, past: Past) -> Past | None:
        """``past`` in genes that a proposer may be shown; None if it took an option that can never fit."""
        if all(gene.holds(past.genes[gene.name]) for gene in self._genome.genes):
            return past
        spelling = self._evaluator.genome.key(past.genes)
        if spelling not in self._opened:
            self._opened[spelling] = self._without_closed(past.genes)
        genes = self._opened[spelling]
        return None if genes is None else replace(past, genes=genes)

    def _without_closed(self, genes: Genes) -> Genes | None:
        closed = [gene for gene in self._genome.genes if not gene.holds(genes[gene.name])]
        try:
            active = self._evaluator.candidate(genes).active
        except Unfit:
            return None
        if active is None or any(gene.name in active for gene in closed):
            return None
        return {**genes, **{gene.name: gene.first for gene in closed}}

    def _of(self, candidate: Candidate) -> Screened | None:
        if refusal(candidate, self._budgets) is not None:
            return None
        return Screened(
            candidate.hash,
            candidate.genes,
            candidate.costs,
            candidate.strip,
            candidate.active,
            candidate.features,
        )
