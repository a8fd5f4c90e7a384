"""A causal FIT decodes token by token as it runs all at once, whatever mixers stand on its two streams."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fit_cases import FIT, IDS, compiled
from torch import nn

import compiler
from archspec import MixerConfig, Site
from archspec.spec import FitBlock, ModelSpec
from compiler import CompiledModel, compile_spec
from compiler.cost.closed_form import model_cost, total
from compiler.cost.fvcore_check import count_macs
from compiler.decode import DecodeState
from zoo import load_zoo

SpecMaker = Callable[..., ModelSpec]
N_POSITIONS = 6  # of a group, of which there are four

MIXERS = {
    "attention": "{kind: attention, n_heads: 2, n_kv_heads: 1, d_conv: 3}",
    "mamba2": "{kind: mamba2, d_head: 4, d_state: 8}",
    "window": "{kind: attention, n_heads: 2, window: 3}",
    "combiner": "{kind: combiner, n_heads: 2, span: 3}",
    "routing": "{kind: routing, n_heads: 2, n_clusters: 2, cluster_window: 2, window: 2}",
    "pool": "pool",
    "parallel": "{parallel: [{kind: attention, n_heads: 2}, {kind: mamba2, d_head: 4, d_state: 8}], combine: gated}",
}
BORDERS = (0, 1, 5, 6, 7, 11, 12, 13, 24)  # inside a group, at its end and past it


def on_both(mixer: str) -> list[str]:
    return [f"layers[0].fit.{stream}.token_mixer={MIXERS[mixer]}" for stream in ("local", "global")]


def expect_steps_equal_the_forward_pass(model: CompiledModel, n_prefilled: int) -> None:
    decoder = model.decoder()
    state = decoder.init_state(len(IDS))
    rows = []
    with torch.no_grad():
        if n_prefilled:
            logits, state = decoder.prefill(IDS[:, :n_prefilled], state)
            rows += logits.unbind(1)
        for t in range(n_prefilled, IDS.shape[1]):
            logits, state = decoder.step(IDS[:, t], state)
            rows.append(logits)
        torch.testing.assert_close(torch.stack(rows, dim=1), model(IDS), rtol=0, atol=1e-10)
    assert int(state.position) == state.n_seen == 24


@pytest.mark.parametrize("n_prefilled", BORDERS)
@pytest.mark.parametrize("mixer", ["attention", "mamba2"])
def test_steps_equal_the_forward_pass(make_spec: SpecMaker, mixer: str, n_prefilled: int) -> None:
    expect_steps_equal_the_forward_pass(compiled(make_spec(FIT, *on_both(mixer))), n_prefilled)


@pytest.mark.parametrize("mixer", sorted(set(MIXERS) - {"attention", "mamba2"}))
@pytest.mark.parametrize("n_prefilled", [0, 8])
def test_other_mixers_decode_on_both_streams(make_spec: SpecMaker, mixer: str, n_prefilled: int) -> None:
    expect_steps_equal_the_forward_pass(compiled(make_spec(FIT, *on_both(mixer))), n_prefilled)


OTHERS = {
    "between token mixers": "- {token_mixer: {kind: mamba2, d_head: 8}}\n" + FIT + "- {token_mixer: attention}",
    "turns of a loop": "- loop: 2\n  layers:" + FIT.replace("\n", "\n    "),
    "groups of two lengths": FIT + FIT.replace("n_groups: 4", "n_groups: 3").replace("n_latents: 2", "n_latents: 3"),
    "local layers alone": FIT.replace("(1)1(2)2(1)", "(2)"),
    "no local layers": FIT.replace("(1)1(2)2(1)", "(0)1(0)2(0)"),
    "one latent": FIT.replace("n_latents: 2", "n_latents: 1"),
    "groups of one": FIT.replace("n_groups: 4", "n_groups: 24"),
    "one group": FIT.replace("n_groups: 4", "n_groups: 1"),
    "routed reads and writes": FIT
    + "    read: {kind: routed_read, n_heads: 2, n_clusters: 3, cluster_window: 3}\n"
    + "    write: {kind: routed_read, n_heads: 2, n_clusters: 2, cluster_window: 1}\n",
    "routed reads alone": FIT + "    read: {kind: routed_read, n_heads: 2, n_clusters: 2, cluster_window: 2}\n",
    "a mixer after exchanges": FIT + "    exchange_mixer: mlp\n",
    "fixed positions": FIT.replace("learned", "sin_cos") + "    latent_positions: sin_cos\n",
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("n_prefilled", [0, 1, 13])
def test_blocks_of_every_form_decode(make_spec: SpecMaker, case: str, n_prefilled: int) -> None:
    expect_steps_equal_the_forward_pass(compiled(make_spec(OTHERS[case])), n_prefilled)


def decoding_examples() -> list[tuple[str, MixerConfig]]:
    """Every example of the zoo's token mixers that decodes and can stand on both streams."""
    sites = Site(32, N_POSITIONS, causal=True), Site(32, 8, causal=True, block=2)
    found = []
    for kind, cls in sorted(load_zoo().classes["token_mixer"].items()):
        for number, config in enumerate(cls.examples):
            can = config.capabilities()
            fits = all(config.misfit(site) is None for site in sites)
            if can.decode != "none" and can.causal != "never" and fits and isinstance(config, MixerConfig):
                found.append((f"{kind}-{number}", config))
    return found


EXAMPLES = dict(decoding_examples())


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_mixer_of_the_zoo_that_decodes_does_so_on_both_streams(make_spec: SpecMaker, name: str) -> None:
    spec = make_spec(FIT, "d_model=32", "layers[0].fit.d_latent=32")
    (entry,) = spec.layers
    assert isinstance(entry, FitBlock)
    mixed = {
        stream: layer.model_copy(update={"token_mixer": EXAMPLES[name]})
        for stream, layer in (("local", entry.fit.local), ("global_", entry.fit.global_))
    }
    block = entry.model_copy(update={"fit": entry.fit.model_copy(update=mixed)})
    model = compiled(spec.model_copy(update={"layers": (block,)}))
    expect_steps_equal_the_forward_pass(model, 8)


def test_the_zoos_causal_mixers_are_among_them() -> None:
    kinds = {name.partition("-")[0] for name in EXAMPLES}
    assert kinds >= {"attention", "combiner", "mamba2", "none", "pool", "routing"}


def test_a_step_past_the_last_group_says_so(make_spec: SpecMaker) -> None:
    decoder = compiled(make_spec(FIT)).decoder()
    _, state = decoder.prefill(IDS, decoder.init_state(2))
    with pytest.raises(ValueError, match="length 25 is past the 24 positions"):
        decoder.step(IDS[:, 0], state)
    with pytest.raises(ValueError, match="length 25 is past the 24 positions"):
        decoder.prefill(torch.zeros(1, 25, dtype=torch.long), decoder.init_state(1))


def held(state: DecodeState) -> int:
    return sum(x.numel() * x.element_size() for node in state.nodes.values() for x in node.values())


CASES = {**{mixer: (FIT, mixer) for mixer in MIXERS}, **{case: (OTHERS[case], "") for case in OTHERS}}


@pytest.mark.parametrize("case", CASES)
def test_state_bytes_are_those_of_the_state(make_spec: SpecMaker, case: str) -> None:
    """By closed form at every length, however the state came about."""
    text, mixer = CASES[case]
    model = compile_spec(make_spec(text, *(on_both(mixer) if mixer else ())), gate=False).eval()
    decoder = model.decoder()
    with torch.no_grad():
        state = decoder.init_state(1)
        for n in range(1, 25):
            _, state = decoder.step(IDS[:1, n - 1], state)
            _, at_once = decoder.prefill(IDS[:1, :n], decoder.init_state(1))
            for cost in (
                total(model_cost(model.graph, seq_len=n).values()),
                total(model_cost(model.graph, phase="decode", context_len=n).values()),
            ):
                said = cost.state_bytes + n * cost.kv_bytes_per_token
                assert (held(state), held(at_once)) == (said, said), f"after {n} tokens"


def test_only_global_layers_grow_with_the_context(make_spec: SpecMaker) -> None:
    """Per token: keys and values of three global layers, for two latents in six tokens, in fp32."""
    found = compiler.profile(make_spec(FIT)).memory
    assert found.kv_bytes_per_token == 3 * 2 * 12 * 4 * 2 // N_POSITIONS


# A span that ends with its group is summarised for nothing, and the tracer drops what nothing reads.
@pytest.mark.parametrize("case", [case for case in CASES if case != "combiner"])
def test_decode_flops_are_those_of_one_step(make_spec: SpecMaker, case: str) -> None:
    text, mixer = CASES[case]
    model = compile_spec(make_spec(text, *(on_both(mixer) if mixer else ())), gate=False).eval()
    decoder = model.decoder()

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = model.module  # the tracer wants to know them

        def forward(self, token: torch.Tensor) -> torch.Tensor:
            logits, after = decoder.step(token, state)
            held = (x.sum() for node in after.nodes.values() for x in node.values())
            return logits + sum(held)  # the tracer drops what the output does not depend on

    for n in (1, 5, 6, 11, 16, 23):  # the next token is inside a group, completes one, or begins one
        with torch.no_grad():
            _, state = decoder.prefill(IDS[:, :n], decoder.init_state(2))
        costs = model_cost(model.graph, batch_size=2, phase="decode", context_len=n)
        assert total(costs.values()).flops == 2 * count_macs(Step(), (IDS[:, n],)).macs, f"after {n} tokens"
