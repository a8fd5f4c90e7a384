"""The headline studies compare what they say: every variant by name, of one size, over seeds, trained alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.candidates import SpecEvaluator
from search.load import LoadedStudy, load_study
from search.start import make_evaluator

STUDIES = sorted((Path(__file__).parents[2] / "specs" / "studies").glob("headline_*.yaml"))
SMALLER = {"local_2"}  # as many local layers as one_round has; local_4 is the one of its size
each_study = pytest.mark.parametrize("path", STUDIES, ids=[path.stem for path in STUDIES])


def opened(path: Path, out: Path) -> tuple[LoadedStudy, SpecEvaluator]:
    loaded = load_study(path)
    return loaded, make_evaluator(loaded, loaded.study, out, n_workers=1)


def test_there_is_a_study_for_each_of_the_four() -> None:
    assert [path.stem.removeprefix("headline_") for path in STUDIES] == [
        "combiner",
        "fit",
        "quasi",
        "routing",
    ]


@each_study
def test_the_baselines_are_the_whole_space(path: Path, tmp_path: Path) -> None:
    loaded, evaluator = opened(path, tmp_path)
    space = {evaluator.candidate(genes).hash for genes in evaluator.enumerate()}
    assert {candidate.hash for candidate in evaluator.baselines()} == space
    assert len(space) == len(loaded.study.baselines) > 1


@each_study
def test_all_are_trained_alike_with_three_seeds(path: Path, tmp_path: Path) -> None:
    loaded, evaluator = opened(path, tmp_path)
    assert len(loaded.recipe.learning_rates) == 1
    for candidate in evaluator.baselines():
        assert {need.key.seed for need in evaluator.training(candidate)} == {0, 1, 2}


@each_study
def test_what_is_compared_is_of_one_size(path: Path, tmp_path: Path) -> None:
    _, evaluator = opened(path, tmp_path)
    params = [c.costs["params"] for c in evaluator.baselines() if c.baseline not in SMALLER]
    assert max(params) < 1.1 * min(params)
