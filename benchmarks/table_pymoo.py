"""pymoo's NSGA-II on a complete table, with the same static rejection and no duplicate."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.problem import Problem as Space
from pymoo.core.sampling import Sampling
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from table_evaluator import Problem, TableEvaluator, noisy_score
from table_runs import Run

from search.evaluate import Unfit

POPULATION = 20


class _Table:
    """Rows of option numbers -> keys of feasible entries."""

    def __init__(self, problem: Problem, seed: int):
        self.problem, self.evaluator = problem, TableEvaluator(problem, seed=seed)
        self.genes = self.evaluator.genome.genes
        self.evaluated: list[str] = []
        self.n_refused = 0

    def key(self, row: Any) -> str | None:
        """None where the budgets, or an earlier evaluation, turn it away."""
        genes = {gene.name: gene.options[int(i)] for gene, i in zip(self.genes, row, strict=True)}
        try:
            key = self.evaluator.candidate(genes).hash
        except Unfit:
            return None
        if key in self.evaluated or self.problem.allows(self.problem.table.entries[key]):
            return None if key in self.evaluated else key
        self.n_refused += 1
        return None


class _Fresh(DuplicateElimination):
    def __init__(self, table: _Table):
        super().__init__()
        self._table = table

    def do(self, pop: Any, *args: Any, return_indices: bool = False, to_itself: bool = True) -> Any:
        seen = {self._table.key(other) for others in args for other in others.get("X")}
        kept = []
        for index, row in enumerate(pop.get("X")):
            key = self._table.key(row)
            if key is not None and key not in seen:
                seen.add(key)
                kept.append(index)
        dropped = [index for index in range(len(pop)) if index not in kept]
        return (pop[kept], kept, dropped) if return_indices else pop[kept]


class _Feasible(Sampling):
    def __init__(self, table: _Table):
        super().__init__()
        self._table = table

    def _do(self, problem: Any, n_samples: int, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        rng = random_state or np.random.default_rng(0)
        found: dict[str, Any] = {}
        while len(found) < n_samples:
            row = np.array([rng.integers(len(gene.options)) for gene in self._table.genes])
            if (key := self._table.key(row)) is not None:
                found.setdefault(key, row)
        return np.array(list(found.values()))


def run_pymoo(problem: Problem, *, trials: int, seed: int) -> Run:
    """Generations of ``POPULATION`` until ``trials`` entries are evaluated."""
    begun, table = time.process_time(), _Table(problem, seed)
    upper = [len(gene.options) - 1 for gene in table.genes]
    space = Space(n_var=len(upper), n_obj=2, xl=0, xu=np.array(upper), vtype=int)
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=_Feasible(table),
        crossover=UX(repair=RoundingRepair()),
        mutation=PM(prob=1.0, prob_var=1 / len(upper), eta=3, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=_Fresh(table),
    )
    algorithm.setup(space, seed=seed, termination=NoTermination(), verbose=False)
    while len(table.evaluated) < trials:
        asked = algorithm.ask()
        if asked is None or len(asked) == 0:
            break
        keys = [table.key(row) for row in asked.get("X")]
        assert all(key is not None for key in keys)
        entries = [problem.table.entries[str(key)] for key in keys]
        points = [(-noisy_score(e, str(k), seed), e.latency_ms) for k, e in zip(keys, entries, strict=True)]
        asked.set("F", np.array(points))
        table.evaluated += [str(key) for key in keys]
        algorithm.tell(infills=asked)
    kept = tuple(table.evaluated[:trials])
    return Run(kept, table.n_refused, 0, time.process_time() - begun)
