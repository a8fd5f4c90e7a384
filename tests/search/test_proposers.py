"""Proposers: fresh, feasible, a function of the history alone, and better than chance where there is a pattern."""

from __future__ import annotations

import random
from typing import Any

import pytest

from search import proposers
from search.genome import Gene, Genes, Genome
from search.population import child, excess, parents, seen_hashes
from search.proposers import Past, Problem, Screened, proposer_class

GENOME = Genome(
    (
        Gene("mixer", "choice", options=("attention", None, 3)),
        Gene("width", "int", low=2, high=10, step=2),
        Gene("size", "int", low=1, high=64, log=True),
        Gene("share", "float", low=0.1, high=0.9),
    )
)


def screen(genes: Genes) -> Screened:
    return Screened(repr(sorted(genes.items())), genes, {"params": float(genes["width"])}, ())


def at_most_6_wide(genes: Genes) -> Screened | None:
    return screen(genes) if genes["width"] <= 6 else None


PROBLEM = Problem(GENOME, {"score": "maximize", "loss": "minimize"}, screen)
NARROW = Problem(GENOME, {"score": "maximize", "params": "minimize"}, at_most_6_wide)


@pytest.mark.parametrize("kind", proposers.kinds())
class TestEveryProposer:
    def history(self, n: int) -> list[Past]:
        rng = random.Random(5)
        return [
            Past(
                g := GENOME.sample(rng), "done", (g["width"], g["share"]), {"b": -1.0, "a": g["width"] - 6.0}
            )
            for _ in range(n)
        ]

    @pytest.mark.parametrize("n", [0, 3, 30])
    def test_proposes_values_of_every_gene(self, kind: str, n: int) -> None:
        proposals = proposer_class(kind)(PROBLEM).propose(self.history(n), k=4, seed=1)
        assert len(proposals) == 4
        for genes in proposals:
            assert all(gene.holds(genes[gene.name]) for gene in GENOME.genes)

    def test_is_a_function_of_history_and_seed(self, kind: str) -> None:
        def propose(seed: int) -> list[dict[str, Any]]:
            return proposer_class(kind)(PROBLEM).propose(self.history(20), k=4, seed=seed)

        assert propose(1) == propose(1)
        assert propose(1) != propose(2)

    def test_takes_a_history_of_failures_refusals_and_pending_candidates(self, kind: str) -> None:
        rng = random.Random(1)
        states = ("failed", "refused", "pending")
        history = [Past(GENOME.sample(rng), state) for state in states for _ in range(5)]  # type: ignore[arg-type]
        assert len(proposer_class(kind)(PROBLEM).propose([*self.history(15), *history], k=2, seed=0)) == 2


@pytest.mark.parametrize("kind", ["evolution", "predictor"])
@pytest.mark.parametrize("n", [0, 5, 40])
def test_what_is_screened_out_or_known_is_never_proposed(kind: str, n: int) -> None:
    rng = random.Random(2)
    history = [Past(g := GENOME.sample(rng), "done", (g["share"], float(g["width"])), {}) for _ in range(n)]
    proposals = proposer_class(kind)(NARROW).propose(history, k=30, seed=3)
    assert len(proposals) == 30
    hashes = [screened.hash for genes in proposals if (screened := at_most_6_wide(genes)) is not None]
    assert len(set(hashes)) == 30
    assert not seen_hashes(NARROW, history) & set(hashes)


@pytest.mark.parametrize("kind", ["evolution", "nsga2", "predictor", "tpe"])
def test_learns_what_random_does_not(kind: str) -> None:
    """A hundred known candidates say that one mixer and the greatest width are good."""
    rng = random.Random(0)

    def score(genes: Genes) -> float:
        return float(genes["width"] == 10) + float(genes["mixer"] == 3) + 0.1 * genes["share"]

    history = [Past(g := GENOME.sample(rng), "done", (score(g), 0.0), {}) for _ in range(100)]
    hits = {}
    for name in (kind, "random"):
        proposals = proposer_class(name)(PROBLEM).propose(history, k=100, seed=0)
        hits[name] = sum(genes["width"] == 10 and genes["mixer"] == 3 for genes in proposals)
    assert hits[kind] > 2 * hits["random"]


def test_the_predictor_falls_back_to_evolution_where_nothing_can_be_predicted() -> None:
    rng = random.Random(7)
    history = [Past(GENOME.sample(rng), "done", (rng.random(), rng.random()), {}) for _ in range(60)]
    predictor, evolution = proposer_class("predictor")(PROBLEM), proposer_class("evolution")(PROBLEM)
    assert predictor.propose(history, k=5, seed=1) == evolution.propose(history, k=5, seed=1)


def test_the_predictor_falls_back_to_evolution_where_no_feature_varies() -> None:
    def alike(genes: Genes) -> Screened:
        return Screened(repr(sorted(genes.items())), genes, {}, (), features={"layers": 4.0})

    rng = random.Random(8)
    history = [Past(g := GENOME.sample(rng), "done", (g["width"], g["share"]), {}) for _ in range(20)]
    problem = Problem(GENOME, {"score": "maximize", "loss": "minimize"}, alike)
    predictor, evolution = proposer_class("predictor")(problem), proposer_class("evolution")(problem)
    assert predictor.propose(history, k=5, seed=1) == evolution.propose(history, k=5, seed=1)


def test_the_predictor_proposes_nothing_where_everything_is_known() -> None:
    genome = Genome((Gene("a", "int", low=0, high=19),))
    problem = Problem(genome, {"score": "maximize"}, lambda genes: Screened(str(genes["a"]), genes, {}, ()))
    history = [Past({"a": value}, "done", (float(value),), {}) for value in range(20)]
    assert proposer_class("predictor")(problem).propose(history, k=1, seed=0) == []


def test_nsga2_breeds_from_candidates_that_it_did_not_propose() -> None:
    """Optuna's sampler ignores added trials that carry no generation; ours carry one."""
    rng = random.Random(3)
    good = {"mixer": 3, "width": 8, "size": 7, "share": 0.5}
    history = [Past(dict(good), "done", (1.0, 0.0), {}) for _ in range(20)]
    history += [Past(GENOME.sample(rng), "done", (0.0, 1.0), {}) for _ in range(20)]
    proposals = proposer_class("nsga2")(PROBLEM).propose(history, k=20, seed=0)
    assert sum(genes["size"] == 7 for genes in proposals) > 8


def test_parents_within_the_budgets_stand_before_all_others() -> None:
    genes = GENOME.sample(random.Random(0))
    beyond = Past(genes, "done", (9.0, 0.0), {"params": 2.0, "latency_ms": -5.0})
    nearly = Past(genes, "done", (8.0, 0.0), {"params": 1.0, "latency_ms": 0.5})
    dominated = Past(genes, "done", (1.0, 2.0), {"params": -1.0, "latency_ms": 0.0})
    best = Past(genes, "done", (2.0, 1.0), {"params": -1.0, "latency_ms": 0.0})
    failed = Past(genes, "failed")
    history = [beyond, nearly, dominated, failed, best]
    assert parents(history, ("maximize", "minimize"), n=9) == [best, dominated, nearly, beyond]
    assert excess(nearly) == 1.5


def test_children_differ_from_their_parent_and_stay_in_the_space() -> None:
    rng = random.Random(0)
    pool = [Past(GENOME.sample(rng), "done", (0.0, 0.0), {}) for _ in range(3)]
    for _ in range(200):
        born = child(GENOME, pool[:1], rng)
        assert born != pool[0].genes
        assert all(gene.holds(born[gene.name]) for gene in GENOME.genes)
