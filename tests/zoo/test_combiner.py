"""Combiner: what is its own beside the contract of every component."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from archspec import CostContext, Site
from compiler.cost.fvcore_check import count_macs
from zoo.token_mixers.combiner import Combiner

Config = Combiner.Config
CONFIGS = {
    "span_4": Config(n_heads=2, span=4),
    "span_7_biases": Config(n_heads=3, d_head=5, span=7, qkv_bias=True, out_bias=True),
    "span_1": Config(n_heads=2, span=1),
    "one_span": Config(n_heads=1, span=64),
}
SIDES = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def build(config: Config, *, causal: bool, d_model: int = 8) -> Combiner:
    torch.manual_seed(0)
    return Combiner(config, Site(d_model, 64, causal)).double()


def tokens(length: int, *, batch: int = 2, d_model: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, d_model, generator=generator, dtype=torch.float64)


@SIDES
@EACH
@pytest.mark.parametrize("length", [1, 2, 28, 29])
def test_forward_is_reference(config: Config, length: int, causal: bool) -> None:
    mixer, x = build(config, causal=causal), tokens(length)
    mask = torch.arange(length) < torch.tensor([[length], [max(1, length - 9)]])
    torch.testing.assert_close(mixer(x), mixer.reference(x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(mixer(x, mask)[mask], mixer.reference(x, mask)[mask], rtol=1e-12, atol=1e-13)
    gradients = [
        torch.autograd.grad(y.square().sum(), list(mixer.parameters()))
        for y in (mixer(x), mixer.reference(x))
    ]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@EACH
@pytest.mark.parametrize("n_prefill", [0, 1, 3, 4, 7, 8, 11, 21])
def test_decode_parity(config: Config, n_prefill: int) -> None:
    mixer, x = build(config, causal=True), tokens(21)
    state = mixer.init_state(2, dtype=torch.float64, device="cpu")
    ys = []
    if n_prefill:
        y, state = mixer.prefill(x[:, :n_prefill], state)
        ys += list(y.unbind(1))
    for token in x[:, n_prefill:].unbind(1):
        before = {name: t.clone() for name, t in state.items()}
        y, after = mixer.step(token, state)
        assert all(torch.equal(before[name], state[name]) for name in before), (
            "a step must not write its state"
        )
        ys.append(y)
        state = after
    torch.testing.assert_close(torch.stack(ys, dim=1), mixer(x), rtol=1e-12, atol=1e-13)


@EACH
def test_decode_state_holds_the_open_span_and_two_vectors_per_closed_one(config: Config) -> None:
    mixer = build(config, causal=True)
    d_inner = config.n_heads * config.head_width(8)
    state = mixer.init_state(1, dtype=torch.float64, device="cpu")
    for t, token in enumerate(tokens(2 * config.span + 1, batch=1).unbind(1)):
        held = sum(cache.nbytes for cache in state.values())
        assert held == 8 * d_inner * (1 + 2 * (t // config.span + t % config.span))
        ctx = CostContext(8, 1, causal=True, dtype="float64", phase="decode", context_len=t)
        cost = config.cost(ctx)
        assert held == cost.state_bytes + t * cost.kv_bytes_per_token
        _, state = mixer.step(token, state)


@SIDES
@EACH
@pytest.mark.parametrize("length", [1, 2, 31, 64, 65])
def test_cost_counts_what_runs(config: Config, length: int, causal: bool) -> None:
    mixer = build(config, causal=causal).float()
    cost = config.cost(CostContext(d_model=8, seq_len=length, batch_size=2, causal=causal))
    for args in (
        (tokens(length).float(),),
        (tokens(length).float(), torch.ones(2, length, dtype=torch.bool)),
    ):
        counted = count_macs(mixer, args)
        assert counted.unknown_ops == ()
        assert cost.flops == 2 * counted.macs
    assert cost.params == sum(p.numel() for p in mixer.parameters())


@SIDES
@pytest.mark.parametrize("span", [1, 3, 8, 50])
@pytest.mark.parametrize("length", [1, 2, 9, 16, 17])
def test_needed_flops_count_the_pattern(length: int, span: int, causal: bool) -> None:
    i, n = torch.arange(length), -(-length // span)
    direct = (i[:, None] // span == i // span) & ((i[:, None] >= i) if causal else torch.tensor(True))
    u = torch.arange(n)
    read = (i[:, None] // span > u) if causal else (i[:, None] // span != u)
    summarised = torch.isin(i // span, u[read.any(0)])
    ctx = CostContext(d_model=8, seq_len=length, causal=causal)
    cost = Config(n_heads=2, span=span).cost(ctx)
    maps = 2 * length * cost.params
    pairs = int(direct.sum() + read.sum() + summarised.sum())
    assert cost.flops_needed - maps == 4 * 8 * pairs
    assert cost.flops_needed <= cost.flops


@EACH
@pytest.mark.parametrize("context", [0, 1, 3, 6, 7, 13, 20])
def test_decode_cost_counts_one_step(config: Config, context: int) -> None:
    mixer, x = build(config, causal=True).float(), tokens(21).float()
    state = mixer.init_state(2, dtype=torch.float32, device="cpu")
    if context:
        _, state = mixer.prefill(x[:, :context], state)
    ctx = CostContext(d_model=8, seq_len=1, batch_size=2, causal=True, phase="decode", context_len=context)
    counted = count_macs(mixer, (x[:, context], state), method="step")
    assert counted.unknown_ops == ()
    assert config.cost(ctx).flops == 2 * counted.macs


def test_biases_start_at_zero_and_count() -> None:
    config = Config(n_heads=12, span=128, qkv_bias=True, out_bias=True)
    cost = config.cost(CostContext(d_model=768, seq_len=1, causal=True))
    assert cost.params == 4 * 768**2 + 4 * 768
    mixer = build(CONFIGS["span_7_biases"], causal=True)
    assert not mixer.qkv.bias.any()
    assert not mixer.out.bias.any()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"span": 0}, "greater than 0"),
        ({"n_heads": 0}, "greater than 0"),
        ({"variant": "learnable"}, "'fixed'"),
        ({"local_summary": "relu-median"}, "'identity-max'"),
        ({"window": 3}, "window"),
        ({"variant": "logsparse", "span": 8}, r"'span' \(8\) means nothing to variant 'logsparse'"),
        ({"variant": "axial", "local_summary": "relu-max"}, "'local_summary'"),
        ({"row_summary": "proj"}, "'row_summary'"),
        ({"groups": "vertical"}, "'groups'"),
        ({"variant": "mixture", "compat": "official"}, "'compat'"),
    ],
)
def test_config_refuses(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config(**fields)


def test_misfit_and_smells_name_fields_and_values() -> None:
    assert Config(n_heads=3).misfit(Site(64, 8, True)) == (
        "d_model 64 is not a multiple of n_heads 3 (or set d_head)"
    )
    assert Config(n_heads=3, d_head=4).misfit(Site(64, 8, True)) is None
    assert Config(span=64).smells(Site(64, 64, True)) == ["span 64 >= seq_len 64: full attention in disguise"]
    assert Config(span=1).smells(Site(64, 64, True)) != []
    assert Config(span=32).smells(Site(64, 64, True)) == []


@SIDES
@EACH
def test_exports(config: Config, causal: bool) -> None:
    mixer, x = build(config, causal=causal), tokens(30)
    mask = torch.arange(30) < torch.tensor([[30], [19]])
    for args in ((x,), (x, mask)):
        exported = torch.export.export(mixer, args).module()
        torch.testing.assert_close(exported(*args), mixer(*args), rtol=1e-12, atol=1e-13)


@SIDES
def test_bfloat16_stays_close(causal: bool) -> None:
    for config in CONFIGS.values():
        mixer, x = build(config, causal=causal).float(), tokens(40).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = mixer(x)
        torch.testing.assert_close(y.float(), mixer(x), rtol=0.05, atol=0.05)
