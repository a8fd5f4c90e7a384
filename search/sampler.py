"""The default proposer as a sampler for any study of Optuna that has a static search space."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from archspec.errors import SpecError
from search.distributions import exact, gene_of, holds, only_value
from search.front import Direction
from search.genome import Genes, Genome
from search.population import seen_hashes
from search.proposers import Past, Problem, Screened
from search.proposers.predictor import PredictorProposer

Params = Mapping[str, Any]
Space = Mapping[str, BaseDistribution]
_N_DRAWS = 2_000
_LARGEST = 1e30  # that a constraint counts as; regressions need finite numbers


class PredictorSampler(BaseSampler):
    """Mutations of the front, screened by a regression that never has to learn what you can compute.

    ``space`` holds the distributions that every trial has; without it, those that all completed trials
    share. Names that are not among them are sampled independently, at random, and so are all names until a
    trial has completed where there is no ``space``. ``costs`` gives quantities that follow from the
    parameters; one that is named as an objective is taken for that objective's exact value, the others
    help the regression. Objectives are named by ``study.set_metric_names``, else "0", "1", and so on.
    Parameters that ``feasible`` refuses are not proposed: with ``space`` never, without it not once a trial
    has completed. Both callables see all of the space, several hundred times a trial, and must be
    functions of the parameters alone. What ``trial.set_constraint`` says is learnt: zero or less is good.

    With the same ``seed`` a trial of the same number after the same history gets the same parameters.

    >>> import optuna
    >>> from optuna.distributions import CategoricalDistribution, IntDistribution
    >>> space = {
    ...     "mixer": CategoricalDistribution(["attention", "conv", "ssm"]),
    ...     "width": IntDistribution(16, 128, step=16),
    ...     "depth": IntDistribution(1, 8),
    ... }
    >>> def size(params):
    ...     return {"size": params["depth"] * params["width"] ** 2}
    >>> def loss(params):
    ...     return 100 / (params["width"] * params["depth"]) + (params["mixer"] != "ssm")
    >>> sampler = PredictorSampler(
    ...     space, costs=size, feasible=lambda params: size(params)["size"] <= 50_000, seed=0
    ... )
    >>> study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    >>> study.set_metric_names(["loss", "size"])
    >>> for _ in range(30):
    ...     trial = study.ask(space)
    ...     _ = study.tell(trial, [loss(trial.params), size(trial.params)["size"]])
    >>> all(trial.values[1] <= 50_000 for trial in study.trials)
    True
    """

    def __init__(
        self,
        space: Space | None = None,
        *,
        costs: Callable[[Params], Mapping[str, float]] | None = None,
        feasible: Callable[[Params], bool] | None = None,
        seed: int | None = None,
    ):
        self._space = None if space is None else dict(space)
        self._costs, self._feasible = costs, feasible
        self._seed = secrets.randbits(64) if seed is None else seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every distribution of the space that leaves a choice."""
        return {name: found for name, found in self._all(study).items() if not found.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for each name that ``study.enqueue_trial`` has not fixed for this trial."""
        fixed = _fixed(trial)
        free = {name: found for name, found in search_space.items() if name not in fixed}
        if not free:
            return {}
        given = {name: fixed[name] for name in search_space if name in fixed}
        given |= {name: only_value(found) for name, found in self._all(study).items() if found.single()}
        problem = self._problem(study, free, given)
        trials = study.get_trials(deepcopy=False)
        history = list(_history([other for other in trials if other.number != trial.number], free))
        seed = _mixed(self._seed, trial.number)
        proposals: Sequence[Genes] = []
        if any(past.state == "done" for past in history):
            proposals = PredictorProposer(problem).propose(history, k=1, seed=seed)
        genes = proposals[0] if proposals else _drawn(problem, history, random.Random(seed))  # noqa: S311
        return _spelt(free, genes)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Uniform over the distribution, by the seed, the number of the trial and the name alone."""
        sampler = RandomSampler(seed=_mixed(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _all(self, study: Study) -> Space:
        if self._space is not None:
            return self._space
        return intersection_search_space(study.get_trials(deepcopy=False))

    def _problem(self, study: Study, free: Space, given: Params) -> Problem:
        def screen(genes: Genes) -> Screened | None:
            genes = _spelt(free, genes)
            params = {**given, **genes}
            if self._feasible is not None and not self._feasible(dict(params)):
                return None
            costs = {} if self._costs is None else self._costs(dict(params))
            return Screened(repr(sorted(genes.items())), genes, _finite(costs, params), ())

        genome = Genome(tuple(gene_of(name, found) for name, found in free.items()))
        return Problem(genome, _objectives(study), screen)


def _fixed(trial: FrozenTrial) -> Params:
    """What ``study.enqueue_trial`` has said of a trial."""
    fixed: Params = trial.system_attrs.get("fixed_params", {})
    return fixed


def _spelt(free: Space, genes: Genes) -> dict[str, Any]:
    return {name: exact(name, found, genes[name]) for name, found in free.items()}


def _objectives(study: Study) -> dict[str, Direction]:
    names = study.metric_names or [str(index) for index in range(len(study.directions))]
    return {
        name: "maximize" if direction == StudyDirection.MAXIMIZE else "minimize"
        for name, direction in zip(names, study.directions, strict=True)
    }


def _finite(costs: Mapping[str, float], params: Params) -> Mapping[str, float]:
    for name, cost in costs.items():
        if not math.isfinite(cost):
            raise SpecError(
                f"the cost '{name}' of {dict(params)} is {cost}",
                hint="let `feasible` refuse parameters that have no finite cost",
            )
    return costs


def _history(trials: Sequence[FrozenTrial], free: Space) -> Iterator[Past]:
    """What every other trial tells of the ``free`` names, less those that have other values for them.

    Values that are infinite cannot be compared: such a trial counts as failed, and so does a pruned one.
    """
    for trial in trials:
        params = {**_fixed(trial), **trial.params}
        if not all(name in params and holds(found, params[name]) for name, found in free.items()):
            continue
        genes = _spelt(free, params)
        if not trial.state.is_finished():
            yield Past(genes, "pending")
        elif trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values)):
            beyond = {name: min(value, _LARGEST) for name, value in sorted(trial.constraints.items())}
            yield Past(genes, "done", tuple(trial.values), beyond)
        else:
            yield Past(genes, "failed")


def _drawn(problem: Problem, history: Sequence[Past], rng: random.Random) -> Genes:
    """Genes at random that may be evaluated: new ones where there are any, else some that are known."""
    seen = seen_hashes(problem, history)
    draws = (problem.genome.sample(rng) for _ in range(_N_DRAWS))
    known: Genes | None = None
    for genes in itertools.chain(draws, (past.genes for past in history)):
        screened = problem.screen(genes)
        if screened is not None and screened.hash not in seen:
            return screened.genes
        if screened is not None and known is None:
            known = screened.genes
    if known is None:
        raise SpecError(
            f"`feasible` refused all of {_N_DRAWS} random draws",
            hint="narrow the space to where most parameters are feasible, or enqueue a feasible trial",
        )
    return known


def _mixed(*parts: Any) -> int:
    """32 bits that any part changes."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
