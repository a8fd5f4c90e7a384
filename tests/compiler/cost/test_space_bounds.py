"""Ranges of a space against every member built, one by one; verdicts on budgets; the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from archspec import SpecError
from archspec.commands import command_line
from archspec.quantities import Budget
from archspec.source import load_source, parse_source
from archspec.space import Space
from compiler.cost import space_parts
from compiler.cost.asking import Asking, quantities
from compiler.cost.space_bounds import ADDITIVE, PEAKS, SpaceBounds, _with_cacheless
from compiler.cost.space_parts import NOT_DECODING
from compiler.cost.space_sums import Extremes, added, best
from zoo import load_zoo

SPACES = Path(__file__).parents[3] / "specs" / "spaces"
HEAD = """
archspec: 1
input: {kind: tokens, vocab_size: 13, seq_len: {choice: [8, 16]}}
causal: true
d_model: {choice: [8, 16]}
stem: embedding
head: {kind: lm, tied: true}
"""
TEXTS = {
    "slots": """
layers:
  - token_mixer: {choice: [{kind: attention, n_heads: 2, window: {choice: [2, 8]}}, pool, none]}
    channel_mixer: {choice: [{kind: mlp, d_ff: {int: [4, 12], step: 4}}, none]}
  - {token_mixer: {choice: [pool, {kind: mamba2, d_state: 4, d_head: 4, d_conv: 2}]}, channel_mixer: none}
""",
    "blocks": """
layers:
  - repeat: {choice: [1, 3]}
    layers:
      - {token_mixer: {choice: [pool, {kind: attention, n_heads: 2}]}, channel_mixer: none, norm: {choice: [rmsnorm, layernorm]}}
      - choice:
          looped: {loop: {choice: [2, 3]}, layers: [{token_mixer: {choice: [pool, {kind: attention, n_heads: 2}]}}]}
          plain: {channel_mixer: {kind: mlp, d_ff: {choice: [4, 8]}}}
  - choice:
      fit: {fit: {n_groups: {choice: [2, 4]}, n_latents: 2, d_latent: 8, schedule: "(1)1(1)", local: {token_mixer: pool}, global: {token_mixer: pool}}}
      layer: {token_mixer: pool}
""",
    "shared": """
layers:
  - {token_mixer: {kind: mamba2, d_state: 4, d_conv: 2, d_head: {choice: [1, 8], share: size}}, channel_mixer: none}
  - {channel_mixer: {kind: mlp, d_ff: {choice: [1, 8], share: size}}}
  - {token_mixer: {kind: attention, n_heads: {choice: [1, 2], share: heads}}, channel_mixer: {kind: mlp, d_ff: {choice: [4, 32], share: width}}}
  - {token_mixer: {kind: attention, n_heads: {share: heads}, window: {choice: [2, 3]}}, channel_mixer: {kind: mlp, d_ff: {share: width}}}
""",
    "invalid": """
layers:
  - {token_mixer: {kind: attention, n_heads: {choice: [1, 3, 5, 16]}}, channel_mixer: {choice: [mlp, none]}}
  - {token_mixer: {choice: [pool, {kind: attention, n_heads: 4, window: 3}]}, channel_mixer: none}
""",
    "encoder": """
encoder:
  input: {kind: tokens, vocab_size: 7, seq_len: 8}
  stem: {kind: embedding, positions: learned}
  layers: [{token_mixer: {choice: [{kind: attention, n_heads: 2}, pool]}}]
layers:
  - {token_mixer: {kind: attention, n_heads: 2}, cross: {kind: attention, n_heads: {choice: [2, 4]}}, channel_mixer: {choice: [mlp, none]}}
""",
}  # fmt: skip


def space_of(name: str) -> Space:
    text = HEAD + TEXTS[name]
    if name == "blocks":
        text = text.replace("{choice: [8, 16]}", "8")
    if name == "slots":
        text = text.replace("causal: true", "causal: {choice: [true, false]}")
    return Space(parse_source(text))


@cache
def members(name: str, asking: Asking) -> tuple[tuple[dict[str, Any], dict[str, int]], ...]:
    """Genes and costs of every valid filling."""
    return tuple(_members(space_of(name), asking))


def _members(space: Space, asking: Asking) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    zoo = load_zoo()
    for genes in space.enumerate():
        try:
            profile = asking.profile(space.spec(genes, zoo.components), zoo)
        except SpecError:
            continue
        yield {gene: genes[gene] for gene in space.active(genes)}, quantities(profile)


ASKED = {
    "prefill": Asking(),
    "decode": Asking(phase="decode", seq_len=8),
    "train": Asking(batch_size=3, dtype="bfloat16", phase="train"),
}


@pytest.mark.parametrize("phase", ASKED)
@pytest.mark.parametrize("name", TEXTS)
def test_the_ends_are_those_of_all_members(name: str, phase: str) -> None:
    asking = ASKED[phase]
    found = SpaceBounds(space_of(name), asking, zoo=load_zoo()).ranges()
    assert found.keys() == {*ADDITIVE, *PEAKS}
    costs = [costs for _, costs in members(name, asking)]
    assert costs
    for quantity in ADDITIVE:
        least, most = min(cost[quantity] for cost in costs), max(cost[quantity] for cost in costs)
        ends = found[quantity]
        assert (ends.least.value, ends.most.value) == (least, most), quantity
        assert (ends.least.sure, ends.most.sure) == ("exact", "exact"), quantity
    for quantity in PEAKS:
        least, most = min(cost[quantity] for cost in costs), max(cost[quantity] for cost in costs)
        ends = found[quantity]
        assert ends.least.value <= least <= (ends.least.seen or 0), quantity
        assert ends.most.value == ends.most.seen <= most, quantity
        assert ends.most.sure == "seen"
        assert ends.least.sure == ("exact" if ends.least.value == ends.least.seen else "bound")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("quantity", ["params", "flops", "state_bytes", "inference_peak", "train_peak"])
def test_options_that_no_budget_allows(name: str, quantity: str) -> None:
    """Every option that is ruled out is; of sums, every one that can be ruled out is."""
    asking = ASKED["prefill"]
    all_members = members(name, asking)
    values = sorted(costs[quantity] for _, costs in all_members)
    limit = values[len(values) // 8]
    bounds = SpaceBounds(space_of(name), asking, zoo=load_zoo())
    budget = Budget.model_validate({"quantity": quantity, "text": f"<= {limit}"})
    verdict = bounds.verdict(budget, bounds.ranges())
    told = {(gene, repr(value)) for gene, value, _ in verdict.never_with}
    best: dict[tuple[str, str], int] = {}
    for genes, costs in all_members:
        for gene, value in genes.items():
            option = (gene, repr(value))
            best[option] = min(best.get(option, costs[quantity]), costs[quantity])
    out = {option for option, least in best.items() if least > limit}
    assert told <= out
    if quantity in ADDITIVE:
        inside = {o for o in out if any((gene, repr(v)) in out for gene, v in _requires(bounds.space, o[0]))}
        assert told == out - inside
        assert verdict.answer == "possible"


def _requires(space: Space, gene: str) -> tuple[tuple[str, Any], ...]:
    return space.by_gene[gene].requires


def test_verdicts() -> None:
    bounds = SpaceBounds(space_of("slots"), Asking(), zoo=load_zoo())
    ranges = bounds.ranges()

    def answer(quantity: str, text: str) -> str:
        budget = Budget.model_validate({"quantity": quantity, "text": text})
        return bounds.verdict(budget, ranges).answer

    least, most = ranges["params"].least.value, ranges["params"].most.value
    assert answer("params", f"<= {least}") == "possible"
    assert answer("params", f"<= {least - 1}") == "never"
    assert answer("params", f">= {most}") == "possible"
    assert answer("params", f">= {most + 1}") == "never"
    peak = ranges["train_peak"]
    assert answer("train_peak", f"<= {peak.least.value - 1}") == "never"
    assert answer("train_peak", f"<= {peak.least.seen}") == "possible"
    assert answer("train_peak", f">= {peak.most.value + 1}") == "undecided"  # seen is no proof
    assert answer("latency_ms", "<= 3") == "not a closed form"


def test_one_part_that_does_not_decode_leaves_a_model_without_caches() -> None:
    """No causal mixer of ours is such a part; a plug-in's may be."""
    decoding = {"kv_bytes_per_token": 8, "state_bytes": 4, NOT_DECODING: 0}
    other = {"kv_bytes_per_token": 0, "state_bytes": 0, NOT_DECODING: 1}
    slot = best([Extremes.of(decoding, {"a": 1}, 0), Extremes.of(other, {"a": 2}, 0)])
    found = added([Extremes.of(decoding, {}, 0), slot])
    assert found is not None
    assert found.least["state_bytes"][0] == 4
    assert _with_cacheless(found).least["state_bytes"] == (0, {"a": 2})
    assert _with_cacheless(found).most["state_bytes"][0] == 8
    assert _with_cacheless(Extremes.of(decoding, {}, 0)).least["state_bytes"][0] == 4


def test_long_ranges_are_looked_at_by_their_ends() -> None:
    text = HEAD.replace("d_model: {choice: [8, 16]}", "d_model: 8") + (
        "layers: [{channel_mixer: {kind: mlp, d_ff: {int: [1, 100000], log: true}}}]"
    )
    bounds = SpaceBounds(Space(parse_source(text)), Asking(), zoo=load_zoo())
    ranges = bounds.ranges()
    assert bounds.parts.assumed == {"layers[0].channel_mixer.d_ff"}
    assert ranges["params"].least.sure == ranges["params"].most.sure == "bound"
    assert ranges["params"].most.value > 100_000 * 8


@pytest.mark.parametrize("name", ["causal_hybrids", "demo"])
def test_shipped_spaces_have_few_parts(name: str) -> None:
    bounds = SpaceBounds(Space(load_source(SPACES / f"{name}.yaml")), Asking(), zoo=load_zoo())
    ranges = bounds.ranges()
    assert bounds.parts.n_models < 200
    assert all(ranges[quantity].least.sure == "exact" for quantity in ADDITIVE)


def test_a_large_space_with_an_encoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_parts, "MAX_JOINED", 15)
    with pytest.raises(SpecError, match="built whole, and has more than 15"):
        SpaceBounds(space_of("encoder"), Asking(), zoo=load_zoo()).ranges()


def test_too_many_parts_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_parts, "MAX_MODELS", 5)
    with pytest.raises(SpecError, match="need more than 5 models"):
        SpaceBounds(space_of("slots"), Asking(), zoo=load_zoo()).ranges()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command_line(), ["profile", *map(str, arguments)])


def test_the_command_prints_ranges_and_verdicts() -> None:
    space = SPACES / "demo.yaml"
    done = run(space, "--json", "--budget", "params<=20k", "--budget", "train_peak >= 1 MiB")
    document = json.loads(done.stdout)
    assert done.exit_code == 0
    assert document["ranges"]["params"]["least"]["sure"] == "exact"
    assert document["budgets"][0]["answer"] == "possible"
    assert document["budgets"][0]["never_with"]
    assert document["feasible"] is True
    refused = run(space, "--budget", "params<=10k")
    assert refused.exit_code == 1
    assert "no member can keep it" in refused.stdout


def test_a_study_brings_its_budgets_and_target() -> None:
    document = json.loads(run(SPACES.parent / "studies" / "demo.yaml", "--json").stdout)
    assert [row["quantity"] for row in document["budgets"]] == ["params", "inference_peak"]
    assert document["seq_len"] == 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seq-len", 129], "no candidate of this space can be built: seq_len 129 is not in 1..128"),
        (["--seq-len", 0], "seq_len 0 is not at least 1"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--budget", "prams<=3"], "unknown quantity 'prams'"),
        (["--budget", "params=3"], "a budget is QUANTITY<=NUMBER"),
        (["--measure"], "are for one model"),
        (["--set", "layers[0].token_mixer={kind: attention, n_heads: 5}"], "no candidate of this space"),
    ],
)
def test_a_space_that_cannot_be_profiled_is_one_message(arguments: list[object], message: str) -> None:
    error = run(SPACES / "demo.yaml", *arguments).exception
    assert isinstance(error, SpecError)
    assert message in str(error)
