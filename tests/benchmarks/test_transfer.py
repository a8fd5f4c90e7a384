"""The arithmetic of the transfer audit, on made data."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
transfer_stats = pytest.importorskip("transfer_stats")
transfer_report = pytest.importorskip("transfer_report")


def test_tau_counts_pairs():
    assert transfer_stats.kendall_tau([1, 2, 3, 4], [1, 2, 3, 4]) == pytest.approx(1)
    assert transfer_stats.kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert transfer_stats.kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)


def test_tau_with_ties_is_tau_b():
    # 4 concordant, 1 discordant, one pair tied in the first: (4 - 1) / sqrt(5 * 6)
    assert transfer_stats.kendall_tau([1, 1, 2, 3], [1, 2, 4, 3]) == pytest.approx(3 / np.sqrt(30))


def test_interval_narrows_with_models_and_holds_the_tau():
    rng = np.random.default_rng(1)
    widths = []
    for n in (12, 60):
        a = rng.normal(size=n)
        b = a + rng.normal(size=n)
        low, high = transfer_stats.tau_interval(a, b, n=400)
        assert low < transfer_stats.kendall_tau(a, b) < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_regret_of_each_rule():
    found = transfer_stats.regret([3.0, 1.0, 2.0], [10, 30, 20], [2.0, 2.5, 1.5])
    assert found.by_small == pytest.approx(1.0)
    assert found.by_params == pytest.approx(1.0)
    assert found.at_random == pytest.approx(0.5)
    assert transfer_stats.regret([3.0, 2.0, 1.0], [10, 30, 20], [2.0, 2.5, 1.5]).by_small == 0


def test_repeated_is_where_the_gram_stood_before():
    rows = torch.tensor([list(b"abcdeXabcdeY"), list(b"qwertyuiopas")])
    found = transfer_stats.repeated(rows, n_before=4)
    assert found.shape == (2, 11)
    assert found.nonzero().tolist() == [[0, 9]]  # the second "abcde" ends at byte 10: the target of place 9


@pytest.mark.parametrize("n_before", [1, 2, 4])
def test_repeated_equals_a_plain_search(n_before):
    row = torch.randint(3, (1, 40), generator=torch.Generator().manual_seed(0))
    text = row[0].tolist()
    n = n_before + 1
    grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    wanted = [False] * (n_before - 1) + [gram in grams[:i] for i, gram in enumerate(grams)]
    assert transfer_stats.repeated(row, n_before)[0].tolist() == wanted


@pytest.mark.parametrize(
    ("low", "params", "regrets", "said"),
    [
        (0.2, 0.3, (0.0, 0.1), "can be believed"),
        (0.2, 0.8, (0.0, 0.1), "did not beat"),
        (0.2, 0.3, (0.2, 0.1), "did not beat"),
        (-0.1, 0.3, (0.0, 0.1), "cannot be believed"),
    ],
)
def test_verdict_says_what_the_figures_say(low, params, regrets, said):
    taus = {
        "small loss": {"tau": 0.5, "interval_95": (low, 0.9)},
        "params": {"tau": params},
        "FLOPs": {"tau": 0.1},
    }
    by = {"by_small": regrets[0], "by_params": regrets[1], "at_random": 0.3}
    assert said in transfer_report.verdict(taus, {"tau": 0.8}, by)


def test_no_ceiling_is_made_of_one_seed():
    rows = [{"test_loss_by_seed": [float(i)]} for i in range(5)]
    assert transfer_report._ceiling(rows) is None
    rows = [{"test_loss_by_seed": [float(i), float(-i)]} for i in range(5)]
    assert transfer_report._ceiling(rows)["tau"] == pytest.approx(-1)


def test_models_are_compared_on_the_seeds_they_all_have():
    rows = [{"name": "a", "seed": 0}, {"name": "a", "seed": 1}, {"name": "b", "seed": 0}]
    assert transfer_report.common_seeds(rows) == {0}
    assert transfer_report.common_seeds([*rows, {"name": "b", "seed": 1}]) == {0, 1}
