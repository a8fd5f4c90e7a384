"""Shrunk twins: they compile, are smaller, and keep the mixers in order; a study scores by them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from archspec import ModelSpec, SpecError
from archspec.proxy import Proxy, Shrink
from archspec.source import load_source, parse_source
from compiler import build_graph, load_spec, resolve
from compiler.profiling import closed_profile
from search.candidates import SpecEvaluator
from search.driver import search
from search.evaluate import Candidate
from search.executors import Completion, Job
from search.handlers import handlers
from search.layers import layer_pairs
from search.load import load_study
from search.shrink import shrink
from search.start import make_evaluator
from zoo import load_zoo

SPECS = Path(__file__).parents[2] / "specs"
HYBRIDS = sorted((SPECS / "hybrids").glob("*.yaml"))
SPACE = """\
archspec: 1
input: {kind: tokens, vocab_size: 32, seq_len: 32}
causal: true
d_model: {choice: [64, 65]}
stem: embedding
layers:
  - token_mixer: {kind: attention, n_heads: 2, d_head: {choice: [8, 10]}}
    channel_mixer: {kind: swiglu, d_ff: 64}
head: {kind: lm, tied: true}
"""
STUDY = """\
archspec: 1
study: full_size
space: space.yaml
tasks: [{kind: parity, length: 16}]
objectives: {score: maximize, params: minimize}
recipe: {learning_rates: [1.0e-3], steps: 2, curve_points: 1, batch_size: 4, final_examples: 8}
"""
PROXY = "proxy: {shrink: {d_model: 1/4}, seq_len: 1/2}\n"


def params(spec: ModelSpec) -> int:
    graph = build_graph(spec)
    return closed_profile(
        graph, seq_len=spec.input.seq_len, batch_size=1, dtype="float32", phase="prefill"
    ).params


def proxy(**shares: str) -> Proxy:
    return Proxy(seq_len=shares.pop("seq_len", "keep"), shrink=Shrink(**shares))


@pytest.mark.parametrize("file", HYBRIDS, ids=lambda file: file.stem)
def test_hybrids_shrink_in_width_and_keep_their_mixers(file: Path) -> None:
    spec = load_spec(file)
    twin = shrink(spec, proxy(d_model="1/4"), load_zoo())
    assert layer_pairs(twin) == layer_pairs(spec)
    assert params(twin) < params(spec) / 4
    assert twin.d_model < spec.d_model / 2


@pytest.mark.parametrize("file", HYBRIDS, ids=lambda file: file.stem)
def test_hybrids_shrink_in_length_or_say_where_they_cannot(file: Path) -> None:
    spec = load_spec(file)
    try:
        twin = shrink(spec, proxy(seq_len="1/4"), load_zoo())
    except SpecError as error:
        assert spec.input.kind == "image"
        assert "no seq_len" in error.problems[0].message
        assert error.problems[0].line is not None
    else:
        assert twin.input.seq_len == spec.input.seq_len // 4
        assert layer_pairs(twin) == layer_pairs(spec)


def test_share_one_is_the_spec_itself() -> None:
    spec = load_spec(HYBRIDS[0])
    unchanged = Proxy.model_construct(shrink=Shrink(), seq_len="1")
    assert shrink(spec, unchanged, load_zoo()) is spec
    with pytest.raises(ValueError, match="shrinks nothing"):
        proxy()


def test_fewer_layers_keep_the_ratio_and_the_order() -> None:
    text = SPACE.replace("{choice: [64, 65]}", "64").split("layers:")[0] + (
        "layers:\n  - {pattern: MMMAMMMA, symbols: {M: pool, A: {kind: attention, n_heads: 2}}}\n"
        "head: {kind: lm, tied: true}\n"
    )
    spec = resolve(parse_source(text), load_zoo())
    twin = shrink(spec, proxy(n_layers="1/2"), load_zoo())
    assert [pair[0] for pair in layer_pairs(twin)] == ["pool", "pool", "attention", "pool"]


def test_a_width_that_heads_forbid_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(
        "archspec: 1\ninput: {kind: tokens, vocab_size: 32, seq_len: 32}\ncausal: true\nd_model: 32\n"
        "stem: embedding\nlayers: [{token_mixer: {kind: attention, n_heads: 16}}]\nhead: lm\n"
    )
    with pytest.raises(SpecError, match="multiples of 32 only") as caught:
        shrink(resolve(load_source(file), load_zoo()), proxy(d_model="1/4"), load_zoo())
    assert caught.value.problems[0].line == 4


def test_candidates_cost_their_full_spec_and_train_their_twin(tmp_path: Path) -> None:
    full, small = (_candidates(tmp_path / name, more) for name, more in (("a", ""), ("b", PROXY)))
    evaluator, candidates = small
    assert [c.hash for c in candidates] == [c.hash for c in full[1]]
    assert [c.costs for c in candidates] == [c.costs for c in full[1]]
    (need,) = evaluator.training(candidates[0])
    twin = resolve(parse_source(need.job.payload["spec"]), load_zoo())
    assert (twin.d_model, twin.input.seq_len) == (16, 16)
    assert need.job.payload["task"]["length"] == 8
    assert need.key.spec == candidates[0].payload["twin"]["hash"] != candidates[0].hash
    text = evaluator.dump(candidates[0], comment="front")
    assert resolve(parse_source(text), load_zoo()).d_model == 64
    assert f"shrunk twin, which has {params(twin):,} parameters" in text


def test_two_candidates_with_one_twin_share_the_training(tmp_path: Path) -> None:
    evaluator, candidates = _candidates(tmp_path, PROXY)
    a, b = candidates[0], candidates[1]  # d_head 8 and 10: both 2 at a quarter
    assert a.hash != b.hash
    assert evaluator.training(a)[0].key == evaluator.training(b)[0].key
    assert evaluator.identity().values != _candidates(tmp_path / "c", "")[0].identity().values


def _candidates(folder: Path, more: str) -> tuple[SpecEvaluator, list[Candidate]]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.yaml").write_text(SPACE.replace("{choice: [64, 65]}", "64"))
    (folder / "study.yaml").write_text(STUDY + more)
    loaded = load_study(folder / "study.yaml")
    evaluator = make_evaluator(loaded, loaded.study, folder / "out", n_workers=1)
    return evaluator, [evaluator.candidate(genes) for genes in evaluator.enumerate()]


def test_a_search_trains_a_shared_twin_once_and_says_whose_scores_they_are(tmp_path: Path) -> None:
    _candidates(tmp_path, PROXY + "trials: 2\nproposer: random\n")
    loaded = load_study(tmp_path / "study.yaml")
    out = tmp_path / "out"
    evaluator = make_evaluator(loaded, loaded.study, out, n_workers=1)
    executor = Counting()
    result = search(loaded.study, evaluator, out, make_executor=lambda _: executor)
    done = [row for row in result.rows if row.status == "done"]
    assert len(done) == 2
    assert executor.trained == 1
    assert "shrunk twin of 1,584 parameters" in result.verdict.sentence


def test_a_twin_climbs_rungs_of_its_own(tmp_path: Path) -> None:
    """Each rung trains less than the twin; costs stay those of the full spec."""
    rungs = "fidelity: {rungs: [{steps: 1/2, width: 1/2}, full], promote: 1/2, audit: 0}\n"
    evaluator, candidates = _candidates(tmp_path, PROXY + rungs + "trials: 2\nbatch: 2\nproposer: random\n")
    loaded = load_study(tmp_path / "study.yaml")
    executor = Counting()
    result = search(loaded.study, evaluator, tmp_path / "out", make_executor=lambda _: executor)
    twins = {params(resolve(parse_source(payload["spec"]), load_zoo())) for payload in executor.payloads}
    assert {row.status for row in result.rows} >= {"done", "dropped"}
    assert len(twins) > 1, "the lower rung has narrower ones"
    assert min(twins) < 1_584 <= max(twins) < min(row.costs["params"] for row in result.rows if row.costs)
    costs = {candidate.hash: candidate.costs["params"] for candidate in candidates}
    for row in result.trained:
        assert row.costs["params"] == costs[row.hash]


class Counting:
    """Runs a job as it is submitted, but says so only when asked: two wanted at once are in flight at once."""

    n_workers = 2

    def __init__(self) -> None:
        self.trained = 0
        self.payloads: list[Mapping[str, Any]] = []  # of trainings
        self._handlers = handlers(threads=1, plugins=())
        self._waiting: list[Job] = []

    def submit(self, job: Job) -> None:
        if job.do == "train":
            self.trained += 1
            self.payloads.append(job.payload)
        self._waiting.append(job)

    def wait(self, timeout_s: float) -> list[Completion]:
        jobs, self._waiting = self._waiting, []
        return [Completion(job, "done", self._handlers[job.do](job.payload)) for job in jobs]

    def cancel_all(self) -> None:
        self._waiting.clear()

    def close(self) -> None:
        assert not self._waiting
