"""The default proposer under plain Optuna: its contract, exact conversions, and better than chance."""

from __future__ import annotations

import doctest
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import FrozenTrial, Trial, TrialState

from archspec.errors import SpecError
from search import sampler as module
from search.distributions import exact, gene_of, holds, only_value
from search.mirror import quiet_optuna
from search.pareto import hypervolume
from search.sampler import PredictorSampler

KINDS = ("attention", "conv", "ssm", None)
SPACE: dict[str, BaseDistribution] = {
    **{f"mixer {place}": CategoricalDistribution(KINDS) for place in range(4)},
    "width": IntDistribution(16, 128, step=16),
    "depth": IntDistribution(1, 12),
    "expand": IntDistribution(1, 64, log=True),
    "dropout": FloatDistribution(0.0, 0.5, step=0.1),
    "version": IntDistribution(7, 7),
}
DIRECTIONS = ("maximize", "minimize")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with quiet_optuna():
        yield


def size(params: Mapping[str, Any]) -> float:
    heavy = sum(params[f"mixer {place}"] == "attention" for place in range(4))
    return params["depth"] * params["width"] * (params["width"] + params["expand"] + 32 * heavy) / 1e4


def quality(params: Mapping[str, Any]) -> float:
    worth = {"attention": 0.8, "ssm": 0.6, "conv": 0.3, None: 0.0}
    mixed = sum(worth[params[f"mixer {place}"]] for place in range(4))
    body = (params["depth"] * params["width"] * params["expand"] ** 0.5) ** 0.25
    return mixed + body / 4 - abs(params["dropout"] - 0.2)


def costs(params: Mapping[str, Any]) -> dict[str, float]:
    return {"1": size(params)}


def small(params: Mapping[str, Any]) -> bool:
    return params["version"] == 7 and size(params) <= 8


def make(**options: Any) -> PredictorSampler:
    return PredictorSampler(SPACE, **{"costs": costs, "seed": 0} | options)


def run(sampler: BaseSampler, *, n: int, storage: Any = None, n_told: int | None = None) -> Study:
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler, storage=storage)
    for index in range(n):
        trial = study.ask(SPACE)
        if n_told is None or index < n_told:
            study.tell(trial, [quality(trial.params), size(trial.params)])
    return study


def proposals(study: Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def volume(study: Study) -> float:
    points = [(-trial.values[0], trial.values[1]) for trial in study.get_trials(deepcopy=False)]
    return hypervolume(points, (-1.0, 10.0))


class TestContract(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """What Optuna asks of every sampler."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return PredictorSampler


def test_beats_random_search() -> None:
    for seed in range(3):
        found, chance = run(make(seed=seed), n=40), run(RandomSampler(seed=seed), n=40)
        assert volume(found) > 1.1 * volume(chance)


@pytest.mark.parametrize("n", [1, 16])
def test_is_a_function_of_seed_and_history(n: int) -> None:
    again = proposals(run(make(seed=3), n=n))
    assert proposals(run(make(seed=3), n=n)) == again
    assert proposals(run(make(seed=4), n=n))[-1] != again[-1]


def test_goes_on_in_another_process_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    try:
        study = run(make(), n=16, storage=storage)
        study.sampler = make()
        for _ in range(2):
            trial = study.ask(SPACE)
            study.tell(trial, [quality(trial.params), size(trial.params)])
        assert proposals(study) == proposals(run(make(), n=18))
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.parametrize("n_told", [0, 5, 20])
def test_what_is_running_is_not_proposed_again(n_told: int) -> None:
    space = {"a": IntDistribution(0, 7), "b": CategoricalDistribution(["x", "y", "z", "w"])}
    study = optuna.create_study(sampler=PredictorSampler(space, seed=1))
    for index in range(30):
        trial = study.ask(space)
        if index < n_told:
            study.tell(trial, trial.params["a"])
    assert len({repr(params) for params in proposals(study)}) == 30


def test_repeats_itself_where_nothing_new_is_left() -> None:
    space = {"a": IntDistribution(0, 7), "b": IntDistribution(0, 2)}
    study = optuna.create_study(
        sampler=PredictorSampler(space, seed=1, feasible=lambda params: params["b"] == 1)
    )
    study.optimize(
        lambda trial: float(trial.suggest_int("a", 0, 7) + trial.suggest_int("b", 0, 2)), n_trials=20
    )
    assert {params["a"] for params in proposals(study)} == set(range(8))
    assert {params["b"] for params in proposals(study)} == {1}


def test_never_proposes_what_is_refused() -> None:
    study = run(make(feasible=small), n=30)
    assert all(small(params) for params in proposals(study))
    assert not all(small(params) for params in proposals(run(RandomSampler(seed=0), n=40)))


def test_a_partly_enqueued_trial_is_completed_to_a_feasible_one() -> None:
    study = run(make(feasible=small), n=14)
    for _ in range(10):
        study.enqueue_trial({"width": 128, "expand": 1})
        params = study.ask(SPACE).params
        assert params["width"] == 128
        assert small(params)


def test_says_that_nothing_is_feasible() -> None:
    with pytest.raises(SpecError, match="refused all of 2000 random draws"):
        run(make(feasible=lambda params: False), n=1)


def test_says_which_cost_is_not_finite() -> None:
    with pytest.raises(SpecError, match="the cost 'size' of .* is inf"):
        run(make(costs=lambda params: {"size": float("inf")}), n=1)


@pytest.mark.parametrize("given", [True, False], ids=["given", "inferred"])
def test_constraints_of_trials_are_kept_to(given: bool) -> None:
    """Its size is told as a constraint only: small is bad, but the last half keeps to it more often than chance."""

    def objective(trial: Trial) -> float:
        for name, found in SPACE.items():
            trial._suggest(name, found)
        trial.set_constraint("size", size(trial.params) - 2)
        return quality(trial.params)

    n_kept = {}
    for sampler in (PredictorSampler(SPACE if given else None, seed=2), RandomSampler(seed=2)):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=40)
        n_kept[str(sampler)] = sum(size(params) <= 2 for params in proposals(study)[20:])
    assert n_kept["PredictorSampler"] > 1.5 * n_kept["RandomSampler"], n_kept


def test_metric_names_tell_which_objective_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = []

    class Spy(module.PredictorProposer):
        def __init__(self, problem: Any):
            problems.append(problem)
            super().__init__(problem)

    monkeypatch.setattr(module, "PredictorProposer", Spy)
    study = run(make(costs=lambda params: {"size": size(params)}), n=2)
    study.set_metric_names(["quality", "size"])
    params = study.ask(SPACE).params
    assert [list(problem.objectives.items()) for problem in problems] == [
        [("0", "maximize"), ("1", "minimize")],
        [("quality", "maximize"), ("size", "minimize")],
    ]
    screened = problems[-1].screen(params)
    assert screened.costs == {"size": size(params)}


def test_takes_a_study_of_all_that_can_go_wrong() -> None:
    study = run(make(), n=14)
    study.tell(study.ask(SPACE), state=TrialState.FAIL)
    study.tell(study.ask(SPACE), [float("inf"), 1.0])
    trial = study.ask(SPACE)
    trial.set_constraint("memory", float("inf"))
    study.tell(trial, [1.0, 1.0])
    study.ask({"width": SPACE["width"]})
    study.enqueue_trial({"width": 16})
    study.enqueue_trial({**study.trials[0].params, "width": 500})
    study.add_trial(optuna.create_trial(values=[9.0, 9.0], params={}, distributions={}))
    with pytest.warns(UserWarning, match="out of range"):
        others = [study.ask(SPACE) for _ in range(5)]
    assert all(holds(SPACE[name], value) for name, value in others[-1].params.items())


@pytest.mark.parametrize(
    "distribution",
    [
        CategoricalDistribution([None, True, 2, 2.5, "x", float("nan")]),
        IntDistribution(-3, 9),
        IntDistribution(2, 11, step=3),
        IntDistribution(3, 1000, log=True),
        FloatDistribution(-1.5, 2.5),
        FloatDistribution(0.1, 0.7, step=0.1),
        FloatDistribution(1e-5, 0.1, log=True),
    ],
    ids=str,
)
class TestConversion:
    def test_there_and_back_is_the_same_distribution(self, distribution: BaseDistribution) -> None:
        assert gene_of("x", distribution).distribution == distribution

    def test_every_value_of_the_gene_is_one_that_optuna_stores_unchanged(
        self, distribution: BaseDistribution
    ) -> None:
        gene, rng = gene_of("x", distribution), random.Random(0)
        value = gene.sample(rng)
        for _ in range(300):
            spelt = exact("x", distribution, value)
            assert holds(distribution, spelt)
            assert repr(exact("x", distribution, spelt)) == repr(spelt)
            stored = distribution.to_external_repr(distribution.to_internal_repr(spelt))
            assert repr(stored) == repr(spelt)
            value = rng.choice([*gene.neighbours(value), gene.sample(rng)])


def test_steps_to_and_fro_stay_on_the_grid() -> None:
    grid = FloatDistribution(0.1, 0.7, step=0.1)
    assert exact("x", grid, 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1) == 0.1 + 5 * 0.1
    assert exact("x", grid, 0.1 + 6 * 0.1) == 0.7
    assert exact("x", IntDistribution(1, 9), 4.0) == 4
    assert isinstance(exact("x", IntDistribution(1, 9), 4.0), int)


def test_choices_that_optuna_cannot_tell_apart_are_one() -> None:
    assert gene_of("x", CategoricalDistribution([True, 1, 1.0, 2])).options == (True, 2)


def test_only_values() -> None:
    assert only_value(CategoricalDistribution([None])) is None
    assert only_value(FloatDistribution(0.5, 0.5)) == 0.5


def test_the_example_works() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(PredictorSampler, globs={**vars(module)})
    found = doctest.DocTestRunner().run(example)
    assert found.attempted > 8
    assert found.failed == 0


def test_threads_may_share_a_sampler() -> None:
    def objective(trial: Trial) -> float:
        return float(trial.suggest_int("a", 0, 30) + trial.suggest_int("b", 0, 30))

    study = optuna.create_study(sampler=PredictorSampler(seed=1))
    study.optimize(objective, n_trials=24, n_jobs=3)
    states: list[FrozenTrial] = study.trials
    assert all(trial.state == TrialState.COMPLETE for trial in states)
