"""Every file under specs/ says why it exists, is accepted, and costs what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compiler
from archspec.source import load_source
from archspec.space import Space
from compiler.random_inputs import random_inputs
from search.load import load_study
from zoo import load_zoo

ROOT = Path(__file__).parents[2]
MODELS = sorted([*ROOT.glob("specs/papers/*.yaml"), *ROOT.glob("specs/hybrids/*.yaml")])
SPACES = sorted(ROOT.glob("specs/spaces/*.yaml"))
STUDIES = sorted(ROOT.glob("specs/studies/*.yaml"))
MOST_PARAMS_BUILT = 30_000_000

FULL, SHORT = "full attention in disguise", "clusters are cut short"
# Published configurations that are what the compiler warns of; their comments say so.
SMELLS = {
    "routing_translate_512": (FULL,),
    "routing_meena_2k": (FULL, SHORT),
    "routing_pubmed_10k": (SHORT,),
    "routing_arxiv_24k": (FULL, SHORT),
}
# Not verified again: at other lengths the parts of another spec, which is.
ALIKE = {f"routing_translate_{length}" for length in ("512", "1k", "2k", "8k")}


def ids(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", [*MODELS, *SPACES, *STUDIES], ids=ids([*MODELS, *SPACES, *STUDIES]))
def test_first_line_is_the_modeline_and_the_first_comment_says_why(path: Path) -> None:
    modeline, comment = path.read_text("utf-8").splitlines()[:2]
    schema = modeline.removeprefix("# yaml-language-server: $schema=")
    assert schema != modeline, "the first line is the modeline"
    assert (path.parent / schema).is_file()
    assert comment.startswith("# ")
    assert len(comment) > 20


@pytest.mark.parametrize("path", MODELS, ids=ids(MODELS))
def test_a_model_builds_a_graph_without_a_smell_and_is_verified(path: Path) -> None:
    spec = compiler.load_spec(path)
    graph = compiler.build_graph(spec)
    for warning in graph.graph["warnings"]:
        assert any(smell in warning.message for smell in SMELLS.get(path.stem, ())), warning
    if path.stem in ALIKE:
        return
    profile = compiler.profile(spec, verify=True)
    assert profile.verify is not None
    assert profile.verify.exact is True
    assert not profile.verify.unknown_ops


@pytest.mark.parametrize("path", MODELS, ids=ids(MODELS))
def test_a_model_that_fits_has_the_parameters_it_says_and_runs(path: Path) -> None:
    spec = compiler.load_spec(path)
    said = compiler.profile(spec).params
    if said > MOST_PARAMS_BUILT:
        return  # test_papers.py counts the large ones on the meta device
    model = compiler.compile_spec(spec, gate=False).eval()
    assert sum(p.numel() for p in model.parameters()) == said
    if spec.input.kind != "tokens":
        return
    inputs = [] if spec.encoder is None else [spec.encoder.input]
    tokens = [random_inputs(i, batch_size=2, seq_len=min(i.seq_len, 64)) for i in (*inputs, spec.input)]
    with torch.no_grad():
        assert torch.isfinite(model(*tokens)).all()


@pytest.mark.parametrize("path", SPACES, ids=ids(SPACES))
def test_every_option_of_a_space_stands_in_a_valid_filling(path: Path) -> None:
    import random

    space = Space(load_source(path))
    components = load_zoo().components
    rng = random.Random(0)
    first = space.sample(rng)
    for hole in space.holes:
        for option in hole.options or ():
            spec = space.spec(first | {hole.gene: option}, components)
            compiler.build_graph(spec)


@pytest.mark.parametrize("path", STUDIES, ids=ids(STUDIES))
def test_a_study_is_accepted_with_its_space_and_its_baselines(path: Path) -> None:
    assert load_study(path).study.study == path.stem
