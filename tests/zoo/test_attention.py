"""Attention: what is its own beside the contract of every component."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from archspec import CostContext, Site
from compiler.cost.fvcore_check import count_macs
from zoo.token_mixers.attention import Attention

Config = Attention.Config
CONFIGS = {
    "plain": Config(n_heads=2),
    "grouped": Config(n_heads=4, n_kv_heads=2),
    "window": Config(n_heads=2, n_kv_heads=1, window=5),
    "conv": Config(n_heads=2, d_conv=4, qkv_bias=True, out_bias=True),
    "window_conv": Config(n_heads=3, d_head=2, window=3, d_conv=3, rope_base=100.0),
    "no_rope": Config(n_heads=1, d_head=3, rope=False),
    "window_1": Config(n_heads=2, window=1),
}
SIDES = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def build(config: Config, *, causal: bool, d_model: int = 8, seed: int = 0) -> Attention:
    torch.manual_seed(seed)
    return Attention(config, Site(d_model, 64, causal)).double()


def tokens(length: int, *, batch: int = 2, d_model: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, d_model, generator=generator, dtype=torch.float64)


@SIDES
@EACH
@pytest.mark.parametrize("length", [1, 2, 37])
def test_forward_is_reference(config: Config, length: int, causal: bool) -> None:
    mixer, x = build(config, causal=causal), tokens(length)
    torch.testing.assert_close(mixer(x), mixer.reference(x), rtol=1e-12, atol=1e-12)


@SIDES
@EACH
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(config: Config, side: str, causal: bool) -> None:
    mixer, x = build(config, causal=causal), tokens(40)
    pad = 1e2 * torch.randn(2, 9, 8, dtype=torch.float64)
    both, keep = ([x, pad], slice(0, 40)) if side == "right" else ([pad, x], slice(9, 49))
    mask = torch.zeros(2, 49, dtype=torch.bool)
    mask[:, keep] = True
    padded = torch.cat(both, dim=1)
    torch.testing.assert_close(mixer(padded, mask)[:, keep], mixer(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixer.reference(padded, mask)[:, keep], mixer(x), rtol=1e-10, atol=1e-10)


@EACH
@pytest.mark.parametrize("n_prefill", [0, 1, 2, 11])
def test_step_is_forward(config: Config, n_prefill: int) -> None:
    mixer, x = build(config, causal=True), tokens(21)
    state = mixer.init_state(2, dtype=torch.float64, device="cpu")
    ys = []
    if n_prefill:
        y, state = mixer.prefill(x[:, :n_prefill], state)
        ys += list(y.unbind(1))
    for token in x[:, n_prefill:].unbind(1):
        y, state = mixer.step(token, state)
        ys.append(y)
    torch.testing.assert_close(torch.stack(ys, dim=1), mixer(x), rtol=1e-12, atol=1e-12)


@EACH
def test_decode_caches_have_the_size_that_cost_says(config: Config) -> None:
    mixer = build(config, causal=True)
    cost = config.cost(CostContext(d_model=8, seq_len=1, causal=True, dtype="float64"))
    state = mixer.init_state(1, dtype=torch.float64, device="cpu")
    _, later = mixer.prefill(tokens(10, batch=1), state)
    bytes_of = [sum(t.nbytes for t in s.values()) for s in (state, later)]
    assert bytes_of == [cost.state_bytes, cost.state_bytes + 10 * cost.kv_bytes_per_token]


@SIDES
@EACH
@pytest.mark.parametrize("length", [1, 33, 64, 100])
def test_cost_counts_what_runs(config: Config, length: int, causal: bool) -> None:
    mixer = build(config, causal=causal).float()
    cost = config.cost(CostContext(d_model=8, seq_len=length, batch_size=2, causal=causal))
    counted = count_macs(mixer, (tokens(length).float(),))
    assert counted.unknown_ops == ()
    assert cost.flops == 2 * counted.macs
    assert cost.flops_needed <= cost.flops
    assert cost.params == sum(p.numel() for p in mixer.parameters())


@EACH
def test_decode_cost_counts_one_step(config: Config) -> None:
    mixer = build(config, causal=True).float()
    x = tokens(7).float()
    _, state = mixer.prefill(x[:, :6], mixer.init_state(2, dtype=torch.float32, device="cpu"))

    cost = config.cost(
        CostContext(d_model=8, seq_len=1, batch_size=2, causal=True, phase="decode", context_len=6)
    )
    assert cost.flops == 2 * count_macs(mixer, (x[:, 6], state), method="step").macs


def test_a_window_as_long_as_the_sequence_is_full_attention() -> None:
    x = tokens(30)
    for causal in (True, False):
        full, windowed = (build(Config(n_heads=2, window=w), causal=causal) for w in (None, 30))
        torch.testing.assert_close(full(x), windowed(x), rtol=0, atol=0)


def test_window_counts_the_query_itself() -> None:
    x = tokens(12).requires_grad_()
    reach = {}
    for causal in (True, False):
        y = build(Config(n_heads=2, window=3), causal=causal)(x)
        (gradient,) = torch.autograd.grad(y[0, 6].sum(), x)
        reach[causal] = gradient[0].abs().sum(-1).nonzero().flatten().tolist()
    assert reach == {True: [4, 5, 6], False: [4, 5, 6, 7, 8]}


def test_rope_sees_distances_only() -> None:
    """Shifting a sequence by left padding moves every position by the same amount, and changes nothing."""
    mixer, x = build(Config(n_heads=2), causal=False), tokens(9)
    swapped = x[:, torch.randperm(9, generator=torch.Generator().manual_seed(1))]
    assert not torch.allclose(mixer(x).sum(1), mixer(swapped).sum(1))
    blind = build(Config(n_heads=2, rope=False), causal=False)
    torch.testing.assert_close(blind(x).sum(1), blind(swapped).sum(1))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_heads": 6, "n_kv_heads": 4}, "n_heads 6 is not a multiple of n_kv_heads 4"),
        ({"d_head": 5}, "d_head 5 is odd"),
        ({"window": 0}, "greater than 0"),
    ],
)
def test_config_refuses(fields: dict[str, int], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config(**fields)


def test_misfit_names_both_fields() -> None:
    assert Config(n_heads=3).misfit(Site(64, 8, True)) == (
        "d_model 64 is not a multiple of n_heads 3 (or set d_head)"
    )
    assert "odd width 3" in (Config(n_heads=2).misfit(Site(6, 8, True)) or "")
    assert Config(n_heads=3, d_head=4).misfit(Site(64, 8, True)) is None


def test_bfloat16_stays_close() -> None:
    for config in CONFIGS.values():
        mixer, x = build(config, causal=True).float(), tokens(40).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = mixer(x)
        torch.testing.assert_close(y.float(), mixer(x), rtol=0.05, atol=0.05)


@SIDES
@EACH
def test_exports(config: Config, causal: bool) -> None:
    mixer, x = build(config, causal=causal), tokens(40)
    mask = torch.arange(40) < torch.tensor([[40], [25]])
    for args in ((x,), (x, mask)):
        exported = torch.export.export(mixer, args).module()
        torch.testing.assert_close(exported(*args), mixer(*args), rtol=1e-12, atol=1e-12)
