"""Token-by-token decoding equals the forward pass, and models that cannot decode say which part cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from archspec import Capabilities, Cost, CostContext, MixerConfig, SpecError
from archspec.spec import ModelSpec
from compiler import CompiledModel, compile_spec
from zoo import Zoo
from zoo.causality import randomised
from zoo.contract import Mixer

SpecMaker = Callable[..., ModelSpec]

HYBRID = """
- {token_mixer: attention, channel_mixer: swiglu}
- {token_mixer: {parallel: [{kind: attention, window: 4}, {kind: mamba2, d_head: 16}], combine: concat}}
- {token_mixer: {kind: routing, n_clusters: 3, cluster_window: 6, window: 5}}
- {token_mixer: {kind: combiner, span: 5}}
- {token_mixer: {kind: matrix, structure: toeplitz, d_head: 8}}
- {token_mixer: {kind: matrix, structure: low_rank, data_dependent: false, max_len: 24, d_head: 8, d_qk: 3}}
- loop: 2
  layers: [{token_mixer: {kind: mamba2, d_head: 8}, channel_mixer: mlp, residual: post, norm: layernorm}]
"""


def compiled(spec: ModelSpec) -> CompiledModel:
    model = compile_spec(spec, gate=False)
    model.module = randomised(model.module, 0)  # type: ignore[assignment]
    return model.eval()


@pytest.mark.parametrize("n_prefilled", [0, 1, 7, 20])
@pytest.mark.parametrize("head", ["lm", "{kind: lm, tied: true}"])
def test_steps_equal_the_forward_pass(make_spec: SpecMaker, n_prefilled: int, head: str) -> None:
    model = compiled(make_spec(HYBRID, f"head={head}", "stem={kind: embedding, positions: learned}"))
    ids = torch.randint(31, (3, 20))
    decoder = model.decoder()
    state = decoder.init_state(3)
    with torch.no_grad():
        rows = []
        if n_prefilled:
            logits, state = decoder.prefill(ids[:, :n_prefilled], state)
            rows += logits.unbind(1)
        for t in range(n_prefilled, 20):
            logits, state = decoder.step(ids[:, t], state)
            rows.append(logits)
        torch.testing.assert_close(torch.stack(rows, dim=1), model(ids), rtol=0, atol=1e-10)
    assert state.position == 20


def test_a_head_on_the_last_position_follows_the_stream(make_spec: SpecMaker) -> None:
    head = "{kind: classifier, n_classes: 3, pool: last}"
    features = ("input={kind: features, d_input: 3, seq_len: 24}", "stem=linear")
    model = compiled(make_spec("- {token_mixer: attention}", f"head={head}", *features))
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    decoder = model.decoder()
    first, state = decoder.prefill(x[:, :4], decoder.init_state(2))
    torch.testing.assert_close(first, model(x[:, :4]), rtol=0, atol=1e-10)
    for t in (4, 5):
        y, state = decoder.step(x[:, t], state)
        torch.testing.assert_close(y, model(x[:, : t + 1]), rtol=0, atol=1e-10)


def test_each_turn_of_a_loop_has_its_own_state(make_spec: SpecMaker) -> None:
    decoder = compiled(make_spec("- loop: 2\n  layers: [{token_mixer: attention}]")).decoder()
    _, state = decoder.prefill(torch.randint(31, (1, 5)), decoder.init_state(1))
    assert state.nodes.keys() == {"layers.0.token_mixer", "layers.0.token_mixer@2"}
    first, second = (state.nodes[name]["k"] for name in state.nodes)
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_prefill_wants_a_fresh_state(make_spec: SpecMaker) -> None:
    decoder = compiled(make_spec("- {token_mixer: attention}")).decoder()
    _, state = decoder.step(torch.tensor([3]), decoder.init_state(1))
    with pytest.raises(AssertionError, match="fresh"):
        decoder.prefill(torch.tensor([[3]]), state)


FIT = """
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "(1)1(1)"
    local: {token_mixer: attention}
    global: {token_mixer: {kind: attention, n_heads: 2}}
"""


@pytest.mark.parametrize(
    ("layers", "overrides", "path", "says"),
    [
        ("- {token_mixer: attention}", ["causal=false"], "causal", "bidirectional"),
        (FIT, ["causal=false"], "causal", "bidirectional"),
        (
            "- {token_mixer: attention}",
            ["head={kind: classifier, n_classes: 3, pool: mean}"],
            "head",
            "head: 'classifier' has decode: none",
        ),
    ],
    ids=["bidirectional", "fit", "pooling head"],
)
def test_models_that_cannot_decode_name_the_part(
    make_spec: SpecMaker, layers: str, overrides: list[str], path: str, says: str
) -> None:
    model = compile_spec(make_spec(layers, *overrides), gate=False)
    with pytest.raises(SpecError) as caught:
        model.decoder()
    assert caught.value.path == path
    assert says in caught.value.message
    assert caught.value.problems[0].line is not None


class Sum(Mixer):
    """A causal mixer without a step form."""

    class Config(MixerConfig):
        kind: Literal["sum"] = "sum"

        def cost(self, ctx: CostContext) -> Cost:
            return Cost()

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", decode="none")

    config: Config

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x.cumsum(1)

    reference = forward


def test_every_node_that_cannot_decode_is_named(make_spec: SpecMaker, zoo: Zoo) -> None:
    zoo = Zoo({**zoo.classes, "token_mixer": {**zoo.classes["token_mixer"], "sum": Sum}})
    layers = "- {token_mixer: attention}\n- {token_mixer: sum}\n- {token_mixer: {parallel: [attention, sum]}}"
    model = compile_spec(make_spec(layers, zoo=zoo), zoo=zoo)
    with pytest.raises(SpecError) as caught:
        model.decoder()
    assert [(p.path, p.message) for p in caught.value.problems] == [
        ("layers[1].token_mixer", "layers.1.token_mixer: 'sum' has decode: none"),
        ("layers[2].token_mixer.parallel[1]", "layers.2.token_mixer.1: 'sum' has decode: none"),
    ]


@pytest.mark.parametrize("stream", ["local", "global"])
def test_a_fit_block_with_a_mixer_that_cannot_decode_names_it(
    make_spec: SpecMaker, zoo: Zoo, stream: str
) -> None:
    zoo = Zoo({**zoo.classes, "token_mixer": {**zoo.classes["token_mixer"], "sum": Sum}})
    spec = make_spec(FIT, f"layers[0].fit.{stream}.token_mixer=sum", zoo=zoo)
    with pytest.raises(SpecError, match=r"layers\.0\.blocks\.0\.\w+\.0\.token_mixer: 'sum' has decode"):
        compile_spec(spec, zoo=zoo, gate=False).decoder()
